//! `sandbar sandbox ...`: sandboxes that outlive one command.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use sandbar_types::{Id, OnTimeout, SandboxStatus, id};

use super::attach::{AttachError, CommandArgs, attach};
use super::network::{NetworkArgs, RulesArgs, network};
use super::pairs::pair;
use super::run::report;
use super::volume::mount;
use super::{EndpointArgs, table};
use super::{life, logs, shell};
use crate::client::{Client, Mount, NewSandbox, Sandbox, SandboxFilter};
use crate::shutdown::Signals;

/// Create, list, use, pause, fork and destroy sandboxes
#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(CreateArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Get(GetArgs),
    Exec(ExecArgs),
    Shell(shell::ShellArgs),
    Ps(shell::PsArgs),
    Logs(logs::LogsArgs),
    Network(NetworkArgs),
    Pause(life::PauseArgs),
    Resume(life::ResumeArgs),
    Fork(life::ForkArgs),
    Timeout(life::TimeoutArgs),
    Metrics(life::MetricsArgs),
    #[command(visible_alias = "rm")]
    Kill(KillArgs),
}

/// Create a sandbox and print its id
#[derive(Debug, Args)]
struct CreateArgs {
    /// Template to start from [default: base]
    #[arg(long, short, value_name = "NAME")]
    template: Option<String>,

    /// Virtual CPUs (a template with memory keeps its own number)
    #[arg(long, value_name = "NUMBER")]
    vcpus: Option<u32>,

    /// Memory in MiB (a template with memory keeps its own size)
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,

    /// End it once it has been idle for this many seconds [default: never]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,

    /// How it ends then: `kill`, `pause`, or `pause_filesystem` (without memory) [default: kill]
    #[arg(long, value_name = "WORD")]
    on_timeout: Option<OnTimeout>,

    /// Entry for its metadata, by which it can be listed; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// Variable for the environment of all its commands; may be repeated
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,

    /// Variable whose value is the secret of this name; may be repeated
    #[arg(long = "secret", value_name = "VARIABLE=NAME", value_parser = pair)]
    secrets: Vec<(String, String)>,

    /// Volume to mount; may be repeated
    #[arg(long = "volume", value_name = "NAME:/PATH", value_parser = mount)]
    volumes: Vec<Mount>,

    #[command(flatten)]
    rules: RulesArgs,

    /// Print all that is known of it, as JSON
    #[arg(long)]
    json: bool,
}

/// List sandboxes, newest first
#[derive(Debug, Args)]
struct ListArgs {
    /// Only these states; may be repeated [default: all but stopped and error]
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<SandboxStatus>,

    /// Stopped and failed ones too
    #[arg(long, short, conflicts_with = "status")]
    all: bool,

    /// Only those that started from this template
    #[arg(long, short, value_name = "NAME")]
    template: Option<String>,

    /// Only those with this entry in their metadata; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Show one sandbox
#[derive(Debug, Args)]
struct GetArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Run a command in a sandbox
///
/// Standard input, output and error are those of the command, byte for byte. The exit code is the command's own; 124 when it ran
/// longer than --timeout, 125 when Sandbar could not run it, 255 when a signal ended it in the sandbox. Ctrl-C kills the command;
/// the sandbox stays.
#[derive(Debug, Args)]
struct ExecArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    #[command(flatten)]
    command: CommandArgs,
}

/// Destroy sandboxes, with all that is in them
#[derive(Debug, Args)]
struct KillArgs {
    /// The sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    ids: Vec<Id<id::Sandbox>>,
}

impl SandboxArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.endpoint.client()?;
        match self.action {
            Action::Create(args) => create(&client, args).await,
            Action::List(args) => list(&client, args).await,
            Action::Get(args) => get(&client, &args).await,
            Action::Exec(args) => exec(&client, args).await,
            Action::Shell(args) => shell::shell(&client, args).await,
            Action::Ps(args) => shell::ps(&client, &args).await,
            Action::Logs(args) => logs::logs(&client, args).await,
            Action::Network(args) => network(&client, args).await,
            Action::Pause(args) => Ok(life::pause(&client, args).await),
            Action::Resume(args) => Ok(life::resume(&client, args).await),
            Action::Fork(args) => life::fork(&client, args).await,
            Action::Timeout(args) => life::timeout(&client, args).await,
            Action::Metrics(args) => life::metrics(&client, args).await,
            Action::Kill(args) => Ok(kill(&client, &args).await),
        }
    }
}

async fn create(client: &Client, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let CreateArgs {
        template,
        vcpus,
        memory_mb,
        timeout,
        on_timeout,
        metadata,
        env,
        secrets,
        volumes,
        rules,
        json,
    } = args;
    let new = NewSandbox {
        template,
        vcpus,
        memory_mb,
        timeout_sec: timeout,
        on_timeout,
        metadata: metadata.into_iter().collect(),
        env: env.into_iter().collect(),
        secrets: secrets.into_iter().collect(),
        volumes,
        network: rules.given(),
    };
    let sandbox = client.create_sandbox(&new).await?;
    if json {
        print_json(&sandbox)?;
    } else {
        println!("{}", sandbox.id);
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, args: ListArgs) -> anyhow::Result<ExitCode> {
    let ListArgs { status, all, template, metadata, json } = args;
    let status = if all { SandboxStatus::ALL.to_vec() } else { status };
    let filter = SandboxFilter { status, template, metadata: metadata.into_iter().collect() };
    let sandboxes = client.sandboxes(&filter).await?;
    if json {
        print_json(&sandboxes)?;
    } else {
        print!("{}", as_table(&sandboxes));
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(client: &Client, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let sandbox = client.sandbox(args.id).await?;
    if args.json {
        print_json(&sandbox)?;
    } else {
        print!("{}", as_table(std::slice::from_ref(&sandbox)));
        for (key, value) in &sandbox.metadata {
            println!("  {key}={value}");
        }
        if let Some(serde_json::Value::String(reason)) = sandbox.rest.get("status_reason") {
            println!("  {reason}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn exec(client: &Client, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let start = args.command.start();
    tokio::select! {
        ended = attach(client, args.id, &start) => Ok(match ended {
            Ok(ended) => ExitCode::from(ended.0),
            Err(error) => {
                let code = AttachError::exit_code(&error);
                report(&error.into(), code)
            }
        }),
        // Leaving closes the connection, which kills the command.
        signal = signals.next() => Ok(ExitCode::from(signal.exit_code())),
    }
}

/// Goes on after a failure: the others are to be destroyed all the same.
async fn kill(client: &Client, args: &KillArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for id in &args.ids {
        match client.delete_sandbox(*id).await {
            Ok(()) => println!("{id}"),
            Err(error) => {
                let error = anyhow::Error::from(error).context(format!("{id} could not be destroyed"));
                code = report(&error, 1);
            }
        }
    }
    code
}

pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn as_table(sandboxes: &[Sandbox]) -> String {
    let now = Utc::now();
    let rows: Vec<_> = sandboxes
        .iter()
        .map(|sandbox| {
            [
                sandbox.id.to_string(),
                sandbox.status.to_string(),
                sandbox.template.clone(),
                sandbox.vcpus.to_string(),
                format!("{} MiB", sandbox.memory_mb),
                format!("{} MiB", sandbox.disk_mb),
                table::age(sandbox.created_at, now),
                sandbox
                    .expires_at
                    .map_or_else(|| "never".to_owned(), |at| format!("in {}", table::age(now, at))),
            ]
        })
        .collect();
    table::render(["ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "DISK", "AGE", "EXPIRES"], &rows)
}
