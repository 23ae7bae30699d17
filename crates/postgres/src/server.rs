//! One server: started or taken over, watched, stopped.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::account::Account;
use crate::cluster;
use crate::postmaster::{Postmaster, Status, Watch};
use crate::process::Process;
use crate::{Binaries, PostgresError};

/// The role that owns everything; peers are mapped to it.
pub const ROLE: &str = "sandbar";
/// The database that a new data folder holds, empty.
pub const DATABASE: &str = "sandbar";

/// The port is part of the socket's name, and nothing else listens in the folder.
const PORT: &str = "5432";
/// Bytes of a unix socket's path (`sun_path`, less its closing zero).
const SOCKET_PATH_BYTES: usize = 107;
/// After a crash the server replays its log before it is ready, which may take minutes on a slow disk.
const STARTUP_LIMIT: Duration = Duration::from_secs(300);
/// A fast shutdown writes a checkpoint. After this long it is cut short; the next start then replays the log.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
/// The children of a killed server notice within moments that it is gone.
const ORPHANS_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of the server's log that an error quotes.
const LOG_TAIL_BYTES: u64 = 4096;

/// Whether what is committed must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It must.
    On,
    /// It need not: for tests, whose data folder is thrown away.
    Off,
}

/// Where a server lives.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data folder; made when missing. Its parent must exist, and the server's user must be able to enter it.
    pub data_dir: PathBuf,
    /// The socket's folder; made when missing, and closed to everybody but the server's user and root.
    pub socket_dir: PathBuf,
    /// The server's log; appended to.
    pub log_file: PathBuf,
    /// Whether commits are flushed to the disk.
    pub durability: Durability,
}

impl Options {
    /// All under one folder.
    #[must_use]
    pub fn in_folder(folder: &Path, durability: Durability) -> Self {
        Self {
            data_dir: folder.join("data"),
            socket_dir: folder.join("run"),
            log_file: folder.join("server.log"),
            durability,
        }
    }
}

/// A server that accepts connections.
///
/// Dropping it leaves the server running; [`Server::stop`] ends it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    /// Ours to reap, where we started it.
    child: Option<Child>,
    socket_dir: PathBuf,
}

impl Server {
    /// Starts the server of a data folder, or takes over the one that runs on it.
    ///
    /// # Errors
    /// Every [`PostgresError`] tells what to do about it.
    pub async fn start(options: &Options) -> Result<Self, PostgresError> {
        if let Some(server) = Self::find(options).await? {
            debug!(pid = server.pid(), "taking over the running PostgreSQL server");
            return Ok(server);
        }
        let account = Account::choose()?;
        let data = cluster::version(&options.data_dir)?;
        let binaries = Binaries::serving(&options.data_dir, data)?;
        account.check_way_to(&options.data_dir)?;
        account.check_way_to(&options.socket_dir)?;
        if data.is_none() {
            cluster::create(&options.data_dir, &binaries, &account, options.durability).await?;
        }
        clear_leavings(options).await?;
        cluster::write_access_rules(&options.data_dir, &account)?;
        make_socket_dir(&options.socket_dir, &account)?;
        Self::launch(options, &binaries, &account).await
    }

    /// The server that runs on a data folder, once it is ready; `None` when none does.
    ///
    /// # Errors
    /// When the server is not ready in time, or the operating system refuses something.
    pub async fn find(options: &Options) -> Result<Option<Self>, PostgresError> {
        let Ok(data_dir) = fs::canonicalize(&options.data_dir) else { return Ok(None) };
        let reading = PostgresError::io("read postmaster.pid in", &data_dir);
        let Some(postmaster) = Postmaster::read(&data_dir).map_err(reading)? else { return Ok(None) };
        let looking = PostgresError::io("look for a server of", &data_dir);
        let Some(process) = Process::open_in(postmaster.pid, &data_dir).map_err(looking)? else {
            return Ok(None);
        };
        let ready = await_ready(options, &data_dir, &process).await?;
        Ok(ready.map(|socket_dir| Self { process, child: None, socket_dir }))
    }

    async fn launch(
        options: &Options,
        binaries: &Binaries,
        account: &Account,
    ) -> Result<Self, PostgresError> {
        let data_dir = fs::canonicalize(&options.data_dir)
            .map_err(PostgresError::io("resolve the path of", &options.data_dir))?;
        let opening = PostgresError::io("open", &options.log_file);
        let mut log =
            File::options().create(true).append(true).mode(0o600).open(&options.log_file).map_err(opening)?;
        let log_start = log.seek(SeekFrom::End(0)).map_err(PostgresError::io("read", &options.log_file))?;
        let log_again = log.try_clone().map_err(PostgresError::io("open", &options.log_file))?;

        let mut command = cluster::command(binaries, "postgres", account);
        command.arg("-D").arg(&data_dir);
        for (name, value) in settings(options.durability) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Quoted: a bare comma would separate two folders.
        let quoted = options.socket_dir.display().to_string().replace('"', "\"\"");
        command.arg("-c").arg(format!("unix_socket_directories=\"{quoted}\""));
        command.stdin(Stdio::null()).stdout(log).stderr(log_again);
        let program = binaries.program("postgres");
        let child = command.spawn().map_err(PostgresError::io("run", &program))?;

        let ended = || PostgresError::Ended {
            log_file: options.log_file.clone(),
            tail: tail(&options.log_file, log_start),
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let opened = Process::open(pid.ok_or_else(ended)?).map_err(PostgresError::io("watch", &program))?;
        let process = opened.ok_or_else(ended)?;
        let socket_dir = await_ready(options, &data_dir, &process).await?.ok_or_else(ended)?;
        Ok(Self { process, child: Some(child), socket_dir })
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }

    /// The URL of one of its databases. [`DATABASE`] exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let host = percent_encode(&self.socket_dir.display().to_string());
        format!("postgres://{ROLE}@localhost/{}?host={host}", percent_encode(database))
    }

