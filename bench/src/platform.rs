//! The platform under test: one that runs, or one of the benchmark's own; and its REST API.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sandbar_vmm::ProcessIdentity;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

/// The network of the sandboxes of the benchmark's own platform: beside the default.
const OWN_NETWORK: &str = "10.216.0.0/16";

/// How long a spare machine may take to be made, and to use no processor before it counts as ready.
const SPARE_LIMIT: Duration = Duration::from_secs(120);
const STANDS_STILL: Duration = Duration::from_secs(1);

/// Where a platform is and how to get in. The fields that are read of its `first-run.json`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) api_key: String,
}

/// The platform under test.
#[derive(Debug)]
pub(crate) struct Platform {
    http: reqwest::Client,
    endpoint: Endpoint,
    data_dir: PathBuf,
    /// None for one that was there.
    own: Option<Own>,
}

/// A platform that is to be stopped at the end.
#[derive(Debug)]
struct Own {
    binary: PathBuf,
    listen: SocketAddr,
    data_dir: PathBuf,
}

/// A sandbox that was made, and how long that took.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) id: String,
    pub(crate) host_ip: String,
    pub(crate) took: Duration,
}

impl Platform {
    /// The platform in `data_dir` where it answers, else one of our own beside the build's output, which is kept for the next time.
    pub(crate) async fn find_or_start(data_dir: &Path, endpoint: Option<Endpoint>) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(300)).build()?;
        let found = endpoint.or_else(|| first_run(data_dir).ok());
        if let Some(endpoint) = found {
            let ready = http.get(format!("{}/readyz", endpoint.url)).send().await;
            if ready.is_ok_and(|ready| ready.status().is_success()) {
                eprintln!("measuring the platform at {}", endpoint.url);
                return Ok(Self { http, endpoint, data_dir: data_dir.to_owned(), own: None });
            }
        }
        let binary = binary()?;
        let folder = binary.with_file_name("bench-platform");
        eprintln!("no platform runs on {}: starting one on {}", data_dir.display(), folder.display());
        // Free now; another program that takes it first makes the start fail, and says so.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let own = Own { binary, listen, data_dir: folder.clone() };
        own.up("off").await?;
        let endpoint = Endpoint { url: format!("http://{listen}"), ..first_run(&folder)? };
        Ok(Self { http, endpoint, data_dir: folder, own: Some(own) })
    }

    /// Starts the platform anew with one machine of each template in use kept ready, if it is our own; whether it is.
    pub(crate) async fn keep_warm(&self) -> Result<bool> {
        let Some(own) = &self.own else { return Ok(false) };
        self.leave().await?;
        own.up("1").await?;
        Ok(true)
    }

    /// Returns once a spare machine is there and has got ready: it stands still.
    pub(crate) async fn spare(&self) -> Result<()> {
        let mut before = None;
        let waited = Instant::now();
        loop {
            ensure!(waited.elapsed() < SPARE_LIMIT, "no machine was made ahead");
            let spares = sandbar_vmm::process::machines_under(&self.store_dir().join("tmp"))?;
            let now = match &spares[..] {
                [(_, spare)] => Some((*spare, processor_time(*spare)?)),
                _ => None,
            };
            if now.is_some() && now == before {
                return Ok(());
            }
            before = now;
            tokio::time::sleep(STANDS_STILL).await;
        }
    }

    /// Stops the platform if it is our own.
    pub(crate) async fn leave(&self) -> Result<()> {
        let Some(Own { binary, data_dir, .. }) = &self.own else { return Ok(()) };
        let down = Command::new(binary).args(["down", "--data-dir"]).arg(data_dir).status().await?;
        ensure!(down.success(), "sandbar down failed: {down}");
        Ok(())
    }

    /// Its folder of disks.
    pub(crate) fn store_dir(&self) -> PathBuf {
        self.data_dir.join("host/store")
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.endpoint.url));
        request.header("x-api-key", &self.endpoint.api_key).json(body)
    }

    /// Makes a sandbox: from the request to the answer that it runs.
    pub(crate) async fn create(&self) -> Result<Created> {
        let started = Instant::now();
        // The limit is for the sandboxes of a benchmark that is killed.
        let body = json!({"timeout_sec": 600, "metadata": {"made-by": "bench"}});
        let answer = self.post("/v1/sandboxes", &body).send().await?;
        let status = answer.status();
        let sandbox: Value = answer.json().await?;
        let took = started.elapsed();
        ensure!(status.as_u16() == 201, "create: {status} {sandbox}");
        let text = |field: &'static str| sandbox[field].as_str().map(str::to_owned).context(field);
        Ok(Created { id: text("id")?, host_ip: text("host_ip")?, took })
    }

    /// Runs `true` in a sandbox: from the request to the answer.
    pub(crate) async fn exec(&self, id: &str) -> Result<Duration> {
        let started = Instant::now();
        let answer = self.post(&format!("/v1/sandboxes/{id}/exec"), &json!({"cmd": "true"})).send().await?;
        let status = answer.status();
        let outcome: Value = answer.json().await?;
        let took = started.elapsed();
        ensure!(status.as_u16() == 200 && outcome["exit_code"] == 0, "exec: {status} {outcome}");
        Ok(took)
    }

    /// Runs a script in a sandbox.
    pub(crate) async fn sh(&self, id: &str, script: &str) -> Result<()> {
        let body = json!({"cmd": "bash", "args": ["-c", script]});
        let answer = self.post(&format!("/v1/sandboxes/{id}/exec"), &body).send().await?;
        let outcome: Value = answer.error_for_status()?.json().await?;
        ensure!(outcome["exit_code"] == 0, "{script}: {outcome}");
        Ok(())
    }

    /// The client by which all is asked.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A request to a port of a sandbox.
    pub(crate) fn get_port(&self, id: &str, port: u16, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(format!("{}{path}", self.endpoint.url));
        let request = request.header("e2b-sandbox-id", id).header("e2b-sandbox-port", port);
        request.header("x-api-key", &self.endpoint.api_key)
    }

    /// Ends a sandbox.
    pub(crate) async fn destroy(&self, id: &str) -> Result<()> {
        let request = self.http.delete(format!("{}/v1/sandboxes/{id}", self.endpoint.url));
        let answer = request.header("x-api-key", &self.endpoint.api_key).send().await?;
        ensure!(answer.status().as_u16() == 204, "destroy: {}", answer.status());
        Ok(())
    }

    /// The process of a sandbox's virtual machine.
    pub(crate) fn vmm_of(&self, id: &str) -> Result<ProcessIdentity> {
        let record = fs::read(self.data_dir.join(format!("host/journal/{id}.json")))?;
        let record: Value = serde_json::from_slice(&record)?;
        serde_json::from_value(record["process"].clone()).context("the host's record names no process")
    }

    /// Runs a command as root: what it prints.
    pub(crate) async fn run(&self, id: &str, command: &[&str]) -> Result<String> {
        let (cmd, args) = command.split_first().context("no command")?;
        let body = json!({"cmd": cmd, "args": args, "user": "root", "timeout_sec": 300});
        let outcome = self.act(id, "exec", &body).await?.1;
        ensure!(outcome["exit_code"] == 0, "{cmd}: {outcome}");
        Ok(outcome["stdout"].as_str().context("no output")?.to_owned())
    }

    /// Does something to a sandbox: from the request to the answer, and the answer.
    pub(crate) async fn act(&self, id: &str, what: &str, body: &Value) -> Result<(Duration, Value)> {
        let started = Instant::now();
        let answer = self.post(&format!("/v1/sandboxes/{id}/{what}"), body).send().await?;
        let status = answer.status();
        let text = answer.bytes().await?;
        let took = started.elapsed();
        ensure!(status.is_success(), "{what}: {status} {}", String::from_utf8_lossy(&text));
        Ok((took, serde_json::from_slice(&text).unwrap_or_default()))
    }

    /// Keeps a snapshot.
    pub(crate) async fn keep(&self, id: &str, name: &str) -> Result<()> {
        let answer = self
            .post("/v1/snapshots?overwrite=true", &json!({"sandbox_id": id, "name": name}))
            .send()
            .await?;
        ensure!(answer.status().is_success(), "snapshot: {} {}", answer.status(), answer.text().await?);
        Ok(())
    }

    /// Deletes a snapshot.
    pub(crate) async fn forget(&self, name: &str) -> Result<()> {
        let request = self.http.delete(format!("{}/v1/snapshots/{name}", self.endpoint.url));
        request.header("x-api-key", &self.endpoint.api_key).send().await?.error_for_status()?;
        Ok(())
    }
}

