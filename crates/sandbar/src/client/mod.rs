//! A client of the REST API, as far as the command line needs it.
//!
//! It knows the contract, not the server's types: the same program speaks to a control plane of another version.

mod builds;
mod error;
mod events;
mod exec;
mod files;
mod hosts;
mod life;
mod logs;
mod sandboxes;
mod secrets;
mod snapshots;
mod terminal;
#[cfg(test)]
pub(crate) mod tests;
mod volumes;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use secrecy::{ExposeSecret as _, SecretString};

pub(crate) use builds::{Build, BuildEvent, Builds, NewBuild, Registry, StepLog};
pub(crate) use error::ClientError;
pub(crate) use exec::{ExecEvent, ExecInput, ExecOutput, ExecStart};
pub(crate) use hosts::{Host, NewHost, Running, Staying};
pub(crate) use life::{Child, Memory, NewFork, Resume, Timeout};
pub(crate) use logs::{LogEntry, LogEvent, LogFilter, PAGE};
pub(crate) use sandboxes::{Mount, Network, NetworkRules, NewSandbox, Sandbox, SandboxFilter};
pub(crate) use secrets::Secret;
pub(crate) use snapshots::{Existing, Snapshot};
pub(crate) use terminal::{TerminalEvent, TerminalInput, TerminalOpening, TerminalOutput};
pub(crate) use volumes::Volume;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for an answer that is not a stream. Creating waits for a host; nothing takes longer than that.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// A connection to one control plane, as one team or one person.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    credential: Credential,
}

/// By what the platform knows who asks.
#[derive(Debug, Clone)]
enum Credential {
    /// A team's key.
    Key(SecretString),
    /// The token of a person's sign-in.
    Token(SecretString),
}

impl Client {
    /// As a team, by its key.
    pub(crate) fn new(url: &str, key: SecretString) -> Result<Self, ClientError> {
        Self::with(url, Credential::Key(key))
    }

    /// As a person, by the token of a sign-in.
    pub(crate) fn signed_in(url: &str, token: SecretString) -> Result<Self, ClientError> {
        Self::with(url, Credential::Token(token))
    }

    /// As a person who signs in now.
    pub(crate) async fn sign_in(
        url: &str,
        email: &str,
        password: &SecretString,
    ) -> Result<Self, ClientError> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: SecretString,
        }
        // The credential of a request that needs none is not looked at.
        let nobody = Self::signed_in(url, SecretString::default())?;
        let body = serde_json::json!({ "email": email, "password": password.expose_secret() });
        let request = nobody.http.post(format!("{}/v1/auth/login", nobody.url)).json(&body);
        let answer: Answer = nobody.call(request).await?.json().await.map_err(nobody.broken())?;
        Self::signed_in(url, answer.token)
    }

    /// Ends the sign-in.
    pub(crate) async fn sign_out(&self) -> Result<(), ClientError> {
        self.call(self.request(Method::POST, "/v1/auth/logout")).await?;
        Ok(())
    }

    fn with(url: &str, credential: Credential) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/').to_owned();
        match reqwest::Url::parse(&url) {
            Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => {}
            _ => return Err(ClientError::BadUrl { url }),
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            // WebSockets start as HTTP/1.1.
            .http1_only()
            .build()
            .map_err(|source| ClientError::Setup { source })?;
        Ok(Self { http, url, credential })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.credential {
            Credential::Key(key) => request.header("X-API-Key", key.expose_secret()),
            Credential::Token(token) => request.bearer_auth(token.expose_secret()),
        }
    }

    /// Sends a request whose answer is small.
    async fn call(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        self.open(request.timeout(ANSWER_LIMIT)).await
    }

    /// Sends a request whose body or answer takes as long as it takes.
    async fn open(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| ClientError::unsent(&self.url, source))?;
        if response.status().is_success() || response.status() == reqwest::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Err(ClientError::refused(&self.url, response).await)
    }

    /// All items of a list, page by page.
    async fn pages<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = std::iter::once(("limit", "200".to_owned()));
            let cursor_pair = cursor.iter().map(|cursor| ("cursor", cursor.clone()));
            let pairs = limit.chain(query.iter().cloned()).chain(cursor_pair);
            let request = self.request(Method::GET, &format!("{path}?{}", encode_query(pairs)));
            let response = self.call(request).await?;
            let next = response.headers().get("x-next-cursor").and_then(|value| value.to_str().ok());
            let next = next.map(str::to_owned);
            let mut page: Vec<T> = response.json().await.map_err(self.broken())?;
            all.append(&mut page);
            if next.is_none() || next == cursor {
                return Ok(all);
            }
            cursor = next;
        }
    }

    fn broken(&self) -> impl FnOnce(reqwest::Error) -> ClientError {
        let url = self.url.clone();
        move |source| ClientError::Broken { url, source: source.into() }
    }
}

/// `a=b&c=d`, percent-encoded.
fn encode_query<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> String {
    // A URL type does this, but only as a part of a whole URL.
    let mut url = reqwest::Url::parse("http://localhost/").expect("a constant that is a URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}
