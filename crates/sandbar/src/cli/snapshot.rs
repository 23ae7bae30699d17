//! `sandbar snapshot ...`: what sandboxes can start from.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use sandbar_types::{Id, TemplateKind, TemplateName, id};

use super::run::report;
use super::sandbox::print_json;
use super::{EndpointArgs, table};
use crate::client::{Client, Existing, Memory, Snapshot};

/// Keep sandboxes as snapshots, list, check and delete them
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
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
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    Verify(VerifyArgs),
}

/// Keep a sandbox's memory and disk as a snapshot, and print its name
///
/// A running sandbox runs on; a paused one stays paused. `sandbar sandbox create --template NAME` starts another from it, as often
/// as you like.
#[derive(Debug, Args)]
struct CreateArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    /// Its name: 1 to 64 letters, digits, dots, underscores or dashes [default: one is chosen]
    #[arg(value_name = "NAME")]
    name: Option<TemplateName>,

    /// Take the place of the snapshot that has the name, once this one is complete
    #[arg(long, requires = "name")]
    overwrite: bool,

    /// Keep its disk alone: sandboxes made from it boot, in any size
    #[arg(long)]
    no_memory: bool,

    /// Print all that is known of it, as JSON
    #[arg(long)]
    json: bool,
}

/// List snapshots, newest first: the team's and the platform's
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only `base` (a disk alone) or only `snapshot` (with memory)
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<TemplateKind>,

    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Delete snapshots; sandboxes that were made from them go on
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The snapshots
    #[arg(value_name = "NAME", required = true)]
    names: Vec<TemplateName>,
}

/// Read all files of a snapshot and check that they are what they were
#[derive(Debug, Args)]
struct VerifyArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: TemplateName,
}

impl SnapshotArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.endpoint.client()?;
        match self.action {
            Action::Create(args) => create(&client, &args).await,
            Action::List(args) => list(&client, &args).await,
            Action::Delete(args) => Ok(delete(&client, &args).await),
            Action::Verify(args) => verify(&client, &args).await,
        }
    }
}

async fn create(client: &Client, args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let existing = if args.overwrite { Existing::Replace } else { Existing::Refuse };
    let snapshot =
        client.create_snapshot(args.id, args.name.as_ref(), existing, Memory::of(!args.no_memory)).await?;
    if args.json {
        print_json(&snapshot)?;
    } else {
        println!("{}", snapshot.name);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(client: &Client, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let snapshots = client.snapshots(args.kind).await?;
    if args.json {
        print_json(&snapshots)?;
    } else {
        print!("{}", as_table(&snapshots));
    }
    Ok(ExitCode::SUCCESS)
}

/// Goes on after a failure: the others are to be deleted all the same.
pub(super) async fn delete(client: &Client, args: &DeleteArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match client.delete_snapshot(name).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                code = report(&anyhow::Error::from(error).context(format!("{name} could not be deleted")), 1);
            }
        }
    }
    code
}

async fn verify(client: &Client, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let bytes = client.verify_snapshot(&args.name).await?;
    println!("{} is sound: {} read", args.name, table::mebibytes(bytes));
    Ok(ExitCode::SUCCESS)
}

fn as_table(snapshots: &[Snapshot]) -> String {
    let now = Utc::now();
    let rows: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            [
                snapshot.name.clone(),
                snapshot.kind.clone(),
                snapshot.vcpus.to_string(),
                format!("{} MiB", snapshot.memory_mb),
                table::mebibytes(snapshot.size_bytes),
                table::age(snapshot.created_at, now),
                if snapshot.platform { "platform" } else { "team" }.to_owned(),
            ]
        })
        .collect();
    table::render(["NAME", "TYPE", "VCPUS", "MEMORY", "ON DISK", "AGE", "OWNER"], &rows)
}
