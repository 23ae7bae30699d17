//! Volumes.

use chrono::{DateTime, Utc};
use reqwest::Method;
use sandbar_types::{Id, id};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Client, ClientError};

/// A volume, as the API tells it. What this version does not know of it is kept for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) size_mb: u32,
    pub(crate) status: String,
    pub(crate) sandbox_id: Option<Id<id::Sandbox>>,
    pub(crate) creator_email: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

impl Client {
    /// Makes a volume.
    pub(crate) async fn create_volume(
        &self,
        name: &str,
        size_mb: Option<u32>,
    ) -> Result<Volume, ClientError> {
        let mut body = json!({ "name": name });
        if let Some(size_mb) = size_mb {
            body["size_mb"] = size_mb.into();
        }
        let made = self.call(self.request(Method::POST, "/v1/volumes").json(&body)).await?;
        made.json().await.map_err(self.broken())
    }

    /// All that there are, newest first, page by page.
    pub(crate) async fn volumes(&self) -> Result<Vec<Volume>, ClientError> {
        self.pages("/v1/volumes", &[]).await
    }

    pub(crate) async fn volume(&self, volume: &str) -> Result<Volume, ClientError> {
        let found = self.call(self.request(Method::GET, &format!("/v1/volumes/{volume}"))).await?;
        found.json().await.map_err(self.broken())
    }

    pub(crate) async fn delete_volume(&self, volume: &str) -> Result<(), ClientError> {
        self.call(self.request(Method::DELETE, &format!("/v1/volumes/{volume}"))).await?;
        Ok(())
    }
}
