//! One platform: `sandbar up` with its own folder, port and network, as a user starts it in a terminal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::census::Footprint;
use crate::{Cli, Client, Sandbox, wait};

/// The first start installs nothing, but fetches and unpacks packages, boots a guest and keeps it, all perhaps in emulation.
const FIRST_START_LIMIT: Duration = Duration::from_secs(900);
/// A stop writes a checkpoint of the database; sandboxes run on.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// The end of the summary that `up` prints when it has nothing left to do.
const READY_TEXT: &str = "Stop it with:";
/// Bytes of a log that a failure shows.
const LOG_TAIL: u64 = 8 << 10;

/// How many machines the host keeps ready.
const WARM_POOL: &str = "SANDBAR_WARM_POOL";

/// A platform, started or not.
#[derive(Debug)]
pub struct Platform {
    binary: PathBuf,
    data_dir: PathBuf,
    log_dir: PathBuf,
    port: u16,
    https_port: u16,
    up: Mutex<Option<Up>>,
    starting: tokio::sync::Mutex<()>,
    starts: Mutex<u32>,
    environment: Mutex<BTreeMap<&'static str, String>>,
}

/// A `sandbar up` that was started here.
#[derive(Debug)]
pub struct Up {
    child: Child,
    pid: i32,
    stdout: PathBuf,
}

impl Platform {
    /// The name below which its sandboxes have theirs. No resolver knows it.
    pub const DOMAIN: &str = "sbx.test";

    /// A platform in a folder, which need not exist. Nothing is started.
    pub fn new(binary: PathBuf, data_dir: &Path) -> Result<Self> {
        fs::create_dir_all(data_dir)?;
        let data_dir = data_dir.canonicalize()?;
        let log_dir = data_dir.with_extension("logs");
        fs::create_dir_all(&log_dir)?;
        Ok(Self {
            binary,
            data_dir,
            log_dir,
            port: free_port()?,
            https_port: free_port()?,
            up: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            starts: Mutex::default(),
            // Most tests count what there is of the sandboxes that they made.
            environment: Mutex::new(BTreeMap::from([(WARM_POOL, "off".to_owned())])),
        })
    }

    /// The binary under test: `SANDBAR_BIN`, or the one that was built beside the tests.
    pub fn find_binary() -> Result<PathBuf> {
        let binary = match std::env::var_os("SANDBAR_BIN") {
            Some(path) => PathBuf::from(path),
            None => {
                let own = std::env::current_exe()?;
                let profile =
                    own.parent().and_then(Path::parent).context("the test is in no target folder")?;
                profile.join("sandbar")
            }
        };
        let found = binary.canonicalize();
        found.with_context(|| {
            format!("{} is missing: build it with `cargo build -p sandbar`", binary.display())
        })
    }

