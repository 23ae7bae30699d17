//! A second host beside the platform's own, and a third: agents like any other, with a folder, a network and a store of their own on the
//! same machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use sandbar_tests::census::{Footprint, signal};
use sandbar_tests::{Cli, Client, Platform, wait};
use serde_json::json;
use tokio::process::Child;

/// An agent's first start prepares a kernel, and boots a guest to see what it can.
const START_LIMIT: Duration = Duration::from_secs(300);

/// The hosts as the first person of the platform sees them. One sign-in for all that is asked: they are counted.
pub(crate) struct Fleet<'a> {
    platform: &'a Platform,
    token: String,
}

impl<'a> Fleet<'a> {
    pub(crate) async fn sign_in(platform: &'a Platform) -> Result<Self> {
        let who = platform.first_run()?;
        let body = json!({"email": who["email"], "password": who["password"]});
        let signed_in = Client::new(platform.url(), None)?.post("/v1/auth/login", &body).await?.json(200)?;
        let token = signed_in["token"].as_str().context("no token")?.to_owned();
        Ok(Self { platform, token })
    }

    async fn host(&self, arguments: &[&str]) -> Result<String> {
        let arguments: Vec<_> = ["host"].into_iter().chain(arguments.iter().copied()).collect();
        Ok(self.platform.cli(&arguments).env("SANDBAR_TOKEN", &self.token).run().await?.expect(0)?.text())
    }

    pub(crate) async fn drain(&self, host: &str) -> Result<()> {
        self.host(&["drain", host]).await.map(|_| ())
    }

    pub(crate) async fn end_drain(&self, host: &str) -> Result<()> {
        self.host(&["drain", host, "--end"]).await.map(|_| ())
    }
}

pub(crate) struct SecondHost<'a> {
    platform: &'a Platform,
    pub(crate) footprint: Footprint,
    dir: PathBuf,
    port: u16,
    pub(crate) id: String,
    token: String,
    name: &'static str,
    control_url: String,
    network: String,
    agent: Option<Child>,
}

impl<'a> SecondHost<'a> {
    /// Adds a host, and starts its agent with the one-time token.
    pub(crate) async fn join(platform: &'a Platform, fleet: &Fleet<'_>) -> Result<Self> {
        Self::join_as("second", platform, fleet, platform.url()).await
    }

    /// One more, which calls the control plane there.
    pub(crate) async fn join_third(
        platform: &'a Platform,
        fleet: &Fleet<'_>,
        control_url: String,
    ) -> Result<Self> {
        Self::join_as("third", platform, fleet, control_url).await
    }

    async fn join_as(
        name: &'static str,
        platform: &'a Platform,
        fleet: &Fleet<'_>,
        control_url: String,
    ) -> Result<Self> {
        // Not within, nor beginning like, the platform's own: what is whose is known by its folder.
        let of = platform.data_dir().file_name().context("no folder")?.to_string_lossy();
        let dir = platform.data_dir().with_file_name(format!("{name}-host-of-{of}"));
        let range = if name == "second" { "10.215." } else { "10.216." };
        let network = platform.network().replace("10.214.", range);
        let footprint = Footprint::new(&dir);
        footprint.remove_everything()?;
        std::fs::create_dir_all(dir.join("host"))?;
        let added = fleet.host(&["add"]).await?;
        let (id, token) = added.trim().split_once('\n').context("no token")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (id, token) = (id.to_owned(), token.to_owned());
        let mut host =
            Self { platform, footprint, dir, port, id, token, name, control_url, network, agent: None };
        host.start().await?;
        Ok(host)
    }

    /// Starts the agent, and waits until it serves.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let listen = format!("127.0.0.1:{}", self.port);
        let data_dir = self.dir.join("host").to_string_lossy().into_owned();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.platform.data_dir().join(format!("log/{}-host.log", self.name)))?;
        let url = &self.control_url;
        let arguments = ["host-agent", "--data-dir", &data_dir, "--control-url", url, "--listen", &listen];
        let more = ["--network", &self.network, "--vmm", "qemu", "--warm-pool", "off"];
        let sizes = ["--spare-networks", "1", "--store-size", "8"];
        let agent = Cli::new(self.platform.binary(), arguments.into_iter().chain(more).chain(sizes))
            .env("SANDBAR_REGISTER_TOKEN", &self.token)
            .env("RUST_LOG", "info")
            .into_command()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.agent = Some(agent);
        wait::until_true("the host serves", START_LIMIT, async || {
            let ended = self.agent.as_mut().context("it was not started")?.try_wait()?;
            anyhow::ensure!(ended.is_none(), "its agent ended: {ended:?}");
            Ok(tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok())
        })
        .await
    }

    /// Kills the agent. Its machines run on.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("it does not run")?;
        Ok(agent.kill().await?)
    }

    /// Sends its agent a signal.
    pub(crate) fn send(&self, what: Signal) -> Result<()> {
        let pid = self.agent.as_ref().and_then(Child::id).context("it does not run")?;
        signal(pid.cast_signed(), what)
    }

    /// The templates in its store.
    pub(crate) fn templates(&self) -> Result<usize> {
        Ok(std::fs::read_dir(self.footprint.store_dir().join("templates"))?.count())
    }

    /// The sandboxes of which it has a record.
    pub(crate) fn recorded(&self) -> Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(self.footprint.host_dir().join("journal"))?;
        entries
            .map(|entry| {
                let name = entry?.file_name().to_string_lossy().into_owned();
                Ok(name.split('.').next().unwrap_or_default().to_owned())
            })
            .collect()
    }

    /// Takes it away with all that it has.
    pub(crate) async fn leave(mut self, fleet: &Fleet<'_>) -> Result<()> {
        fleet.host(&["delete", &self.id, "--force"]).await?;
        if let Some(mut agent) = self.agent.take() {
            signal(agent.id().context("it has ended before")?.cast_signed(), Signal::TERM)?;
            tokio::time::timeout(START_LIMIT, agent.wait()).await.context("the agent does not end")??;
        }
        self.footprint.remove_everything()
    }
}

impl Drop for SecondHost<'_> {
    fn drop(&mut self) {
        // Only where the test failed: nothing of it must stay in the way of those after it.
        if let Some(agent) = &mut self.agent {
            let _ended = agent.start_kill();
        }
        let _removed = self.footprint.remove_everything();
    }
}