impl Own {
    async fn up(&self, warm_pool: &str) -> Result<()> {
        let up = Command::new(&self.binary)
            .args([
                "up",
                "--detach",
                "--listen",
                &self.listen.to_string(),
                "--network",
                OWN_NETWORK,
                "--data-dir",
            ])
            .arg(&self.data_dir)
            .env_remove("DATABASE_URL")
            .env("SANDBAR_WARM_POOL", warm_pool)
            .status()
            .await?;
        ensure!(up.success(), "sandbar up failed: {up}");
        Ok(())
    }
}

/// Clock ticks that a process has used, of its own and in the kernel.
fn processor_time(process: ProcessIdentity) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid))?;
    let (_, after_name) = stat.rsplit_once(')').context("no stat")?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut field = || -> Result<u64> { Ok(fields.next().context("a short stat")?.parse()?) };
    Ok((field()?, field()?))
}

/// The proportional share of memory of a process, in MB.
pub(crate) fn pss_mb(process: ProcessIdentity) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no PSS")?.trim().parse::<f64>()? * 1024.0 / 1e6)
}

fn first_run(data_dir: &Path) -> Result<Endpoint> {
    let file = data_dir.join("first-run.json");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The platform's binary: `SANDBAR_BIN`, or the one that was built beside this one.
fn binary() -> Result<PathBuf> {
    let binary = match std::env::var_os("SANDBAR_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("sandbar"),
    };
    let found = binary.canonicalize();
    found.with_context(|| {
        format!("{} is missing: build it with `cargo build --release -p sandbar`", binary.display())
    })
}
