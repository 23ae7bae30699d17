//! `sandbar doctor`: what this machine can do, and what to do about what it cannot.
//!
//! Every check does the thing itself, small (boots a guest, clones a file, loads a rule set in a namespace of its own): a device
//! file that exists proves little. One file per thing that is checked.

mod database;
mod disk;
mod network;
mod resources;
mod virtual_machines;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::data_dir;

/// A small program that takes longer hangs.
const PROGRAM_LIMIT: Duration = Duration::from_secs(20);

/// Check what this machine can do, and say what to do about what it cannot
///
/// Says which virtual machine driver is used and why, by booting a tiny guest; tries the store, networks, the database's binaries.
/// Exits with 1 when something that is needed fails. Run it as root.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Data folder of the platform, which need not exist
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "FOLDER", default_value = data_dir::DEFAULT)]
    data_dir: PathBuf,

    /// PostgreSQL that the platform uses, in place of a private one
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,

    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// What a check says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// It works, less well than it could.
    Warn,
    /// It does not work.
    Fail,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

impl DoctorArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut report = Report { json: self.json, findings: Vec::new() };
        if rustix::process::geteuid().is_root() {
            report.add(Finding::ok("privileges", "root"));
            let (disks, kernel_store) = disk::check_store(&self.data_dir).await;
            report.add(disks);
            report.add(disk::check_space(&self.data_dir));
            report.add(virtual_machines::check(kernel_store).await);
            report.add(resources::check_cgroups());
            report.add(network::check_tap().await);
            report.add(network::check_nftables().await);
        } else {
            let advice = "run this, and `sandbar up`, as root";
            report.add(Finding::fail(
                "privileges",
                "not root: most of this machine cannot be looked at",
                advice,
            ));
            report.add(disk::check_space(&self.data_dir));
        }
        report.add(resources::check_memory());
        report.add(database::check(self.database_url.is_some()).await);
        report.end()
    }
}

/// Findings, shown as they come.
struct Report {
    json: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, finding: Finding) {
        if !self.json {
            print!("{}", text(&finding));
        }
        self.findings.push(finding);
    }

    fn end(self) -> anyhow::Result<ExitCode> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&self.findings)?);
        }
        let failed = self.findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn text(finding: &Finding) -> String {
    let Finding { check, verdict, found, advice } = finding;
    let found = found.lines().collect::<Vec<_>>().join(" ");
    let mut text = format!("{:5} {check:17} {found}\n", verdict.word());
    if let Some(advice) = advice {
        text.push_str(&format!("{:5} {:17} -> {advice}\n", "", ""));
    }
    text
}

/// Runs a small program to its end; what it complains of is the error.
async fn try_program(mut command: Command) -> Result<(), String> {
    command.kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = match timeout(PROGRAM_LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{program} cannot be run: {error}")),
        Err(_) => return Err(format!("{program} hangs")),
    };
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(complaint.lines().next().unwrap_or("it failed without a word").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_shown_under_what_it_is_for() {
        let ok = Finding::ok("privileges", "root");
        assert_eq!(text(&ok), "ok    privileges        root\n");
        let fail = Finding::fail("nftables", "nft cannot be run", "install nftables");
        assert_eq!(
            text(&fail),
            "FAIL  nftables          nft cannot be run\n                        -> install nftables\n"
        );
    }

    #[tokio::test]
    async fn a_program_is_judged_by_its_end() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        assert_eq!(try_program(shell("true")).await, Ok(()));
        assert_eq!(try_program(shell("echo first >&2; echo second >&2; exit 1")).await, Err("first".into()));
        assert!(try_program(Command::new("/no/such/program")).await.unwrap_err().contains("cannot be run"));
    }
}
