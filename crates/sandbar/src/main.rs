//! The one binary: its command line, and the wiring of what other crates do. No logic that belongs elsewhere.
//!
//! - `cli/`, `client/`: commands for users, and the REST client that they speak through.
//! - `up/`: the whole platform on one machine. `host_agent.rs`: a host alone.
//! - `doctor/`: what this machine can do, and what to do about what it cannot.

mod cli;
mod client;
mod data_dir;
mod first_run;
mod logging;
mod shutdown;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use cli::{CpArgs, RunArgs, SandboxArgs};
use logging::LogArgs;

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
    Run(RunArgs),
    #[command(visible_alias = "sb")]
    Sandbox(SandboxArgs),
    Cp(CpArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.log.start();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sandbar: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Run(args) => args.run().await,
            Command::Sandbox(args) => args.run().await,
            Command::Cp(args) => args.run().await,
        }
    });
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
            "sandbox list --status running,paused --json",
            "sb ls --all",
            &format!("sandbox exec {id} --user root -- id"),
            &format!("sandbox kill {id} {id}"),
            &format!("cp - {id}:/tmp/x"),
            "--log-format json sandbox list --url http://x --api-key k",
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
            "sandbox get sb-1",
            "sandbox get host-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e",
            "sandbox list --status sleeping",
            "sandbox list --all --status running",
            "sandbox kill",
        ] {
            let words = std::iter::once("sandbar").chain(bad.split(' ').filter(|word| !word.is_empty()));
            assert!(Arguments::try_parse_from(words).is_err(), "{bad}");
        }
    }
}
