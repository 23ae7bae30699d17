//! `sandbar audit export`: the audit trail, for other systems to keep.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use sandbar_api::AuditLogEntry;
use sandbar_control::OpContext;
use sandbar_control::audit_trail::{AuditQuery, Whose};
use sandbar_control::page::MAX_LIMIT;
use sandbar_types::Id;
use sandbar_types::id::Team;

use super::DatabaseArgs;

/// Read the audit trail of all teams
///
/// For the operator, on the platform's machine: goes to its database.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,

    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Print events as JSON, one a line, newest first
    ///
    /// Everything that was there when the export began, each event once. An event bears the time at which its transaction began and
    /// appears when that ends: let exports that follow each other overlap by a minute, and drop what came twice by its id.
    Export(ExportArgs),
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Only this team's
    #[arg(long, value_name = "ID")]
    team: Option<Id<Team>>,

    /// Only these actions
    #[arg(long, value_name = "ACTION", value_delimiter = ',')]
    action: Vec<String>,

    /// Only these kinds of resources
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    resource_type: Vec<String>,

    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<DateTime<Utc>>,

    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<DateTime<Utc>>,
}

impl AuditArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let AuditCommand::Export(ExportArgs { team, action, resource_type, from, to }) = self.command;
        let control = self.database.control().await?;
        let query =
            AuditQuery { resource_types: resource_type, actions: action, from, to, ..AuditQuery::default() };
        let whose = team.map_or(Whose::All, Whose::Team);
        let mut output = io::BufWriter::new(io::stdout());
        let mut after = None;
        loop {
            let page =
                control.admin_audit_list(&OpContext::system(), whose, &query, after, MAX_LIMIT).await?;
            for event in page.items {
                serde_json::to_writer(&mut output, &AuditLogEntry::from(event))
                    .context("cannot write the export")?;
                output.write_all(b"\n").context("cannot write the export")?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        output.flush().context("cannot write the export")?;
        Ok(ExitCode::SUCCESS)
    }
}
