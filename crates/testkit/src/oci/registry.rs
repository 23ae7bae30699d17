//! A registry: the reference implementation, Debian's package `docker-registry`, with a folder and a port of its own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, RequestBuilder};
use tempfile::TempDir;

use super::image::{TestImage, index, media_types};

const START_LIMIT: Duration = Duration::from_secs(30);

/// Who may use a registry that does not let everybody in.
#[derive(Debug, Clone, Copy)]
pub struct TestLogin;

impl TestLogin {
    /// The one user.
    pub const USERNAME: &str = "sesam";
    /// Their password.
    pub const PASSWORD: &str = "open sesame";
    /// It, as the registry keeps it: made by crypt(3) with method 2b.
    const ENTRY: &str = "sesam:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n";
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct TestRegistry {
    process: Child,
    address: String,
    login: Option<TestLogin>,
    folder: TempDir,
}

impl TestRegistry {
    /// Starts one on a port of the loopback address; over plain HTTP.
    pub async fn start(login: Option<TestLogin>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // Freed for the registry, which cannot be given a socket.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            folder.path().join("data").display()
        );
        if login.is_some() {
            let users = folder.path().join("users");
            std::fs::write(&users, TestLogin::ENTRY)?;
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
        }
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry cannot be started (Debian package docker-registry)")?;
        let mut registry = Self { process, address, login, folder };
        registry.wait().await?;
        Ok(registry)
    }

    /// Where it listens: `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    async fn wait(&mut self) -> Result<()> {
        let started = Instant::now();
        let client = Client::new();
        loop {
            if client.get(format!("http://{}/v2/", self.address)).send().await.is_ok() {
                return Ok(());
            }
            let ended = self.process.try_wait()?.is_some();
            if ended || started.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                anyhow::bail!("the registry does not serve: {log}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts an image into a repository, under a tag.
    pub async fn push(&self, repository: &str, tag: &str, image: &TestImage) -> Result<()> {
        let content = self.push_parts(repository, image).await?;
        self.put_manifest(repository, tag, media_types().0, content).await
    }

    /// Puts several images for several processors under one tag.
    pub async fn push_index(&self, repository: &str, tag: &str, images: &[TestImage]) -> Result<()> {
        let (manifest_type, index_type) = media_types();
        let mut manifests = Vec::new();
        for image in images {
            let content = self.push_parts(repository, image).await?;
            let (manifest, _) = image.manifest();
            self.put_manifest(repository, &manifest.digest, manifest_type, content).await?;
            let mut descriptor = manifest.descriptor(manifest_type);
            descriptor["platform"] = serde_json::json!({"os": "linux", "architecture": image.arch()});
            manifests.push(descriptor);
        }
        self.put_manifest(repository, tag, index_type, index(&manifests).into_bytes()).await
    }

    /// Puts an image's blobs there, and gives its manifest.
    async fn push_parts(&self, repository: &str, image: &TestImage) -> Result<Vec<u8>> {
        let (manifest, blobs) = image.manifest();
        for blob in blobs {
            let begun = self.send(Client::new().post(self.url(repository, "blobs/uploads/"))).await?;
            let location =
                begun.headers().get(LOCATION).context("no place to put a blob")?.to_str()?.to_owned();
            let location =
                format!("{location}{}digest={}", if location.contains('?') { '&' } else { '?' }, blob.digest);
            self.send(Client::new().put(location).body(blob.content)).await?;
        }
        Ok(manifest.content)
    }

    async fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        content: Vec<u8>,
    ) -> Result<()> {
        let request = Client::new().put(self.url(repository, &format!("manifests/{name}")));
        self.send(request.header(CONTENT_TYPE, media_type).body(content)).await.map(drop)
    }

    fn url(&self, repository: &str, rest: &str) -> String {
        format!("http://{}/v2/{repository}/{rest}", self.address)
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<reqwest::Response> {
        if self.login.is_some() {
            request = request.basic_auth(TestLogin::USERNAME, Some(TestLogin::PASSWORD));
        }
        let response = request.send().await?;
        let status = response.status();
        ensure!(status.is_success(), "the registry answered {status}");
        Ok(response)
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        // Whatever these say: it is gone, or was before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
