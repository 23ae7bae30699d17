//! The data folder: made whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::account::Account;
use crate::process::Process;
use crate::{Binaries, DATABASE, Durability, PostgresError, ROLE};

/// Name of the map in `pg_ident.conf`.
const MAP: &str = "sandbar";
/// How long writers to an unfinished folder may outlive it.
const WRITERS_LIMIT: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The major version of the data folder, `None` when there is none yet (an empty folder counts as none).
pub(crate) fn version(data_dir: &Path) -> Result<Option<u32>, PostgresError> {
    let file = data_dir.join("PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(text) => match text.trim().parse() {
            Ok(major) => Ok(Some(major)),
            Err(_) => Err(PostgresError::NotADataFolder { data_dir: data_dir.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(data_dir) {
            Ok(entries) => match entries.count() {
                0 => Ok(None),
                _ => Err(PostgresError::NotADataFolder { data_dir: data_dir.to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PostgresError::io("read", data_dir)(error)),
        },
        Err(error) => Err(PostgresError::io("read", &file)(error)),
    }
}

/// Makes the data folder with one empty database.
///
/// All of it happens in a folder beside it, which is renamed last: a starter that is killed half-way leaves only leavings,
/// and the next one sweeps them.
pub(crate) async fn create(
    data_dir: &Path,
    binaries: &Binaries,
    account: &Account,
    durability: Durability,
) -> Result<(), PostgresError> {
    sweep(data_dir).await?;
    let making = beside(data_dir, &format!("{}{}", LEAVINGS, std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&making).map_err(PostgresError::io("make", &making))?;
    account.own(&making)?;

    let mut initdb = command(binaries, "initdb", account);
    initdb.arg("-D").arg(&making).args(["--username", ROLE, "--auth=peer", "--encoding=UTF8", "--locale=C"]);
    initdb.args(["--no-instructions", "--data-checksums"]);
    if durability == Durability::Off {
        initdb.arg("--no-sync");
    }
    run("initdb", initdb, "").await?;

    // Single-user mode needs no client program and no running server.
    let mut single = command(binaries, "postgres", account);
    single.arg("--single").arg("-D").arg(&making).args(["-c", "exit_on_error=on", "postgres"]);
    run("postgres --single", single, &format!("CREATE DATABASE {DATABASE};\n")).await?;

    fs::rename(&making, data_dir).map_err(PostgresError::io("rename", &making))?;
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(PostgresError::io("sync", parent))
}

/// Says who may connect: over the socket, the server's user and root, both as [`ROLE`].
///
/// Written at each start, so that a change here reaches data folders made before it.
pub(crate) fn write_access_rules(data_dir: &Path, account: &Account) -> Result<(), PostgresError> {
    replace(&data_dir.join("pg_hba.conf"), &format!("local all all peer map={MAP}\n"), account)?;
    let ident = format!("{MAP} root {ROLE}\n{MAP} \"{}\" {ROLE}\n", account.name);
    replace(&data_dir.join("pg_ident.conf"), &ident, account)
}

fn replace(path: &Path, text: &str, account: &Account) -> Result<(), PostgresError> {
    let temporary = beside(path, ".new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The folder is another user's: `create_new` follows no link that he may have put there.
        let mut file = File::options().write(true).create_new(true).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(PostgresError::io("write", &temporary))?;
    account.own(&temporary)?;
    fs::rename(&temporary, path).map_err(PostgresError::io("rename", &temporary))
}

/// What follows the data folder's name in that of an unfinished one.
const LEAVINGS: &str = ".initdb-";

/// Removes what starters left that were killed or given up.
async fn sweep(data_dir: &Path) -> Result<(), PostgresError> {
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    let Some(name) = data_dir.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    for entry in fs::read_dir(parent).map_err(PostgresError::io("read", parent))?.flatten() {
        let unfinished = entry
            .file_name()
            .to_str()
            .and_then(|found| found.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(LEAVINGS));
        if unfinished {
            remove_unfinished(&entry.path()).await?;
        }
    }
    Ok(())
}

/// Removes an unfinished data folder. Programs that its starter began may still be writing to it: those that work in it are ended, and
/// those that do not (`initdb` itself, which clears up after its child's end) soon end for want of it.
async fn remove_unfinished(path: &Path) -> Result<(), PostgresError> {
    let removing = || PostgresError::io("remove", path);
    let deadline = Instant::now() + WRITERS_LIMIT;
    loop {
        // As the kernel names the folder that a process works in. A folder that is gone has no workers.
        let folder = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        for writer in Process::all_in(&folder).map_err(removing())? {
            writer.signal(Signal::KILL).map_err(removing())?;
            writer.ended().await.map_err(removing())?;
        }
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                // Nothing tells when the last of them has ended: look again.
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            Err(error) => return Err(removing()(error)),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A program of PostgreSQL's, as the server's user, in a process group of its own: a Ctrl-C at the terminal is ours to
/// handle, in our order, and must not reach it.
pub(crate) fn command(binaries: &Binaries, program: &str, account: &Account) -> Command {
    let mut command = Command::new(binaries.program(program));
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
    account.apply(&mut command);
    command
}

async fn run(name: &'static str, mut command: Command, input: &str) -> Result<(), PostgresError> {
    let program = Path::new(name);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(PostgresError::io("run", program))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why in its output.
        match stdin.write_all(input.as_bytes()).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(PostgresError::io("write to", program)(error));
            }
            _ => {}
        }
    }
    let output = child.wait_with_output().await.map_err(PostgresError::io("wait for", program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let output_text = String::from_utf8_lossy(&said).trim().to_owned();
    Err(PostgresError::Program { program: name, status: output.status, output: output_text })
}
