//! A sandbox that goes when its test does.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::{Client, ExecSocket, Reply};

/// A running sandbox of a test's own.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// What the platform answered when it was made.
    pub made: Value,
    client: Client,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The answer as it came.
    pub raw: Value,
    /// Its standard output, decoded.
    pub stdout: Vec<u8>,
    /// Its standard error, decoded.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub exit_code: i64,
}

impl Sandbox {
    /// Makes one; `body` as the API takes it.
    pub async fn create(client: &Client, body: &Value) -> Result<Self> {
        let made = client.create(body).await?.json(201)?;
        let id = made["id"].as_str().context("a sandbox without an id")?.to_owned();
        anyhow::ensure!(made["status"] == "running", "made, but not running: {made}");
        Ok(Self { id, made, client: client.clone() })
    }

    /// One that was made by other means, a child of a fork for example.
    #[must_use]
    pub fn of(client: &Client, id: &str, made: Value) -> Self {
        Self { id: id.to_owned(), made, client: client.clone() }
    }

    /// The client that made it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The address at which the host reaches its guest.
    pub fn host_ip(&self) -> Result<Ipv4Addr> {
        Ok(self.made["host_ip"].as_str().context("no host_ip")?.parse()?)
    }

    /// Runs a command; `body` as the API takes it.
    pub async fn try_exec(&self, body: &Value) -> Result<Reply> {
        self.client.exec(&self.id, body).await
    }

    /// Runs a command that must be runnable, whatever its exit code.
    pub async fn exec(&self, body: &Value) -> Result<Outcome> {
        let raw = self.try_exec(body).await?.json(200)?;
        let bytes = |field: &str| -> Result<Vec<u8>> {
            let text = raw[field].as_str().context("a missing stream")?;
            Ok(if raw["encoding"] == "base64" { STANDARD.decode(text)? } else { text.as_bytes().to_vec() })
        };
        let exit_code = raw["exit_code"].as_i64().context("no exit code")?;
        Ok(Outcome { stdout: bytes("stdout")?, stderr: bytes("stderr")?, exit_code, raw })
    }

    /// What a shell script prints, without the white space around it. It must succeed.
    pub async fn sh(&self, script: &str) -> Result<String> {
        self.sh_as("user", script).await
    }

    /// The same as another user.
    pub async fn sh_as(&self, user: &str, script: &str) -> Result<String> {
        let body = json!({"cmd": "bash", "args": ["-c", script], "user": user, "timeout_sec": 120});
        let outcome = self.exec(&body).await?;
        anyhow::ensure!(outcome.exit_code == 0, "{script}: {}", outcome.raw);
        Ok(String::from_utf8(outcome.stdout)?.trim().to_owned())
    }

    /// Starts a command over the WebSocket.
    pub async fn stream(&self, start: Value) -> Result<ExecSocket> {
        ExecSocket::start(&self.client, &self.id, start).await
    }

    /// Its status.
    pub async fn status(&self) -> Result<String> {
        self.client.status(&self.id).await
    }

    /// Ends it. That it is gone already is fine.
    pub async fn destroy(&self) -> Result<()> {
        let reply = self.client.delete(&format!("/v1/sandboxes/{}", self.id)).await?;
        if [404, 409].contains(&reply.status) { Ok(()) } else { reply.expect(204).map(|_| ()) }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A failed test's sandbox must not stay in the way of those after it. What cannot be ended now is found by the last census.
        tokio::task::block_in_place(|| {
            let _ended = tokio::runtime::Handle::current().block_on(self.destroy());
        });
    }
}
