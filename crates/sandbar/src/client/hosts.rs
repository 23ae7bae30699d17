//! Hosts.

use chrono::{DateTime, Utc};
use reqwest::Method;
use sandbar_types::{Id, id};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError};

/// A host, as the API tells it. What this version does not know of it is kept for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) id: Id<id::Host>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) team_name: String,
    pub(crate) status: String,
    pub(crate) address: Option<String>,
    pub(crate) cpu_cores: Option<u32>,
    pub(crate) memory_mb: Option<u32>,
    pub(crate) last_heartbeat_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

/// A host to be.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NewHost<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) availability_zone: Option<&'a str>,
}

/// What becomes of the sandboxes that run on a host that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    GoOn,
    Pause,
}

/// A sandbox that stays on a host, with why it does, in the API's word.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Staying {
    pub(crate) id: String,
    pub(crate) team_id: String,
    pub(crate) status: String,
    pub(crate) reason: String,
}

/// A host that waits for its agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AddedHost {
    pub(crate) host: Host,
    pub(crate) registration_token: String,
}

impl Client {
    pub(crate) async fn add_host(&self, new: &NewHost<'_>) -> Result<AddedHost, ClientError> {
        let request = self.request(Method::POST, "/v1/hosts").json(new);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// All that the caller may see, newest first, page by page.
    pub(crate) async fn hosts(&self) -> Result<Vec<Host>, ClientError> {
        self.pages("/v1/hosts", &[]).await
    }

    pub(crate) async fn host(&self, id: Id<id::Host>) -> Result<Host, ClientError> {
        let request = self.request(Method::GET, &format!("/v1/hosts/{id}"));
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// What a host's agent registers with.
    pub(crate) async fn host_token(&self, id: Id<id::Host>) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Body {
            registration_token: String,
        }
        let request = self.request(Method::POST, &format!("/v1/hosts/{id}/token"));
        let body: Body = self.call(request).await?.json().await.map_err(self.broken())?;
        Ok(body.registration_token)
    }

    pub(crate) async fn drain_host(&self, id: Id<id::Host>, running: Running) -> Result<Host, ClientError> {
        let body = serde_json::json!({ "pause": running == Running::Pause });
        let request = self.request(Method::POST, &format!("/v1/hosts/{id}/drain")).json(&body);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// What stays on a host that drains, and why.
    pub(crate) async fn staying(&self, id: Id<id::Host>) -> Result<Vec<Staying>, ClientError> {
        #[derive(Deserialize)]
        struct Body {
            sandboxes: Vec<Staying>,
        }
        let request = self.request(Method::GET, &format!("/v1/hosts/{id}/delete-preview"));
        let body: Body = self.call(request).await?.json().await.map_err(self.broken())?;
        Ok(body.sandboxes)
    }

    pub(crate) async fn end_host_drain(&self, id: Id<id::Host>) -> Result<Host, ClientError> {
        let request = self.request(Method::DELETE, &format!("/v1/hosts/{id}/drain"));
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// Forced, with all that it has.
    pub(crate) async fn delete_host(&self, id: Id<id::Host>, forced: bool) -> Result<(), ClientError> {
        self.call(self.request(Method::DELETE, &format!("/v1/hosts/{id}?force={forced}"))).await?;
        Ok(())
    }

    pub(crate) async fn host_tags(&self, id: Id<id::Host>) -> Result<Vec<String>, ClientError> {
        let request = self.request(Method::GET, &format!("/v1/hosts/{id}/tags"));
        self.call(request).await?.json().await.map_err(self.broken())
    }

    pub(crate) async fn tag_host(&self, id: Id<id::Host>, tag: &str) -> Result<(), ClientError> {
        let body = serde_json::json!({ "tag": tag });
        self.call(self.request(Method::POST, &format!("/v1/hosts/{id}/tags")).json(&body)).await?;
        Ok(())
    }

    pub(crate) async fn untag_host(&self, id: Id<id::Host>, tag: &str) -> Result<(), ClientError> {
        // A slash is a part of the tag, not of the path.
        let tag = tag.replace('%', "%25").replace('/', "%2F");
        self.call(self.request(Method::DELETE, &format!("/v1/hosts/{id}/tags/{tag}"))).await?;
        Ok(())
    }
}
