//! The one binary: its command line, and the wiring of what other crates do. No logic that belongs elsewhere.
//!
//! - `cli/`, `client/`: commands for users, and the REST client that they speak through.
//! - `operator/`: commands for the platform's operator, which go to its database.
//! - `up/`: the whole platform on one machine. `host_agent.rs`: a host alone.
//! - `doctor/`: what this machine can do, and what to do about what it cannot.

mod cli;
mod client;
mod dashboard;
mod data_dir;
mod doctor;
mod down;
mod figures;
mod first_run;
mod guest_binaries;
mod host_agent;
mod logging;
mod master_key;
mod operator;
mod process;
mod shutdown;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use cli::{CpArgs, HostArgs, RunArgs, SandboxArgs, SecretArgs, SnapshotArgs, TemplateArgs, VolumeArgs};
use doctor::DoctorArgs;
use down::DownArgs;
use host_agent::HostAgentArgs;
use logging::LogArgs;
use operator::{AdminArgs, AuditArgs};
use sandbar_trace::{ExportError, Exporter};
use up::UpArgs;

/// Run untrusted code in microVMs, on your own machines
#[derive(Debug, Parser)]
#[command(name = "sandbar", version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(Box<UpArgs>),
    Down(DownArgs),
    Doctor(DoctorArgs),
    Run(RunArgs),
    #[command(visible_alias = "sb")]
    Sandbox(SandboxArgs),
    Snapshot(SnapshotArgs),
    Template(TemplateArgs),
    Secret(SecretArgs),
    Volume(VolumeArgs),
    Cp(CpArgs),
    Host(HostArgs),
    HostAgent(Box<HostAgentArgs>),
    Admin(AdminArgs),
    Audit(AuditArgs),
    /// Print the OpenAPI document of the REST API, as JSON
    Openapi,
}

impl Command {
    /// Of the parts of the platform. What people run traces nothing.
    fn exporter(&self) -> Result<Option<Exporter>, ExportError> {
        match self {
            Self::Up(_) => Exporter::from_env("sandbar-control-plane"),
            Self::HostAgent(_) => Exporter::from_env("sandbar-host-agent"),
            _ => Ok(None),
        }
    }
}

/// Reads `.env` for the one command that does: a host's settings are often kept in one. Before the first thread, since it
/// changes the environment, and before the arguments, whose defaults come from there.
fn load_dot_env() {
    let is_host_agent =
        std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "host-agent");
    if is_host_agent
        && let Err(error) = dotenvy::dotenv()
        && !error.not_found()
    {
        eprintln!("sandbar: the file .env is not understood: {error}");
    }
}

