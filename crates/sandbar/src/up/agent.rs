//! This machine's host agent: a process of its own, in a session of its own, registered as every host is.
//!
//! It outlives a killed `up`, and its virtual machines outlive it. So a new `up` first ends the agent that an earlier one left,
//! and its own takes the machines over.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use sandbar_control::{Control, OpContext};
use sandbar_host_agent::{Config, InstanceLock, LockError};
use sandbar_types::Id;
use sandbar_types::id::Host;
use secrecy::ExposeSecret as _;
use tokio::process::Command;
use tracing::info;

use super::local_host::LocalHost;
use super::supervise::{Policy, Supervised, supervise};
use crate::data_dir::{DataDir, open_log, tail};
use crate::host_agent::{LimitArgs, REGISTER_VARIABLE, RegistryArgs, StoreArgs, VmmArgs};
use crate::process::Process;

/// How long an agent may take to end. It leaves its machines running, so there is little to do.
const END_LIMIT: Duration = Duration::from_secs(30);
/// An agent that fails so often before it ever answered is not going to.
pub(super) const HOPELESS_AFTER: u32 = 3;
/// Bytes of the agent's log that an error quotes.
const LOG_TAIL_BYTES: usize = 2000;

const POLICY: Policy = Policy {
    first_pause: Duration::from_millis(500),
    longest_pause: Duration::from_secs(30),
    healthy_after: Duration::from_secs(60),
    grace: END_LIMIT,
};

/// What the agent is told, beside who it is.
#[derive(Debug, Clone)]
pub(super) struct AgentOptions {
    pub(super) control_url: String,
    pub(super) network: String,
    pub(super) store: StoreArgs,
    pub(super) vmm: VmmArgs,
    pub(super) limits: LimitArgs,
    pub(super) registries: RegistryArgs,
    pub(super) metrics_listen: Option<SocketAddr>,
}

/// Ends the agent that an earlier `up` left, if there is one.
pub(super) async fn end_leftover(data: &DataDir) -> anyhow::Result<()> {
    let path = Config::lock_file(&data.host());
    let pid = match InstanceLock::take(&path) {
        Ok(_free) => return Ok(()),
        Err(LockError::Held { holder: Some(pid), .. }) => pid,
        Err(error) => return Err(error).context("cannot tell whether an earlier host agent still runs"),
    };
    let ending = || format!("cannot end the host agent {pid} that an earlier `sandbar up` left");
    let Some(process) = Process::open(pid).with_context(ending)? else { return Ok(()) };
    // Now that the process cannot be mistaken for another: is it still the one that holds the lock?
    match InstanceLock::take(&path) {
        Err(LockError::Held { holder: Some(holder), .. }) if holder == pid => {}
        _ => return Ok(()),
    }
    info!(pid, "ending the host agent that an earlier `sandbar up` left; its sandboxes run on");
    process.end(END_LIMIT).await.with_context(ending)
}

/// Starts the agent and keeps it running.
pub(super) fn start(data: &DataDir, control: &Control, host: LocalHost, options: AgentOptions) -> Supervised {
    let (data, control) = (data.clone(), control.clone());
    supervise("host agent", POLICY, move || {
        let (data, control, options) = (data.clone(), control.clone(), options.clone());
        async move { command(&data, &control, host, &options).await }.boxed()
    })
}

/// A new registration token for each start that needs one: one that was used is of no use, even if its answer was lost.
async fn command(
    data: &DataDir,
    control: &Control,
    host: LocalHost,
    options: &AgentOptions,
) -> anyhow::Result<Command> {
    let listen = SocketAddr::from(([127, 0, 0, 1], host.agent_port));
    let log = open_log(&data.log("host-agent"))?;
    // This very program, also when its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("host-agent")
        .arg("--data-dir")
        .arg(data.host())
        .args(["--control-url", &options.control_url, "--listen", &listen.to_string()])
        .args(["--network", &options.network])
        .args(options.store.as_arguments())
        .args(options.vmm.as_arguments())
        .args(options.limits.as_arguments())
        .args(options.registries.as_arguments())
        .args(options.metrics_listen.map(|address| format!("--metrics-listen={address}")))
        .current_dir("/")
        .env_remove("DATABASE_URL")
        .env_remove(crate::master_key::VARIABLE)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    own_session(&mut command);
    if !is_registered(data) {
        let token = control.host_issue_token(&OpContext::system(), host.host_id).await?;
        command.env(REGISTER_VARIABLE, token.expose_secret());
    }
    Ok(command)
}

/// Whether the agent has credentials of its own.
pub(super) fn is_registered(data: &DataDir) -> bool {
    Config::credentials_file(&data.host()).exists()
}

/// Away from the terminal and its signals: this process decides when its children end.
pub(super) fn own_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call, which takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into));
    }
}

/// Waits until the agent was heard of, or has failed too often.
pub(super) async fn await_heard(
    agent: &mut Supervised,
    heard: &mut tokio::sync::broadcast::Receiver<Id<Host>>,
    host: Id<Host>,
    log: &Path,
) -> anyhow::Result<()> {
    let is_heard = async {
        loop {
            match heard.recv().await {
                Ok(other) if other != host => {}
                // One that we missed among many may have been it; a heartbeat more is soon sent.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Ok(_) => return Ok(()),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => bail!("the control plane has ended"),
            }
        }
    };
    tokio::select! {
        heard = is_heard => heard,
        () = agent.failed(HOPELESS_AFTER) => {
            bail!("the host agent does not start; its log {} ends with:\n{}", log.display(), tail(log, LOG_TAIL_BYTES))
        }
    }
}