    /// Waits for the server's end, for whatever reason. May be given up and called again.
    ///
    /// # Errors
    /// When the operating system cannot tell.
    pub async fn ended(&mut self) -> io::Result<()> {
        match &mut self.child {
            // Reaped, too: a new server takes a zombie's pid for a living one.
            Some(child) => child.wait().await.map(|_status| ()),
            None => self.process.ended().await,
        }
    }

    /// Ends the server: its clients are cut off, what they committed is on disk.
    ///
    /// # Errors
    /// When the server cannot be signalled or waited for.
    pub async fn stop(mut self) -> Result<(), PostgresError> {
        let socket_dir = self.socket_dir.clone();
        let stopping = || PostgresError::io("stop the server of", &socket_dir);
        self.process.signal(Signal::INT).map_err(stopping())?;
        match timeout(SHUTDOWN_LIMIT, self.ended()).await {
            Ok(ended) => ended.map_err(stopping()),
            Err(_) => {
                warn!(pid = self.pid(), "the PostgreSQL server does not stop: cutting its shutdown short");
                self.process.signal(Signal::QUIT).map_err(stopping())?;
                self.ended().await.map_err(stopping())
            }
        }
    }
}

/// Waits until the process says that it is ready and gives its socket's folder; `None` when it ends or is ending.
async fn await_ready(
    options: &Options,
    data_dir: &Path,
    process: &Process,
) -> Result<Option<PathBuf>, PostgresError> {
    let watching = || PostgresError::io("watch", data_dir);
    let watch = Watch::new(data_dir).map_err(watching())?;
    let ready = async {
        loop {
            // Read after the watch is armed, so that no change falls between the two.
            match Postmaster::read(data_dir)? {
                Some(postmaster) if postmaster.pid == process.pid() => match postmaster.status {
                    Status::Ready => return Ok(Some(postmaster.socket_dir)),
                    Status::Stopping => return process.ended().await.map(|()| None),
                    Status::Starting => {}
                },
                // That of a server before this one.
                Some(_) | None => {}
            }
            tokio::select! {
                changed = watch.changed() => changed?,
                ended = process.ended() => return ended.map(|()| None),
            }
        }
    };
    match timeout(STARTUP_LIMIT, ready).await {
        Ok(ready) => ready.map_err(watching()),
        Err(_) => Err(PostgresError::NotReady {
            data_dir: data_dir.to_owned(),
            waited: STARTUP_LIMIT,
            log_file: options.log_file.clone(),
        }),
    }
}

/// Clears away what a killed server left: its children, which a new server refuses to start beside, and its two lock files, whose
/// pid may by now be that of another server of this machine, or that of the killed one, which nobody has reaped.
async fn clear_leavings(options: &Options) -> Result<(), PostgresError> {
    let looking = || PostgresError::io("look for processes of", &options.data_dir);
    let data_dir = fs::canonicalize(&options.data_dir).map_err(looking())?;
    for orphan in Process::all_in(&data_dir).map_err(looking())? {
        match timeout(ORPHANS_LIMIT, orphan.ended()).await {
            Ok(ended) => ended.map_err(looking())?,
            Err(_) => {
                warn!(pid = %orphan.pid(), "killing a process that a killed PostgreSQL server left");
                orphan.signal(Signal::KILL).map_err(looking())?;
                orphan.ended().await.map_err(looking())?;
            }
        }
    }
    let socket_lock = options.socket_dir.join(format!(".s.PGSQL.{PORT}.lock"));
    for lock in [data_dir.join("postmaster.pid"), socket_lock] {
        match fs::remove_file(&lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PostgresError::io("remove", &lock)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn make_socket_dir(socket_dir: &Path, account: &Account) -> Result<(), PostgresError> {
    let socket = socket_dir.join(format!(".s.PGSQL.{PORT}"));
    if socket.as_os_str().len() > SOCKET_PATH_BYTES {
        return Err(PostgresError::SocketPathTooLong { path: socket, limit: SOCKET_PATH_BYTES });
    }
    match fs::DirBuilder::new().mode(0o700).create(socket_dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PostgresError::io("make", socket_dir)(error));
        }
        _ => {}
    }
    fs::set_permissions(socket_dir, fs::Permissions::from_mode(0o700))
        .map_err(PostgresError::io("close", socket_dir))?;
    account.own(socket_dir)
}

/// Settings that differ from PostgreSQL's own. Given as arguments, so that they always are these.
fn settings(durability: Durability) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        ("listen_addresses", ""),
        ("port", PORT),
        ("unix_socket_permissions", "0777"), // the folder is closed, and peers are checked
        ("max_connections", "200"),
        ("shared_buffers", "64MB"),
        ("jit", "off"), // short queries: compiling them costs more than it saves
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_checkpoints", "off"),
        ("logging_collector", "off"),
    ];
    if durability == Durability::Off {
        settings.extend([
            ("fsync", "off"),
            ("synchronous_commit", "off"),
            ("full_page_writes", "off"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "0"),
        ]);
    }
    settings
}

fn tail(log_file: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log_file)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
