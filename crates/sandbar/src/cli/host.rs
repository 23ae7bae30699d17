//! `sandbar host ...`: the machines of the fleet.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};
use sandbar_types::{Id, id};

use super::endpoint::SignedIn;
use super::run::report;
use super::sandbox::print_json;
use super::{EndpointArgs, table};
use crate::client::{Client, Host, NewHost, Running, Staying};

/// Add machines to the fleet, look at them, empty and delete them
///
/// For the platform's administrators, and for the admins of a team that brings hosts of its own. On the machine that runs `sandbar up`,
/// root needs no token: the first person's sign-in is used for the one command.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    endpoint: EndpointArgs,

    /// Token of a sign-in (better given in the environment than in the arguments, which other users can see)
    #[arg(long, env = "SANDBAR_TOKEN", value_name = "TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    Add(AddArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Get(GetArgs),
    Token(TokenArgs),
    Drain(DrainArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    Tag(TagArgs),
}

/// Add a host, and print the token that its agent registers with: one use, one hour
///
/// On the new machine: `SANDBAR_REGISTER_TOKEN=... sandbar host-agent --control-url URL --address HOST:PORT`
#[derive(Debug, Args)]
struct AddArgs {
    /// A host of the team that is acted for, for its sandboxes alone; otherwise one of the platform, for all
    #[arg(long)]
    byoc: bool,

    /// Who runs the machine, for people
    #[arg(long, value_name = "TEXT")]
    provider: Option<String>,

    /// Where it is, for people
    #[arg(long, value_name = "TEXT")]
    zone: Option<String>,

    /// Print the host and its token, as JSON
    #[arg(long)]
    json: bool,
}

/// List hosts, newest first
#[derive(Debug, Args)]
struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Print all that is known of a host, as JSON
#[derive(Debug, Args)]
struct GetArgs {
    /// The host
    #[arg(value_name = "HOST")]
    id: Id<id::Host>,
}

/// Print a new registration token, also for a host that lost its credentials; its sandboxes stay
#[derive(Debug, Args)]
struct TokenArgs {
    /// The host
    #[arg(value_name = "HOST")]
    id: Id<id::Host>,
}

/// Let a host take no new sandboxes, and print which of those that it has stay there, and why
#[derive(Debug, Args)]
struct DrainArgs {
    /// The host
    #[arg(value_name = "HOST")]
    id: Id<id::Host>,

    /// Pause the sandboxes that run there; otherwise they go on to their end
    #[arg(long)]
    pause: bool,

    /// Let it take new ones again
    #[arg(long, conflicts_with = "pause")]
    end: bool,
}

/// Delete hosts that have no sandboxes, nor the only files of snapshots
#[derive(Debug, Args)]
struct DeleteArgs {
    /// The hosts
    #[arg(value_name = "HOST", required = true)]
    ids: Vec<Id<id::Host>>,

    /// Destroy the sandboxes that they have, paused ones too, and the snapshots that no other host has
    #[arg(long)]
    force: bool,
}

/// Print a host's tags, having given it some or taken some away
#[derive(Debug, Args)]
struct TagArgs {
    /// The host
    #[arg(value_name = "HOST")]
    id: Id<id::Host>,

    /// Tags to give
    #[arg(value_name = "TAG")]
    tags: Vec<String>,

    /// A tag to take away; may be repeated
    #[arg(long, value_name = "TAG")]
    remove: Vec<String>,
}

impl HostArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let (client, signed_in) = self.endpoint.person(self.token.as_deref()).await?;
        let done = act(&client, self.action).await;
        if signed_in == SignedIn::Here
            && let Err(error) = client.sign_out().await
        {
            eprintln!("sandbar: the sign-in of this command was not ended: {error}");
        }
        done
    }
}

