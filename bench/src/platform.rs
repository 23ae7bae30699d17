//! The platform under test: one that runs, or one of the benchmark's own; and its REST API.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sandbar_vmm::ProcessIdentity;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

/// Where the benchmark's own platform listens, and the network of its sandboxes: beside the defaults.
const OWN_LISTEN: &str = "127.0.0.1:18080";
const OWN_NETWORK: &str = "10.216.0.0/16";

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
    /// Whether it is to be stopped at the end, and by which binary.
    own: Option<PathBuf>,
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
        let up = Command::new(&binary)
            .args(["up", "--detach", "--listen", OWN_LISTEN, "--network", OWN_NETWORK, "--data-dir"])
            .arg(&folder)
            .env_remove("DATABASE_URL")
            .status()
            .await?;
        ensure!(up.success(), "sandbar up failed: {up}");
        let endpoint = first_run(&folder)?;
        Ok(Self { http, endpoint, data_dir: folder, own: Some(binary) })
    }

    /// Stops the platform if it is our own.
    pub(crate) async fn leave(&self) -> Result<()> {
        let Some(binary) = &self.own else { return Ok(()) };
        let down = Command::new(binary).args(["down", "--data-dir"]).arg(&self.data_dir).status().await?;
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
        let folder = self.store_dir().join("sandboxes").join(id);
        match &sandbar_vmm::process::machines_under(&folder)?[..] {
            [(_, process)] => Ok(*process),
            found => bail!("{} machines run in {}", found.len(), folder.display()),
        }
    }
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
