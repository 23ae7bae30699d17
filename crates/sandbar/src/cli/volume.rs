//! `sandbar volume ...`: disks that outlive sandboxes and are mounted by name.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use sandbar_types::{Id, MountPath, VolumeName, id, limits};

use super::run::report;
use super::sandbox::print_json;
use super::{EndpointArgs, table};
use crate::client::{Client, Mount, Volume};

/// Make disks that outlive sandboxes, list and delete them
#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
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
    Show(ShowArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Make a volume and print its name
///
/// `sandbar run --volume NAME:/path` mounts it. One sandbox at a time has a volume, from when it is made until it is deleted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sandbar volume create data --size-mb 20480\n  \
    sandbar run --volume data:/data -- sh -c 'date >> /data/log; cat /data/log'")]
struct CreateArgs {
    /// Its name: 1 to 128 letters, digits, underscores or dashes
    #[arg(value_name = "NAME")]
    name: VolumeName,

    /// What it may hold, in MiB; it takes what is written to it [default: 10240]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(*limits::VOLUME_MB.start() as i64..=*limits::VOLUME_MB.end() as i64))]
    size_mb: Option<u32>,
}

/// List volumes, newest first
#[derive(Debug, Args)]
struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Show one volume, as JSON
#[derive(Debug, Args)]
struct ShowArgs {
    /// The volume: its name or id
    #[arg(value_name = "VOLUME", value_parser = named)]
    volume: String,
}

/// Delete volumes, with all that is in them
#[derive(Debug, Args)]
struct DeleteArgs {
    /// The volumes: names or ids
    #[arg(value_name = "VOLUME", required = true, value_parser = named)]
    volumes: Vec<String>,
}

/// A volume's name or id.
fn named(text: &str) -> Result<String, String> {
    if text.parse::<Id<id::Volume>>().is_err() {
        text.parse::<VolumeName>().map_err(|error| error.to_string())?;
    }
    Ok(text.to_owned())
}

/// Reads `NAME:/path`.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    let (name, path) = text.split_once(':').ok_or("write NAME:/path")?;
    let path = MountPath::try_from(path.to_owned()).map_err(|error| error.to_string())?;
    Ok(Mount { name: named(name)?, path: path.into() })
}

impl VolumeArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.endpoint.client()?;
        match self.action {
            Action::Create(args) => {
                println!("{}", client.create_volume(args.name.as_str(), args.size_mb).await?.name);
            }
            Action::List(args) => list(&client, &args).await?,
            Action::Show(args) => print_json(&client.volume(&args.volume).await?)?,
            Action::Delete(args) => return Ok(delete(&client, &args).await),
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(client: &Client, args: &ListArgs) -> anyhow::Result<()> {
    let volumes = client.volumes().await?;
    if args.json {
        print_json(&volumes)?;
    } else {
        print!("{}", as_table(&volumes));
    }
    Ok(())
}

/// Goes on after a failure: the others are to be deleted all the same.
async fn delete(client: &Client, args: &DeleteArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for volume in &args.volumes {
        match client.delete_volume(volume).await {
            Ok(()) => println!("{volume}"),
            Err(error) => {
                code =
                    report(&anyhow::Error::from(error).context(format!("{volume} could not be deleted")), 1);
            }
        }
    }
    code
}

fn as_table(volumes: &[Volume]) -> String {
    let now = Utc::now();
    let row = |volume: &Volume| {
        [
            volume.name.clone(),
            volume.size_mb.to_string(),
            volume.status.clone(),
            volume.sandbox_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            table::age(volume.created_at, now),
            volume.creator_email.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let head = ["NAME", "MIB", "STATUS", "SANDBOX", "AGE", "MADE BY"];
    table::render(head, &volumes.iter().map(row).collect::<Vec<_>>())
}
