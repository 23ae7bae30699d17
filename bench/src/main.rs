//! What the platform costs: every figure is measured side by side with the same thing done by the bare virtual machine monitor,
//! in one run, in turns. See `README.md` for what each means.
//!
//! - [`platform`]: the platform under test, found or started, spoken to through its REST API.
//! - [`bare`]: the same template restored by the same VMM in the same kind of network slot, with nothing else around it.
//! - [`scenarios`], [`life`]: what is measured of the platform; [`guest`]: of the guest's agent, against the bare [`link`].
//! - [`proxy`]: what the edge adds to a request to a server in a sandbox.
//! - [`stats`]: what a team's figures cost with a year behind them; [`fleet`]: what a large fleet costs; each on a [`database`] of its own.
//! - [`hung`]: what a host that never answers costs the users of the others; with simulated hosts.
//! - [`report`]: the table and `bench.json`.

mod bare;
mod database;
mod fleet;
mod guest;
mod hung;
mod life;
mod link;
mod platform;
mod proxy;
mod report;
mod scenarios;
mod stats;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;

use bare::Bare;
use platform::{Endpoint, Platform};
use report::Row;
use scenarios::Rounds;

/// Measure the platform against the bare virtual machine monitor
///
/// Must run on the platform's machine, as root: it restores the platform's own template without the platform.
#[derive(Debug, Parser)]
#[command(name = "sandbar-bench")]
struct Arguments {
    /// Data folder of the platform; one of the benchmark's own is started where it does not run
    #[arg(long, env = "SANDBAR_DATA_DIR", default_value = "/var/lib/sandbar", value_name = "FOLDER")]
    data_dir: PathBuf,

    /// Address of the platform [default: as its first-run.json says]
    #[arg(long, env = "SANDBAR_URL", requires = "api_key")]
    url: Option<String>,

    /// API key of the platform [default: as its first-run.json says]
    #[arg(long, env = "SANDBAR_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// Fewer rounds: for a look, not for a comparison
    #[arg(long)]
    quick: bool,

    /// Only what needs no platform and no machines: databases and simulated hosts
    #[arg(long)]
    fleet: bool,

    /// Where the figures go
    #[arg(long, default_value = "target/bench.json", value_name = "FILE")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { data_dir, url, api_key, quick, fleet, out } = Arguments::parse();
    let rounds = if quick { Rounds::QUICK } else { Rounds::FULL };
    if fleet {
        let mut rows = Vec::new();
        scenarios::fleet(rounds, &mut rows).await?;
        return tell(&rows, &out);
    }
    let endpoint = url.zip(api_key).map(|(url, api_key)| Endpoint { url, api_key });
    let platform = Platform::find_or_start(&data_dir, endpoint).await?;
    let bare = Bare::new(platform.store_dir()).await.context("the bare machines cannot be prepared")?;
    // What was begun is taken back, however the measuring ends: also by Ctrl-C.
    let mut rows = Vec::new();
    let measured = tokio::select! {
        measured = scenarios::all(&platform, &bare, rounds, &mut rows) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    bare.remove().await?;
    platform.leave().await?;
    if let Err(error) = measured {
        print!("{}", report::table(&rows));
        return Err(error);
    }
    tell(&rows, &out)
}

fn tell(rows: &[Row], out: &Path) -> Result<()> {
    print!("{}", report::table(rows));
    report::write(rows, out)?;
    println!("\nwritten to {}", out.display());
    Ok(())
}
