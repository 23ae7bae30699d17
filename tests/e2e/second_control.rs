//! A second control plane on the platform's database, and what stands before both for those who do not care which answers.

use std::fs::{self, File};
use std::net::TcpListener as Reserved;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use sandbar_tests::census::signal;
use sandbar_tests::{Cli, Client, Platform, wait};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::task::JoinHandle;

const START_LIMIT: Duration = Duration::from_secs(120);

/// `sandbar up --no-host` with a folder of its own, which has nothing but the master key.
pub(crate) struct SecondControl<'a> {
    platform: &'a Platform,
    variables: Vec<(&'static str, String)>,
    dir: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl<'a> SecondControl<'a> {
    pub(crate) async fn join(platform: &'a Platform, variables: &[(&'static str, String)]) -> Result<Self> {
        let of = platform.data_dir().file_name().context("no folder")?.to_string_lossy();
        let dir = platform.data_dir().with_file_name(format!("second-control-of-{of}"));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("control"))?;
        fs::copy(platform.data_dir().join("control/master.key"), dir.join("control/master.key"))?;
        let port = Reserved::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut second = Self { platform, variables: variables.to_vec(), dir, port, process: None };
        second.start().await?;
        Ok(second)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn client(&self) -> Result<Client> {
        let key = self.platform.client()?.key().map(str::to_owned);
        Client::new(format!("http://127.0.0.1:{}", self.port), key)
    }

    /// Starts it, and waits until it serves.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let (data_dir, listen) = (self.dir.to_string_lossy(), format!("127.0.0.1:{}", self.port));
        let sockets = self.platform.data_dir().join("postgres/run");
        let sockets = sockets.to_string_lossy().replace('/', "%2F");
        let database = format!("postgres://sandbar@localhost/sandbar?host={sockets}");
        let log = self.platform.data_dir().join("log/second-control.log");
        let log = File::options().create(true).append(true).open(log)?;
        let arguments = ["up", "--no-host", "--data-dir", &data_dir, "--listen", &listen];
        let command = Cli::new(self.platform.binary(), arguments).env("DATABASE_URL", &database);
        let command = self.variables.iter().fold(command, |command, (name, value)| command.env(name, value));
        let process = command
            .env("RUST_LOG", "info")
            .into_command()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.process = Some(process);
        let client = self.client()?;
        wait::until_true("the second control plane serves", START_LIMIT, async || {
            let ended = self.process.as_mut().context("it was not started")?.try_wait()?;
            ensure!(ended.is_none(), "it ended: {ended:?}");
            Ok(client.get("/readyz").await?.status == 200)
        })
        .await
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.process.take().context("it does not run")?.kill().await?)
    }

    /// Ends it as a service manager would.
    pub(crate) async fn leave(mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        signal(process.id().context("it has ended before")?.cast_signed(), Signal::TERM)?;
        let ended = tokio::time::timeout(START_LIMIT, process.wait()).await;
        let status = ended.context("the second control plane does not end")??;
        ensure!(status.success(), "the second control plane ended with {status}");
        Ok(())
    }
}

impl Drop for SecondControl<'_> {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ended = process.start_kill();
        }
        let _removed = fs::remove_dir_all(&self.dir);
    }
}

/// A load balancer that knows nothing of HTTP: each connection goes to the next control plane that takes it.
pub(crate) struct Balancer {
    port: u16,
    serving: JoinHandle<()>,
}

impl Balancer {
    pub(crate) async fn before(controls: [u16; 2]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let serving = tokio::spawn(async move {
            let mut order = controls;
            while let Ok((mut from, _)) = listener.accept().await {
                order.reverse();
                tokio::spawn(async move {
                    for control in order {
                        if let Ok(mut to) = TcpStream::connect(("127.0.0.1", control)).await {
                            // Whoever ends first ends both.
                            let _broken = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { port, serving })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