    /// Its folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The binary under test.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of its API.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it serves HTTPS.
    #[must_use]
    pub fn https_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.https_port).into()
    }

    /// The network between the host and its sandboxes: not the default one, which may be in use, and in all likelihood not that of
    /// another folder's tests.
    #[must_use]
    pub fn network(&self) -> String {
        let folder = u8::from_str_radix(&self.footprint().tag()[..1], 16).unwrap_or_default();
        format!("10.214.{}.0/20", folder * 16)
    }

    /// What it has on this machine.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        Footprint::new(&self.data_dir)
    }

    /// The command line `sandbar up` for this platform.
    #[must_use]
    pub fn up_command(&self, more: &[&str]) -> Cli {
        let data_dir = self.data_dir.to_string_lossy().into_owned();
        let listen = format!("127.0.0.1:{}", self.port);
        let network = self.network();
        let https = self.https_address().to_string();
        let own =
            ["up", "--vmm", "qemu", "--data-dir", &data_dir, "--listen", &listen, "--network", &network];
        let edge = ["--domain", Self::DOMAIN, "--https-listen", &https];
        let own = own.into_iter().chain(edge);
        Cli::new(&self.binary, own.chain(more.iter().copied()))
    }

    /// Another of the binary's commands, with the platform's folder.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Cli {
        Cli::new(&self.binary, arguments).env("SANDBAR_DATA_DIR", &self.data_dir.to_string_lossy())
    }

    /// Starts `sandbar up` in the foreground, and returns at once.
    pub fn spawn_up(&self) -> Result<()> {
        let number = {
            let mut starts = self.starts.lock().expect("no test panics while it holds this");
            *starts += 1;
            *starts
        };
        let log = |stream: &str| self.log_dir.join(format!("up-{number}.{stream}"));
        let (stdout, stderr) = (log("stdout"), log("stderr"));
        let environment = self.environment.lock().expect("no test panics while it holds this").clone();
        let command =
            environment.iter().fold(self.up_command(&[]), |command, (name, value)| command.env(name, value));
        let child = command
            .env("RUST_LOG", &std::env::var("SANDBAR_E2E_LOG").unwrap_or_else(|_| "info".to_owned()))
            .into_command()
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            // As a shell does: Ctrl-C goes to the whole group, and the terminal's own group is another.
            .process_group(0)
            .spawn()
            .context("sandbar does not start")?;
        let pid = child.id().context("no process id")?.cast_signed();
        let up = Up { child, pid, stdout };
        *self.up.lock().expect("no test panics while it holds this") = Some(up);
        Ok(())
    }

    /// Waits until the `up` that was started has said so, and tells how long it took.
    pub async fn wait_ready(&self) -> Result<Duration> {
        let started = Instant::now();
        self.until_up(FIRST_START_LIMIT, "it is ready", || Ok(self.up_stdout()?.contains(READY_TEXT)))
            .await?;
        Ok(started.elapsed())
    }

    /// Waits until `look` says yes, for as long as `up` runs.
    pub async fn until_up(&self, limit: Duration, what: &str, look: impl Fn() -> Result<bool>) -> Result<()> {
        let ended = wait::until(what, limit, async || {
            // Looked at first: what it did before it ended, counts.
            let come_true = look()?;
            let mut guard = self.up.lock().expect("no test panics while it holds this");
            let up = guard.as_mut().context("sandbar up was not started")?;
            match up.child.try_wait()? {
                _ if come_true => Ok(Some(None)),
                // No use in asking again.
                Some(status) => Ok(Some(Some(status))),
                None => Ok(None),
            }
        })
        .await?;
        match ended {
            None => Ok(()),
            Some(status) => {
                *self.up.lock().expect("no test panics while it holds this") = None;
                bail!("sandbar up ended ({status}) before {what}")
            }
        }
    }

    /// Starts it, unless it runs, and waits until it is ready.
    pub async fn start(&self) -> Result<()> {
        // Tests that run beside each other may all be the first.
        let _turn = self.starting.lock().await;
        if self.up.lock().expect("no test panics while it holds this").is_none() {
            self.spawn_up()?;
            self.wait_ready().await?;
        }
        Ok(())
    }

    /// Starts it with these variables, in place of those of before; what runs of it ends first.
    pub async fn restart_with(&self, variables: &[(&'static str, String)]) -> Result<()> {
        if self.up.lock().expect("no test panics while it holds this").is_some() {
            self.stop().await?;
        }
        let mut environment = BTreeMap::from([(WARM_POOL, "off".to_owned())]);
        environment.extend(variables.iter().cloned());
        *self.environment.lock().expect("no test panics while it holds this") = environment;
        self.start().await
    }

    /// How often the host agent has logged a text since the folder was made.
    pub fn agent_logged(&self, text: &str) -> Result<usize> {
        let log = fs::read(self.data_dir.join("log/host-agent.log"))?;
        Ok(String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count())
    }

    /// The logs, of the control plane, its agent and its database, in which a text is.
    pub fn logs_with(&self, text: &str) -> Result<Vec<PathBuf>> {
        let mut with = Vec::new();
        for folder in [self.log_dir.clone(), self.data_dir.join("log")] {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_file() && String::from_utf8_lossy(&fs::read(&path)?).contains(text) {
                    with.push(path);
                }
            }
        }
        Ok(with)
    }

    /// The process id of the `up` that runs.
    pub fn up_pid(&self) -> Result<i32> {
        let guard = self.up.lock().expect("no test panics while it holds this");
        Ok(guard.as_ref().context("sandbar up was not started")?.pid)
    }

    /// What the `up` that runs has printed.
    pub fn up_stdout(&self) -> Result<String> {
        let guard = self.up.lock().expect("no test panics while it holds this");
        Ok(fs::read_to_string(&guard.as_ref().context("sandbar up was not started")?.stdout)?)
    }

    /// Presses Ctrl-C in `up`'s terminal, and waits for its end.
    pub async fn interrupt(&self) -> Result<ExitStatus> {
        let group = Pid::from_raw(self.up_pid()?).context("no process id")?;
        rustix::process::kill_process_group(group, Signal::INT)?;
        self.reap().await
    }

    /// Ends `up` as a service manager would. Sandboxes run on.
    pub async fn stop(&self) -> Result<ExitStatus> {
        crate::census::signal(self.up_pid()?, Signal::TERM)?;
        self.reap().await
    }

    /// Kills `up`, and nothing else.
    pub async fn kill_up(&self) -> Result<()> {
        crate::census::signal(self.up_pid()?, Signal::KILL)?;
        let status = self.reap().await?;
        anyhow::ensure!(status.signal() == Some(9), "it had ended before: {status}");
        Ok(())
    }

    async fn reap(&self) -> Result<ExitStatus> {
        let up = self.up.lock().expect("no test panics while it holds this").take();
        let mut up = up.context("sandbar up was not started")?;
        match tokio::time::timeout(STOP_LIMIT, up.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                up.child.start_kill()?;
                bail!("sandbar up does not end within {STOP_LIMIT:?}")
            }
        }
    }

    /// What `up` left for the first user.
    pub fn first_run(&self) -> Result<Value> {
        let file = self.data_dir.join("first-run.json");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A client with the first user's key.
    pub fn client(&self) -> Result<Client> {
        let key = self.first_run()?["api_key"].as_str().context("no api_key")?.to_owned();
        Client::new(self.url(), Some(key))
    }

    /// A sandbox from the base template.
    pub async fn sandbox(&self) -> Result<Sandbox> {
        Sandbox::create(&self.client()?, &json!({})).await
    }

    /// The host agent's process id: its lock's holder writes it there.
    pub fn agent_pid(&self) -> Result<i32> {
        let text = fs::read_to_string(self.footprint().host_dir().join("agent.lock"))?;
        text.trim().parse().context("the agent's lock names no process")
    }

    /// The end of every log, for people.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut files = Vec::new();
        for folder in [self.log_dir.clone(), self.data_dir.join("log")] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            files.extend(entries.map(|entry| entry.path()));
        }
        files.sort();
        let shown = files.iter().map(|file| {
            let text = tail(file).unwrap_or_else(|error| error.to_string());
            format!("---- {}\n{text}\n", file.display())
        });
        shown.collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Only reached with a living `up` where the tests end in a panic; the footprint's removal then ends the rest.
        let _gone = self.child.start_kill();
    }
}

fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A port that nobody listens on. Somebody may take it before we do; a start then fails and says so.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
