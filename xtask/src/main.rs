//! Builds what `cargo build` alone cannot: `cargo xtask <task>`. One file per task.

mod dashboard;
mod guest;
mod licences;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

const USAGE: &str = "usage: cargo xtask <task>

tasks:
  dashboard build the pages that the binary embeds, into target/dashboard
  guest    build the static binaries for the inside of the microVM into target/guest/out
  licences hold the dependencies' licences against deny.toml";

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("dashboard") => dashboard::run(),
        Some("guest") => guest::run(),
        Some("licences") => licences::run(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("unknown task {other:?}\n{USAGE}"),
        None => bail!("which task?\n{USAGE}"),
    }
}

fn workspace_root() -> anyhow::Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(Path::to_path_buf).context("xtask lies in the workspace's root folder")
}
