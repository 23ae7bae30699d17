//! A registry's side of the protocol that OCI calls distribution: documents and blobs over HTTPS, with a token where it wants one.
//!
//! - [`challenge`]: what a registry says when it wants to know who asks;
//! - [`destination`]: where requests may go;
//! - [`pull`]: from a reference to an image at hand.
//!
//! Credentials go to the registry and to whom it names for its tokens, and into no log and no error.

mod challenge;
mod destination;
mod pull;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest;
use crate::reference::Reference;
use challenge::Challenge;
use destination::Destinations;

pub use destination::Registries;
pub use pull::{FetchLimits, Fetched};

/// How long a registry may take to be reached, and to say the next thing.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of a token's answer.
const TOKEN_BYTES: u64 = 64 << 10;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Name of the user.
    pub username: String,
    /// Password or access token.
    pub password: SecretString,
}

/// The registry of one reference, asked by one person.
#[derive(Debug)]
pub struct Registry {
    http: reqwest::Client,
    destinations: Destinations,
    reference: Reference,
    credentials: Option<Credentials>,
    /// What it let itself be convinced by.
    authorization: Mutex<Option<HeaderValue>>,
}

/// Why a request failed, and whether asking again makes sense.
enum Failure {
    /// The connection broke, or the registry is overburdened.
    Passing(ImageError),
    Final(ImageError),
}

impl Registry {
    /// Nothing is asked yet.
    pub fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        allowed: &Registries,
    ) -> Result<Self, ImageError> {
        let destinations = Destinations::new(reference, allowed);
        let http = reqwest::Client::builder()
            .user_agent(concat!("sandbar/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .dns_resolver(destinations.resolver())
            .redirect(destinations.redirects())
            // A blob is what its digest says, byte by byte.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build()
            .map_err(|error| ImageError::Registry {
                registry: reference.registry().to_owned(),
                reason: describe(&error),
            })?;
        let reference = reference.clone();
        Ok(Self { http, destinations, reference, credentials, authorization: Mutex::default() })
    }

    fn url(&self, rest: &str) -> Result<Url, ImageError> {
        let scheme = if self.destinations.is_plain() { "http" } else { "https" };
        let text = format!(
            "{scheme}://{}/v2/{}/{rest}",
            self.reference.registry_host(),
            self.reference.repository()
        );
        Url::parse(&text).map_err(|error| self.failed(error.to_string()))
    }

    /// A manifest or an index, by tag or digest, held against the digest.
    async fn manifest(&self, wanted: &str, digest: Option<Digest>) -> Result<Vec<u8>, Failure> {
        let url = self.url(&format!("manifests/{wanted}")).map_err(Failure::Final)?;
        let response = self.get(url, &manifest::ACCEPTED.join(", "), 0).await?;
        let text = self.body(response, manifest::DOCUMENT_BYTES).await?;
        match digest {
            Some(digest) if Digest::of(&text) != digest => Err(Failure::Final(ImageError::broken(format!(
                "the registry gave another manifest than {digest}"
            )))),
            _ => Ok(text),
        }
    }

    /// A blob from `offset` on, or, if the registry does not do that, from its beginning: its status tells.
    async fn blob(&self, digest: Digest, offset: u64) -> Result<Response, Failure> {
        let url = self.url(&format!("blobs/{digest}")).map_err(Failure::Final)?;
        self.get(url, "application/octet-stream, */*", offset).await
    }

    /// Asks, and asks again with a token if the registry wants one.
    async fn get(&self, url: Url, accept: &str, offset: u64) -> Result<Response, Failure> {
        self.destinations.check(&url).map_err(Failure::Final)?;
        let ask = |authorization: Option<HeaderValue>| {
            let mut request = self.http.get(url.clone()).header(ACCEPT, accept);
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            request.send()
        };
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = ask(known).await.map_err(|error| self.broke(&error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.convince(&response).await?;
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization.clone());
            response = ask(Some(authorization)).await.map_err(|error| self.broke(&error))?;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Final(self.not_authorised())),
            StatusCode::NOT_FOUND => {
                Err(Failure::Final(ImageError::Unknown { image: self.reference.to_string() }))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Passing(
                self.failed("it was asked too often, and wants to be left alone for a while"),
            )),
            status if status.is_server_error() => {
                Err(Failure::Passing(self.failed(format!("it answered {status}"))))
            }
            status => Err(Failure::Final(self.failed(format!("it answered {status}")))),
        }
    }

    /// What the registry that gave this answer is to be told, so that it lets us read.
    async fn convince(&self, response: &Response) -> Result<HeaderValue, Failure> {
        let headers =
            response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let secret = |value: String| {
            let mut value =
                HeaderValue::from_str(&value).map_err(|_| Failure::Final(self.not_authorised()))?;
            // Not to be seen, whoever prints a request.
            value.set_sensitive(true);
            Ok(value)
        };
        match Challenge::strongest(headers) {
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(&realm, service.as_deref()).await?;
                secret(format!("Bearer {}", token.expose_secret()))
            }
            Some(Challenge::Basic) => {
                use base64::Engine as _;
                let Credentials { username, password } =
                    self.credentials.as_ref().ok_or_else(|| Failure::Final(self.not_authorised()))?;
                let pair = format!("{username}:{}", password.expose_secret());
                secret(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
            }
            None => Err(Failure::Final(self.not_authorised())),
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<SecretString, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<SecretString>,
            access_token: Option<SecretString>,
        }
        let mut url = Url::parse(realm)
            .map_err(|_| Failure::Final(self.failed("it names no address for its tokens")))?;
        self.destinations.check(&url).map_err(Failure::Final)?;
        let scope = format!("repository:{}:pull", self.reference.repository());
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &scope);
        let mut request = self.http.get(url);
        if let Some(Credentials { username, password }) = &self.credentials {
            request = request.basic_auth(username, Some(password.expose_secret()));
        }
        let response = request.send().await.map_err(|error| self.broke(&error))?;
        match response.status() {
            status if status.is_success() => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Passing(self.failed(format!("its tokens' server answered {status}"))));
            }
            _ => return Err(Failure::Final(self.not_authorised())),
        }
        let text = self.body(response, TOKEN_BYTES).await?;
        let answer: Option<Answer> = serde_json::from_slice(&text).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        token.ok_or_else(|| Failure::Final(self.failed("its tokens' server gave none")))
    }

    /// A body of no more than `limit` bytes.
    async fn body(&self, response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|error| self.broke(&error))?);
            if body.len() as u64 > limit {
                return Err(Failure::Final(ImageError::TooLarge(format!(
                    "the registry's answer has more than {limit} bytes"
                ))));
            }
        }
        Ok(body)
    }

    fn broke(&self, error: &reqwest::Error) -> Failure {
        // The resolver's refusal is not of those that pass.
        if destination::is_refusal(error) {
            return Failure::Final(ImageError::Private { registry: self.reference.registry().to_owned() });
        }
        Failure::Passing(self.failed(describe(error)))
    }

    fn failed(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Registry { registry: self.reference.registry().to_owned(), reason: reason.into() }
    }

    fn not_authorised(&self) -> ImageError {
        ImageError::NotAuthorised { image: self.reference.to_string() }
    }
}

/// An error of HTTP in a few words. Never the URL: a blob's may carry a signature that lets others in.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    if error.is_redirect() {
        return "it leads elsewhere in a way that is not followed".to_owned();
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    if std::ptr::addr_eq(last, error) { "the connection broke".to_owned() } else { last.to_string() }
}
