//! `sandbar run`: a sandbox for one command.

use std::process::ExitCode;

use clap::Args;
use sandbar_types::{Id, id};

use super::attach::{AttachError, CommandArgs, attach};
use super::pairs::pair;
use super::volume::mount;
use super::{EndpointArgs, exit};
use crate::client::{Client, Mount, NewSandbox};
use crate::shutdown::Signals;

/// Idle seconds after which the host ends the sandbox of a `run` that was killed before it could.
const ABANDONED_AFTER_SEC: u32 = 300;

/// Run one command in a new sandbox, and destroy the sandbox when it ends
///
/// Standard input, output and error are those of the command, byte for byte. The exit code is the command's own; 124 when it ran
/// longer than --timeout, 125 when Sandbar could not run it, 255 when a signal ended it in the sandbox, 130 or 143 when this
/// program was interrupted or terminated. The sandbox is destroyed in every case.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sandbar run -- python3 -c 'print(6 * 7)'\n  tar c . | sandbar run -- sh -c 'tar x && ls'\n  \
    sandbar run --timeout 10 --env NAME=world -- sh -c 'echo hello $NAME'"
)]
pub(crate) struct RunArgs {
    /// Template to start from [default: base]
    #[arg(long, short, value_name = "NAME")]
    template: Option<String>,

    /// Entry for the sandbox's metadata, by which it can be listed; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// Variable whose value is the secret of this name; may be repeated
    #[arg(long = "secret", value_name = "VARIABLE=NAME", value_parser = pair)]
    secrets: Vec<(String, String)>,

    /// Volume to mount; may be repeated
    #[arg(long = "volume", value_name = "NAME:/PATH", value_parser = mount)]
    volumes: Vec<Mount>,

    #[command(flatten)]
    command: CommandArgs,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

impl RunArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.endpoint.client()?;
        let mut signals = Signals::listen()?;
        let new = NewSandbox {
            template: self.template,
            timeout_sec: Some(ABANDONED_AFTER_SEC),
            metadata: self.metadata.into_iter().collect(),
            secrets: self.secrets.into_iter().collect(),
            volumes: self.volumes,
            ..NewSandbox::default()
        };
        let creating = client.create_sandbox(&new);
        tokio::pin!(creating);
        // A create that was begun is waited for even after a signal: without its answer the sandbox would be left behind.
        let (created, signal) = tokio::select! {
            created = &mut creating => (created, None),
            signal = signals.next() => (creating.await, Some(signal)),
        };
        let sandbox = match created {
            Ok(sandbox) => sandbox,
            Err(error) => return Ok(report(&error.into(), exit::FAILED)),
        };
        let start = self.command.start();
        let code = match signal {
            Some(signal) => signal.exit_code(),
            None => tokio::select! {
                ended = attach(&client, sandbox.id, &start) => match ended {
                    Ok(ended) => ended.0,
                    Err(error) => {
                        let code = AttachError::exit_code(&error);
                        report(&error.into(), code);
                        code
                    }
                },
                signal = signals.next() => signal.exit_code(),
            },
        };
        tokio::select! {
            () = destroy(&client, sandbox.id) => {}
            // Asked twice: out at once. The sandbox goes when it has been idle for long enough.
            signal = signals.next() => return Ok(ExitCode::from(signal.exit_code())),
        }
        Ok(ExitCode::from(code))
    }
}

async fn destroy(client: &Client, id: Id<id::Sandbox>) {
    match client.delete_sandbox(id).await {
        Ok(()) => {}
        // It is gone already.
        Err(error) if error.code() == Some("not_found") => {}
        Err(error) => {
            eprintln!(
                "sandbar: sandbox {id} could not be destroyed (it will be once it has been idle for {ABANDONED_AFTER_SEC} s): {:#}",
                anyhow::Error::from(error)
            );
        }
    }
}

/// Says what went wrong and gives the exit code that says so, too.
pub(super) fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("sandbar: {error:#}");
    ExitCode::from(code)
}
