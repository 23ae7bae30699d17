//! Why a request came to nothing, in words that say what to do.

use reqwest::{Response, StatusCode};
use serde::Deserialize;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Most characters of an answer that is not ours which an error quotes.
const QUOTED_CHARS: usize = 200;

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{url:?} is no address of a Sandbar: it must start with http:// or https://")]
    BadUrl { url: String },

    #[error("the HTTP client cannot be set up")]
    Setup { source: reqwest::Error },

    #[error(
        "cannot reach Sandbar at {url}: is it running? Start it on this machine with `sandbar up`, or name another one with \
         --url or SANDBAR_URL"
    )]
    Unreachable { url: String, source: reqwest::Error },

    #[error("Sandbar at {url} did not answer in time")]
    Silent { url: String, source: reqwest::Error },

    #[error("the connection to Sandbar at {url} broke")]
    Broken { url: String, source: BoxError },

    #[error(
        "Sandbar at {url} does not accept the API key: give a valid one with --api-key or SANDBAR_API_KEY (on the machine that \
         runs `sandbar up`, root needs neither)"
    )]
    KeyRefused { url: String },

    #[error("{message} ({code}, request {request_id})")]
    Refused { code: String, message: String, request_id: String },

    #[error("what answers at {url} is no Sandbar (status {status}: {body})")]
    NotSandbar { url: String, status: StatusCode, body: String },

    #[error("Sandbar at {url} sent what this version does not understand: {what}")]
    NotUnderstood { url: String, what: String },
}

impl ClientError {
    /// The word for programs, where the platform gave one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// A request that got no answer.
    pub(super) fn unsent(url: &str, source: reqwest::Error) -> Self {
        let url = url.to_owned();
        if source.is_connect() {
            Self::Unreachable { url, source }
        } else if source.is_timeout() {
            Self::Silent { url, source }
        } else {
            Self::Broken { url, source: source.into() }
        }
    }

    /// An answer that is no success.
    pub(super) async fn refused(url: &str, response: Response) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Info,
        }
        #[derive(Deserialize)]
        struct Info {
            code: String,
            message: String,
            #[serde(default)]
            request_id: String,
        }
        let url = url.to_owned();
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Body>(&text) {
            Ok(Body { error }) if error.code == "unauthorized" => Self::KeyRefused { url },
            Ok(Body { error: Info { code, message, request_id } }) => {
                Self::Refused { code, message, request_id }
            }
            Err(_) => Self::NotSandbar { url, status, body: text.chars().take(QUOTED_CHARS).collect() },
        }
    }
}
