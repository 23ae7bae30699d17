//! Builds what `cargo build` alone cannot: `cargo xtask <task>`. One file per task.

mod guest;
mod licences;

use anyhow::bail;

const USAGE: &str = "usage: cargo xtask <task>

tasks:
  guest    build the static binaries for the inside of the microVM into target/guest/out
  licences hold the dependencies' licences against deny.toml";

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
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
