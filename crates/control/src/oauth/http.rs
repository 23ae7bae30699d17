//! How providers are spoken to: JSON, with a limit on time and size, never following where an answer points.

use std::time::Duration;

use http::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const MOST_BYTES: usize = 1 << 20;

/// Why a provider did not tell who somebody is.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It cannot be reached, or broke off.
    #[error("it cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It answered with a status that is no success.
    #[error("it answered {status}")]
    Status {
        /// Which.
        status: StatusCode,
    },
    /// Its answer is too large.
    #[error("its answer is too large")]
    TooLarge,
    /// Its answer is not what the protocol says.
    #[error("its answer is not understood")]
    Answer(#[source] serde_json::Error),
    /// It says that it is another.
    #[error("it says that it is {said:?}")]
    OtherIssuer {
        /// Who it says that it is.
        said: String,
    },
    /// What it says of itself would have secrets travel in the clear.
    #[error("it names addresses that are not https")]
    Insecure,
    /// Its token is not signed with a key of its own by a method that is taken.
    #[error("its id token is signed with no key of its own that is taken")]
    Key,
    /// Its token does not hold.
    #[error("its id token does not hold")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// Its token was made for something else.
    #[error("its id token was made for another sign-in")]
    Nonce,
}

/// Speaks to providers.
pub(super) struct Http(Client);

impl Http {
    pub(super) fn new() -> Result<Self, ProviderError> {
        let client = Client::builder().timeout(LIMIT).redirect(Policy::none()).build();
        Ok(Self(client.map_err(ProviderError::Unreachable)?))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, ProviderError> {
        answer(self.0.get(url)).await
    }

    pub(super) async fn get_as<T: DeserializeOwned>(
        &self,
        url: &str,
        token: &SecretString,
    ) -> Result<T, ProviderError> {
        answer(self.0.get(url).header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()))).await
    }

    pub(super) async fn post_form<T: DeserializeOwned>(
        &self,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<T, ProviderError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        answer(self.0.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)).await
    }
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ProviderError> {
    let request = request.header(ACCEPT, "application/json").header(USER_AGENT, "sandbar");
    let mut response = request.send().await.map_err(ProviderError::Unreachable)?;
    if !response.status().is_success() {
        return Err(ProviderError::Status { status: response.status() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ProviderError::Unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_BYTES {
            return Err(ProviderError::TooLarge);
        }
    }
    serde_json::from_slice(&body).map_err(ProviderError::Answer)
}

/// A URL with a query.
pub(super) fn with_query(url: &str, query: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' })
}
