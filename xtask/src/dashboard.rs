//! `cargo xtask dashboard`: the dashboard's pages as static files, which the binary embeds. Nothing is done where nothing changed: the
//! files' own time stamps decide what cargo builds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};
use std::{env, fs, io};

use anyhow::{Context, ensure};

use crate::workspace_root;

/// What the pages are made of, beside the folder's own files.
const DOCUMENT: &str = "openapi.json";
/// Made by tools, not by people.
const MADE: [&str; 3] = ["node_modules", ".svelte-kit", "schema.d.ts"];

pub(crate) fn run() -> anyhow::Result<()> {
    let workspace = workspace_root()?;
    let (source, out) = (workspace.join("dashboard"), workspace.join("target/dashboard"));
    let page = out.join("index.html");
    let newest = newest(&source)?.max(modified(&workspace.join(DOCUMENT))?);
    if modified(&page).is_ok_and(|built| built > newest) {
        println!("{} unchanged", out.display());
        return Ok(());
    }
    let started = Instant::now();
    let node = node(&workspace)?;
    install(&source, &node)?;
    // Built elsewhere: what is there stays until the new one is whole.
    let new = workspace.join("target/dashboard.new");
    remove(&new)?;
    npm(&source, &node, &["run", "--silent", "build"], Some(&new))?;
    ensure!(new.join("index.html").exists(), "the dashboard's build made no page");
    remove(&out)?;
    fs::rename(&new, &out).with_context(|| format!("cannot put {} in place", out.display()))?;
    println!("{} took {:.1} s", out.display(), started.elapsed().as_secs_f64());
    Ok(())
}

/// The folder of the Node to build with.
fn node(workspace: &Path) -> anyhow::Result<PathBuf> {
    let output = Command::new(workspace.join("scripts/node.sh")).output().context("cannot run scripts/node.sh")?;
    ensure!(output.status.success(), "there is no Node: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The packages that the lock names. A copy of it beside them says that they are all there.
fn install(source: &Path, node: &Path) -> anyhow::Result<()> {
    let wanted = fs::read(source.join("package-lock.json")).context("the dashboard has no package-lock.json")?;
    let installed = source.join("node_modules/installed");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    npm(source, node, &["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], None)?;
    fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))
}

fn npm(source: &Path, node: &Path, arguments: &[&str], out: Option<&Path>) -> anyhow::Result<()> {
    let mut path = node.as_os_str().to_owned();
    if let Some(usual) = env::var_os("PATH") {
        path.push(":");
        path.push(usual);
    }
    let mut command = Command::new(node.join("npm"));
    command.current_dir(source).args(arguments).env("PATH", path);
    if let Some(out) = out {
        command.env("DASHBOARD_OUT", out);
    }
    let status = command.status().context("cannot run npm")?;
    ensure!(status.success(), "npm {} failed in {}", arguments.join(" "), source.display());
    Ok(())
}

/// When anything below a folder was last changed by people.
fn newest(folder: &Path) -> anyhow::Result<SystemTime> {
    let mut newest = modified(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if MADE.iter().any(|made| entry.file_name() == *made) {
            continue;
        }
        let path = entry.path();
        newest = newest.max(if entry.file_type()?.is_dir() { self::newest(&path)? } else { modified(&path)? });
    }
    Ok(newest)
}

fn modified(path: &Path) -> anyhow::Result<SystemTime> {
    let modified = fs::metadata(path).and_then(|data| data.modified());
    modified.with_context(|| format!("cannot look at {}", path.display()))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
