//! Embeds what cargo cannot build as part of this package: the two binaries that run inside the microVM (`cargo xtask guest`: another
//! target and profile), and the dashboard (`cargo xtask dashboard`: Node). Without the former there is no Sandbar; without the latter
//! there is one without pages.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    embed_guest_binaries(&made("SANDBAR_GUEST_BINARIES", "guest/out"), &out);
    let dashboard = made("SANDBAR_DASHBOARD", "dashboard");
    if let Err(error) = embed_dashboard(&dashboard, &out) {
        println!("cargo::error=cannot embed {} ({error})", dashboard.display());
    }
}

/// The folder that a variable names, else ours in the target folder.
fn made(variable: &str, usual: &str) -> PathBuf {
    println!("cargo::rerun-if-env-changed={variable}");
    match env::var_os(variable) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(usual),
    }
}

fn embed_guest_binaries(made: &Path, out: &Path) {
    for name in ["sandbar-init", "sandbar-guest-agent"] {
        let from = made.join(name);
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = fs::copy(&from, out.join(name)) {
            println!(
                "cargo::error=cannot embed {} ({error}): run `cargo xtask guest` first (`make` does)",
                from.display()
            );
        }
    }
}

/// Writes the list of the dashboard's files, as the expression of a slice of `sandbar_api::Asset`.
fn embed_dashboard(made: &Path, out: &Path) -> io::Result<()> {
    // A folder that is not there would count as changed at every build.
    fs::create_dir_all(made)?;
    let made = made.canonicalize()?;
    println!("cargo::rerun-if-changed={}", made.display());
    let mut files = Vec::new();
    find(&made, &made, &mut files)?;
    files.sort();
    let mut list = String::from("&[\n");
    for file in files.iter().filter(|file| !file.ends_with(".gz") && !file.ends_with(".br")) {
        let plain = made.join(file);
        let gzip = made.join(format!("{file}.gz"));
        let gzip = if gzip.exists() { format!("Some(include_bytes!({gzip:?}))") } else { "None".to_owned() };
        let line =
            writeln!(list, "Asset {{ path: {file:?}, plain: include_bytes!({plain:?}), gzip: {gzip} }},");
        line.map_err(io::Error::other)?;
    }
    list.push(']');
    fs::write(out.join("dashboard.rs"), list)
}

/// All files below a folder, relative to the root.
fn find(root: &Path, folder: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(root, &path, files)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            let relative = relative.to_str().ok_or_else(|| io::Error::other("a name that is not UTF-8"))?;
            files.push(relative.to_owned());
        }
    }
    Ok(())
}
