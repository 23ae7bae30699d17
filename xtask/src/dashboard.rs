//! `cargo xtask dashboard`: the dashboard's pages as static files, which the binary embeds. Nothing is done where nothing changed, so
//! that cargo finds the files as old as they were.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
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
    // Beside what was made: what it was made of.
    let note = workspace.join("target/dashboard.made-of");
    let made_of = fingerprint(&source, &workspace.join(DOCUMENT))?;
    if out.join("index.html").exists() && fs::read_to_string(&note).is_ok_and(|noted| noted == made_of) {
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
    fs::write(&note, made_of).with_context(|| format!("cannot write {}", note.display()))?;
    println!("{} took {:.1} s", out.display(), started.elapsed().as_secs_f64());
    Ok(())
}

/// The folder of the Node to build with.
fn node(workspace: &Path) -> anyhow::Result<PathBuf> {
    let output =
        Command::new(workspace.join("scripts/node.sh")).output().context("cannot run scripts/node.sh")?;
    ensure!(output.status.success(), "there is no Node: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The packages that the lock names. A copy of it beside them says that they are all there.
fn install(source: &Path, node: &Path) -> anyhow::Result<()> {
    let wanted =
        fs::read(source.join("package-lock.json")).context("the dashboard has no package-lock.json")?;
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

/// Of all that people wrote for the pages: names and contents.
fn fingerprint(source: &Path, document: &Path) -> anyhow::Result<String> {
    let mut files = vec![document.to_owned()];
    find(source, &mut files)?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        let contents = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        (file, contents).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if MADE.iter().any(|made| entry.file_name() == *made) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            find(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
