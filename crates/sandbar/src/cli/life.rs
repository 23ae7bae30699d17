//! `sandbar sandbox pause`, `resume`, `fork`, `timeout`, `metrics`.

use std::process::ExitCode;

use clap::Args;
use sandbar_types::{Id, MetricsRange, OnTimeout, id};

use super::run::report;
use super::sandbox::print_json;
use super::table;
use crate::client::{Child, Client, Memory, NewFork, Resume, Timeout};

/// Pause sandboxes: keep their memory and disk, and give back processor, memory and network
///
/// Their processes go on with `resume`, days later if need be.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    ids: Vec<Id<id::Sandbox>>,

    /// Keep their disks alone: their processes end, and they boot with `resume`
    #[arg(long)]
    no_memory: bool,
}

/// Let paused sandboxes go on where they were
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    ids: Vec<Id<id::Sandbox>>,

    /// Boot them from their disks, and drop the memory that was kept
    #[arg(long)]
    reboot: bool,

    #[command(flatten)]
    timeout: TimeoutOptions,
}

/// Make running copies of a running sandbox, and print their ids
///
/// Each goes on from the same instant, with a disk, token, hostname, entropy and address of its own. The sandbox runs on. The exit code
/// is 1 when some could not be made.
#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// How many, up to 20
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 1)]
    count: u32,

    #[command(flatten)]
    timeout: TimeoutOptions,

    /// Print one result for each, as a JSON array
    #[arg(long)]
    json: bool,
}

/// Change when a running sandbox ends by itself
#[derive(Debug, Args)]
pub(super) struct TimeoutArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// Idle seconds from now on, 0 = never
    #[arg(value_name = "SECONDS")]
    seconds: u32,

    /// What happens then: `kill`, `pause` or `pause_filesystem` [default: as it was]
    #[arg(long, value_name = "WORD")]
    on_timeout: Option<OnTimeout>,
}

/// Show what a sandbox used
#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// How far back: `10m` (every half second), `2h` (every half minute) or `24h` (every five minutes)
    #[arg(long, value_name = "RANGE", default_value = "10m")]
    range: MetricsRange,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A time-out that need not be given.
#[derive(Debug, Args)]
struct TimeoutOptions {
    /// Idle seconds after which it ends, 0 = never [default: as it was]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,

    /// What happens then: `kill`, `pause` or `pause_filesystem` [default: as it was]
    #[arg(long, value_name = "WORD")]
    on_timeout: Option<OnTimeout>,
}

impl From<TimeoutOptions> for Timeout {
    fn from(TimeoutOptions { timeout, on_timeout }: TimeoutOptions) -> Self {
        Self { timeout_sec: timeout, on_timeout }
    }
}

/// Goes on after a failure: the others are to be paused all the same.
pub(super) async fn pause(client: &Client, args: PauseArgs) -> ExitCode {
    let PauseArgs { ids, no_memory } = args;
    let memory = Memory::of(!no_memory);
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match client.pause_sandbox(id, memory).await {
            Ok(_) => println!("{id}"),
            Err(error) => {
                code = report(&anyhow::Error::from(error).context(format!("{id} could not be paused")), 1);
            }
        }
    }
    code
}

/// Goes on after a failure.
pub(super) async fn resume(client: &Client, args: ResumeArgs) -> ExitCode {
    let ResumeArgs { ids, reboot, timeout } = args;
    let resume = Resume { timeout: timeout.into(), memory: Memory::of(!reboot) };
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match client.resume_sandbox(id, resume).await {
            Ok(_) => println!("{id}"),
            Err(error) => {
                code = report(&anyhow::Error::from(error).context(format!("{id} could not be resumed")), 1);
            }
        }
    }
    code
}

pub(super) async fn fork(client: &Client, args: ForkArgs) -> anyhow::Result<ExitCode> {
    let ForkArgs { id, count, timeout, json } = args;
    let children = client.fork_sandbox(id, NewFork { count, timeout: timeout.into() }).await?;
    if json {
        print_json(&children)?;
    }
    let mut code = ExitCode::SUCCESS;
    for child in &children {
        match child {
            Child::Sandbox(sandbox) if !json => println!("{}", sandbox.id),
            Child::Sandbox(_) => {}
            Child::Error(error) => {
                let what = format!("a child could not be made: {} ({})", error.message, error.code);
                code = report(&anyhow::Error::msg(what), 1);
            }
        }
    }
    Ok(code)
}

pub(super) async fn timeout(client: &Client, args: TimeoutArgs) -> anyhow::Result<ExitCode> {
    let TimeoutArgs { id, seconds, on_timeout } = args;
    let sandbox = client.set_timeout(id, Timeout { timeout_sec: Some(seconds), on_timeout }).await?;
    match sandbox.expires_at {
        Some(at) => println!("{id} ends at {} unless it is used before", at.to_rfc3339()),
        None => println!("{id} does not end by itself"),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn metrics(client: &Client, args: MetricsArgs) -> anyhow::Result<ExitCode> {
    let MetricsArgs { id, range, json } = args;
    let metrics = client.metrics(id, range).await?;
    if json {
        print_json(&metrics)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = metrics
        .points
        .iter()
        .map(|point| {
            [
                point.timestamp.format("%F %T%.3f").to_string(),
                format!("{:.1} %", point.cpu_pct),
                table::mebibytes(point.mem_bytes),
                table::mebibytes(point.disk_bytes),
            ]
        })
        .collect();
    print!("{}", table::render(["TIME", "CPU", "MEMORY", "DISK"], &rows));
    Ok(ExitCode::SUCCESS)
}
