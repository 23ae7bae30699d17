//! Object storage for a platform: a real S3 server, which `tests/object-storage/install.sh` installs.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::wait;
use tokio::process::{Child, Command};

/// Python takes its time.
const START_LIMIT: Duration = Duration::from_secs(120);
const BUCKET: &str = "sandbar-e2e";

/// A server of a test's own. What it has goes with it.
pub(crate) struct ObjectStorage {
    _server: Child,
    url: String,
}

impl ObjectStorage {
    pub(crate) async fn start() -> Result<Self> {
        let own = std::env::current_exe()?;
        let target = own.ancestors().nth(3).context("the tests are in no target folder")?;
        let program = target.join("object-storage-venv/bin/moto_server");
        ensure!(program.exists(), "{} is missing: run tests/object-storage/install.sh", program.display());
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let url = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::builder().no_proxy().build()?;
        wait::until_true("the S3 server has a bucket", START_LIMIT, async || {
            Ok(http.put(format!("{url}/{BUCKET}")).send().await?.status().is_success())
        })
        .await?;
        Ok(Self { _server: server, url })
    }

    /// What tells a platform of it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("SNAPSHOT_STORE", format!("s3://{BUCKET}/kept")),
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    }
}