async fn act(client: &Client, action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Add(args) => add(client, &args).await?,
        Action::List(args) => list(client, &args).await?,
        Action::Get(args) => print_json(&client.host(args.id).await?)?,
        Action::Token(args) => println!("{}", client.host_token(args.id).await?),
        Action::Drain(args) => drain(client, &args).await?,
        Action::Delete(args) => return Ok(delete(client, &args).await),
        Action::Tag(args) => tag(client, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(client: &Client, args: &AddArgs) -> anyhow::Result<()> {
    let kind = if args.byoc { "byoc" } else { "regular" };
    let new = NewHost { kind, provider: args.provider.as_deref(), availability_zone: args.zone.as_deref() };
    let added = client.add_host(&new).await?;
    if args.json {
        return print_json(&added);
    }
    println!("{}", added.host.id);
    println!("{}", added.registration_token);
    Ok(())
}

async fn list(client: &Client, args: &ListArgs) -> anyhow::Result<()> {
    let hosts = client.hosts().await?;
    if args.json {
        return print_json(&hosts);
    }
    print!("{}", as_table(&hosts));
    Ok(())
}

async fn drain(client: &Client, args: &DrainArgs) -> anyhow::Result<()> {
    let running = if args.pause { Running::Pause } else { Running::GoOn };
    let host = if args.end {
        client.end_host_drain(args.id).await?
    } else {
        client.drain_host(args.id, running).await?
    };
    println!("{} {}", host.id, host.status);
    if !args.end {
        let staying = client.staying(args.id).await?;
        if !staying.is_empty() {
            print!("{}", staying_table(staying));
        }
    }
    Ok(())
}

fn staying_table(staying: Vec<Staying>) -> String {
    let rows: Vec<_> = staying
        .into_iter()
        .map(|Staying { id, team_id, status, reason }| {
            let why = why_it_stays(&reason).unwrap_or(&reason).to_owned();
            [id, team_id, status, why]
        })
        .collect();
    table::render(["STAYS", "TEAM", "STATUS", "BECAUSE"], &rows)
}

/// The API's word as a sentence; none for one of a later version.
fn why_it_stays(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "running" => "it runs: it goes on to its end, or until it is paused",
        "changing" => "it is changing at the moment",
        "missing" => "the host does not say what became of it",
        "not_copied" => "object storage has not all of it yet; then it leaves",
        "no_object_storage" => "there is no object storage to leave for",
        "team_host" => "the host is a team's own: what is paused there stays there",
        "has_volumes" => "its volumes are on the host",
        _ => return None,
    })
}

/// Goes on after a failure: the others are to be deleted all the same.
async fn delete(client: &Client, args: &DeleteArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for id in &args.ids {
        match client.delete_host(*id, args.force).await {
            Ok(()) => println!("{id}"),
            Err(error) => {
                code = report(&anyhow::Error::from(error).context(format!("{id} could not be deleted")), 1);
            }
        }
    }
    code
}

async fn tag(client: &Client, args: &TagArgs) -> anyhow::Result<()> {
    for tag in &args.remove {
        client.untag_host(args.id, tag).await?;
    }
    for tag in &args.tags {
        client.tag_host(args.id, tag).await?;
    }
    for tag in client.host_tags(args.id).await? {
        println!("{tag}");
    }
    Ok(())
}

fn as_table(hosts: &[Host]) -> String {
    let now = Utc::now();
    let unknown = || "-".to_owned();
    let rows: Vec<_> = hosts
        .iter()
        .map(|host| {
            [
                host.id.to_string(),
                host.status.clone(),
                host.kind.clone(),
                host.team_name.clone(),
                host.address.clone().unwrap_or_else(unknown),
                host.cpu_cores.map_or_else(unknown, |cores| cores.to_string()),
                host.memory_mb.map_or_else(unknown, |memory| format!("{memory} MiB")),
                host.last_heartbeat_at.map_or_else(unknown, |at| table::age(at, now)),
            ]
        })
        .collect();
    table::render(["ID", "STATUS", "TYPE", "TEAM", "ADDRESS", "CPUS", "MEMORY", "HEARD"], &rows)
}
