//! The REST API, as a user's program sees it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::Method;
use reqwest::header::HeaderMap;
use sandbar_types::ErrorCode;
use serde_json::{Value, json};

/// Longer than any of the platform's own deadlines: the client must never be the one who gives up.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A client of one platform.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Client {
    /// A client of the platform at `base`, with an API key or without any credential.
    pub fn new(base: impl Into<String>, key: Option<String>) -> Result<Self> {
        // Proxies of the machine that runs the tests are none of the platform's business.
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Self { http, base: base.into(), key })
    }

    /// The same platform, asked with another key, or none.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// The platform's URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The key that is sent.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    fn builder(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let builder = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => builder.header("x-api-key", key),
            None => builder,
        }
    }

    /// Sends a request that is complete, and reads the whole answer.
    pub async fn send(&self, builder: reqwest::RequestBuilder) -> Result<Reply> {
        let response = builder.send().await.context("the request got no answer")?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.context("the answer broke off")?.to_vec();
        Ok(Reply { status, headers, bytes })
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send(self.builder(Method::GET, path)).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Reply> {
        self.send(self.builder(Method::DELETE, path)).await
    }

    /// `POST` of a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send(self.builder(Method::POST, path).json(body)).await
    }

    /// `PUT` of a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send(self.builder(Method::PUT, path).json(body)).await
    }

    /// `POST` of a body that need not be JSON.
    pub async fn post_raw(&self, path: &str, content_type: &str, body: Vec<u8>) -> Result<Reply> {
        self.send(self.builder(Method::POST, path).header("content-type", content_type).body(body)).await
    }

    /// Makes a sandbox.
    pub async fn create(&self, body: &Value) -> Result<Reply> {
        self.post("/v1/sandboxes", body).await
    }

    /// What the platform says of a sandbox.
    pub async fn sandbox(&self, id: &str) -> Result<Value> {
        self.get(&format!("/v1/sandboxes/{id}")).await?.json(200)
    }

    /// The status of a sandbox.
    pub async fn status(&self, id: &str) -> Result<String> {
        let sandbox = self.sandbox(id).await?;
        Ok(sandbox["status"].as_str().context("a sandbox without a status")?.to_owned())
    }

    /// All sandboxes that a query of the list gives, whatever the number of pages.
    pub async fn list(&self, query: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let page = match &cursor {
                None => format!("/v1/sandboxes?limit=200&{query}"),
                Some(cursor) => format!("/v1/sandboxes?limit=200&cursor={cursor}&{query}"),
            };
            let reply = self.get(&page).await?;
            let next = reply
                .headers
                .get("x-next-cursor")
                .map(|value| value.to_str().map(str::to_owned))
                .transpose()?;
            match reply.json(200)? {
                Value::Array(page) => all.extend(page),
                other => anyhow::bail!("a list answered {other}"),
            }
            if next.is_none() {
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// Runs a command to its end. `body` is the request as the API takes it.
    pub async fn exec(&self, id: &str, body: &Value) -> Result<Reply> {
        self.post(&format!("/v1/sandboxes/{id}/exec"), body).await
    }

    /// Writes a file.
    pub async fn write_file(&self, id: &str, path: &str, content: Vec<u8>) -> Result<Reply> {
        let form = reqwest::multipart::Form::new()
            .text("path", path.to_owned())
            .part("file", reqwest::multipart::Part::bytes(content).file_name("file"));
        self.send(self.builder(Method::POST, &format!("/v1/sandboxes/{id}/files/write")).multipart(form))
            .await
    }

    /// Reads a file.
    pub async fn read_file(&self, id: &str, path: &str) -> Result<Reply> {
        self.post(&format!("/v1/sandboxes/{id}/files/read"), &json!({"path": path})).await
    }
}

impl Reply {
    /// The body of an answer that must have this status.
    pub fn json(&self, status: u16) -> Result<Value> {
        self.expect(status)?;
        serde_json::from_slice(&self.bytes).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// Fails unless the answer has this status.
    pub fn expect(&self, status: u16) -> Result<&Self> {
        anyhow::ensure!(
            self.status == status,
            "status {} in place of {status}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }

    /// The message of a refusal. It must carry this code with its status, and the request's id in header and body.
    pub fn refusal(&self, code: ErrorCode) -> Result<String> {
        let body: Value = serde_json::from_slice(&self.bytes)
            .with_context(|| format!("status {} without a JSON body: {}", self.status, self.text()))?;
        let error = &body["error"];
        anyhow::ensure!(error["code"] == code.as_str(), "not the code {code}: {} {body}", self.status);
        anyhow::ensure!(self.status == code.http_status(), "{code} with the status {}", self.status);
        let header = self.headers.get("x-request-id").context("no X-Request-Id")?.to_str()?;
        anyhow::ensure!(
            error["request_id"] == header,
            "the body names another request than {header}: {body}"
        );
        let message = error["message"].as_str().context("no message")?;
        anyhow::ensure!(!message.is_empty(), "an empty message");
        Ok(message.to_owned())
    }

    /// The body, for people; cut where it is long.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).chars().take(2000).collect()
    }
}
