//! Snapshots.

use chrono::{DateTime, Utc};
use reqwest::Method;
use sandbar_types::{Id, TemplateKind, TemplateName, id};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError, Memory};

/// A snapshot, as the API tells it. What this version does not know of it is kept for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) platform: bool,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

/// Whether a snapshot of the same name is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Refuse,
    Replace,
}

impl Client {
    pub(crate) async fn create_snapshot(
        &self,
        sandbox: Id<id::Sandbox>,
        name: Option<&TemplateName>,
        existing: Existing,
        memory: Memory,
    ) -> Result<Snapshot, ClientError> {
        #[derive(Serialize)]
        struct Body<'a> {
            sandbox_id: Id<id::Sandbox>,
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a TemplateName>,
            #[serde(flatten)]
            memory: Memory,
        }
        let path = match existing {
            Existing::Refuse => "/v1/snapshots",
            Existing::Replace => "/v1/snapshots?overwrite=true",
        };
        let request = self.request(Method::POST, path).json(&Body { sandbox_id: sandbox, name, memory });
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// All that there are, newest first, page by page.
    pub(crate) async fn snapshots(&self, kind: Option<TemplateKind>) -> Result<Vec<Snapshot>, ClientError> {
        let query = kind.iter().map(|kind| ("type", kind.to_string())).collect::<Vec<_>>();
        self.pages("/v1/snapshots", &query).await
    }

    pub(crate) async fn delete_snapshot(&self, name: &TemplateName) -> Result<(), ClientError> {
        self.call(self.request(Method::DELETE, &format!("/v1/snapshots/{name}"))).await?;
        Ok(())
    }

    /// How many bytes were read and found sound. Reading all of a large one takes its time.
    pub(crate) async fn verify_snapshot(&self, name: &TemplateName) -> Result<u64, ClientError> {
        #[derive(Deserialize)]
        struct Body {
            bytes: u64,
        }
        let request = self.request(Method::POST, &format!("/v1/snapshots/{name}/verify"));
        let body: Body = self.open(request).await?.json().await.map_err(self.broken())?;
        Ok(body.bytes)
    }
}
