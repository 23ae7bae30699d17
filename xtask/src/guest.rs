//! `cargo xtask guest`: `sandbar-init` and `sandbar-guest-agent` as static binaries that run in any image, whatever its libc.
//!
//! `--target` is given even though it is the host's own: only then does the flag for static linking stay away from build
//! scripts and procedural macros. A target folder of their own keeps these builds from evicting the ordinary ones.

use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, ensure};

use crate::workspace_root;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "guest";
const BINARIES: [&str; 2] = ["sandbar-init", "sandbar-guest-agent"];

pub(crate) fn run() -> anyhow::Result<()> {
    let workspace = workspace_root()?;
    let target_dir = workspace.join("target/guest");
    let started = Instant::now();
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&workspace)
        .args(["build", "--package", "sandbar-guest-agent", "--bins"])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        // These would replace the flags above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the guest binaries do not build");

    let out = target_dir.join("out");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for binary in BINARIES {
        let built = target_dir.join(TARGET).join(PROFILE).join(binary);
        let kept = out.join(binary);
        let outcome =
            copy_if_changed(&built, &kept).with_context(|| format!("cannot copy {}", built.display()))?;
        println!("{} {} KiB, {outcome}", kept.display(), fs::metadata(&kept)?.len() / 1024);
    }
    println!("took {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Keeps the old file's time stamp where nothing changed: images are made from these files and cached by it.
fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<&'static str> {
    let new = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok("unchanged");
    }
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, to)?;
    Ok("updated")
}
