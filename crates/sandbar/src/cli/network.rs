//! `sandbar sandbox network`: where a sandbox may connect to, and what it was denied.

use std::process::ExitCode;

use chrono::Utc;
use clap::Args;
use sandbar_types::{Id, id};

use super::sandbox::print_json;
use super::table;
use crate::client::{Client, Network, NetworkRules};

/// Rules for where a sandbox may connect to.
#[derive(Debug, Clone, Args)]
pub(super) struct RulesArgs {
    /// Let it reach nothing but what --allow-out names
    #[arg(long)]
    deny_internet: bool,

    /// Address, range (CIDR) or domain (example.com, *.example.com) that it may reach whatever else is denied; may be repeated
    #[arg(long, value_name = "DESTINATION", value_delimiter = ',')]
    allow_out: Vec<String>,

    /// Address, range (CIDR) or domain that it may not reach; may be repeated
    #[arg(long, value_name = "DESTINATION", value_delimiter = ',')]
    deny_out: Vec<String>,
}

/// Show or replace where a sandbox may connect to
///
/// Without options: the rules that are in force, and what was denied. With options: new rules, in place of all that there are.
#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    id: Id<id::Sandbox>,

    #[command(flatten)]
    rules: RulesArgs,

    /// Let it reach the internet again, as without rules
    #[arg(long, conflicts_with_all = ["deny_internet", "allow_out", "deny_out"])]
    reset: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl RulesArgs {
    /// The rules, if any are given.
    pub(super) fn given(self) -> Option<NetworkRules> {
        let Self { deny_internet, allow_out, deny_out } = self;
        let given = deny_internet || !allow_out.is_empty() || !deny_out.is_empty();
        given.then_some(NetworkRules { allow_out, deny_out, allow_internet: !deny_internet })
    }
}

pub(super) async fn network(client: &Client, args: NetworkArgs) -> anyhow::Result<ExitCode> {
    let NetworkArgs { id, rules, reset, json } = args;
    let open = NetworkRules { allow_internet: true, ..NetworkRules::default() };
    if let Some(rules) = rules.given().or(reset.then_some(open)) {
        client.set_network(id, &rules).await?;
    }
    let network = client.network(id).await?;
    if json {
        print_json(&network)?;
    } else {
        print!("{}", describe(&network));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(network: &Network) -> String {
    let Network { allow_out, deny_out, allow_internet, denials, rest: _ } = network;
    let list = |entries: &[String]| if entries.is_empty() { "-".to_owned() } else { entries.join(", ") };
    let counts: Vec<_> = denials.counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let now = Utc::now();
    let ago = |at: Option<chrono::DateTime<Utc>>| at.map_or_else(|| "-".to_owned(), |at| table::age(at, now));
    let addresses = denials.addresses.iter().map(|denied| {
        let port = denied.port.map(|port| format!(":{port}")).unwrap_or_default();
        let what = format!("{} {}{port}", denied.protocol, denied.address);
        [what, denied.packets.to_string(), ago(denied.last_at)]
    });
    let names = denials
        .names
        .iter()
        .map(|denied| [format!("name {}", denied.name), denied.queries.to_string(), ago(denied.last_at)]);
    let rows: Vec<_> = addresses.chain(names).collect();
    let mut text = format!(
        "internet: {}\nallow:    {}\ndeny:     {}\ndenied:   {}\n",
        if *allow_internet { "allowed" } else { "denied" },
        list(allow_out),
        list(deny_out),
        list(&counts),
    );
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table::render(["DENIED", "TIMES", "LAST"], &rows));
    }
    text
}