fn main() -> ExitCode {
    load_dot_env();
    let arguments = Arguments::parse();
    arguments.log.start();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sandbar: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exporter = match runtime.block_on(async { arguments.command.exporter() }) {
        Ok(exporter) => exporter,
        Err(error) => {
            eprintln!("sandbar: {:#}", anyhow::Error::new(error));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Up(args) => args.run().await,
            Command::Down(args) => args.run().await,
            Command::Doctor(args) => args.run().await,
            Command::HostAgent(args) => args.run().await,
            Command::Admin(args) => args.run().await,
            Command::Audit(args) => args.run().await,
            Command::Openapi => {
                print!("{}", sandbar_api::openapi_json()?);
                Ok(ExitCode::SUCCESS)
            }
            Command::Run(args) => args.run().await,
            Command::Sandbox(args) => args.run().await,
            Command::Snapshot(args) => args.run().await,
            Command::Template(args) => args.run().await,
            Command::Secret(args) => args.run().await,
            Command::Volume(args) => args.run().await,
            Command::Cp(args) => args.run().await,
            Command::Host(args) => args.run().await,
        }
    });
    if let Some(exporter) = exporter {
        exporter.shut_down();
    }
    // Not waited for: a thread that reads standard input may never return.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        eprintln!("sandbar: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn takes_what_users_write_and_refuses_what_makes_no_sense() {
        let id = "sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e";
        for good in [
            "run -- ls -la",
            "run --template base --env A=b --timeout 10 -- sh -c true",
            "sandbox create --vcpus 2 --metadata a=b --json",
            "sandbox create --secret TOKEN=github-token --secret KEY=k",
            "run --secret TOKEN=github-token -- true",
            "secret set github-token --from-file token",
            "secret rm a b",
            "run --volume data:/data --volume more:/srv/more -- true",
            "sandbox create --volume data:/data",
            "volume create data --size-mb 20480",
            "volume ls --json",
            "volume show data",
            "volume rm a b",
            "up --largest-volume-mb 20480",
            "sandbox list --status running,paused --json",
            "sb ls --all",
            &format!("sandbox exec {id} --user root -- id"),
            &format!("sandbox kill {id} {id}"),
            "sandbox create --timeout 60 --on-timeout pause",
            &format!("sandbox pause {id} {id}"),
            &format!("sandbox resume {id} --timeout 0 --on-timeout kill"),
            &format!("sandbox fork {id} -n 3 --json"),
            &format!("sandbox timeout {id} 300 --on-timeout pause"),
            &format!("sandbox metrics {id} --range 24h --json"),
            &format!("snapshot create {id} work-1.0 --overwrite"),
            &format!("snapshot create {id}"),
            "snapshot ls --type base --json",
            "snapshot delete a b",
            "snapshot verify work",
            &format!("cp - {id}:/tmp/x"),
            "--log-format json sandbox list --url http://x --api-key k",
            "up --data-dir /tmp/x --listen 127.0.0.1:0 --network 10.9.0.0/16 --detach",
            "down",
            "doctor --json",
            "host-agent --control-url http://x --store-size 10",
            "host-agent --control-url http://x --vmm firecracker",
            "up --vmm qemu",
            "up --no-host --database-url postgres://db/sandbar",
            "up --sandbox-disk-iops 0 --sandbox-disk-mbps 100 --sandbox-network-mbit 50 --vmm-users 900000",
            "openapi",
            "admin grant ann@example.org",
            "admin reset-password ann@example.org --data-dir /tmp/x",
            "admin quota team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e --sandboxes 5 --vcpus default",
            "up --default-quota sandboxes=20,memory_mb=8192",
            "audit export --from 2026-01-01T00:00:00Z --action create,destroy",
            "up --oauth-config /etc/sandbar/oauth.toml --audit-retention-days 90 --trusted-proxy 10.0.0.0/8",
        ] {
            let words = std::iter::once("sandbar").chain(good.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{good}");
        }
        for bad in [
            "",
            "run",
            "run ls",
            "run --timeout 0 -- ls",
            "run --env A -- ls",
            "secret set github-token ghp_value",
            "secret set sec_x",
            "volume create a.b",
            "volume create data --size-mb 1",
            "run --volume data -- true",
            "run --volume data:here -- true",
            "run --volume data:/etc -- true",
            "sandbox get sb-1",
            "sandbox get host-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e",
            "sandbox list --status sleeping",
            "sandbox list --all --status running",
            "sandbox kill",
            "sandbox pause",
            "sandbox create --on-timeout sleep",
            &format!("sandbox timeout {id}"),
            &format!("sandbox metrics {id} --range 1h"),
            &format!("snapshot create {id} --overwrite"),
            "snapshot create work",
            "snapshot verify ../etc",
            "snapshot list --type other",
            "up --listen 8080",
            "up --network 10.9.0.0",
            "up --vmm-users 1000",
            "host-agent",
            "admin grant",
            "admin quota ann",
            "admin quota team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e --builds few",
            "up --default-quota sandboxes",
            "up --default-quota hosts=3",
            "audit export --from yesterday",
            "up --audit-retention-days 0",
            "up --vmm xen",
        ] {
            let words = std::iter::once("sandbar").chain(bad.split(' ').filter(|word| !word.is_empty()));
            assert!(Arguments::try_parse_from(words).is_err(), "{bad}");
        }
    }
}
