//! Secrets.

use chrono::{DateTime, Utc};
use reqwest::Method;
use sandbar_types::SecretName;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Client, ClientError};

/// A secret, as the API tells it. What this version does not know of it is kept for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) creator_email: Option<String>,
    pub(crate) updated_at: DateTime<Utc>,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

impl Client {
    /// Makes a secret, or gives the one of this name another value.
    pub(crate) async fn set_secret(
        &self,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<Secret, ClientError> {
        let value = value.expose_secret();
        let replace = self.request(Method::PUT, &format!("/v1/secrets/{name}"));
        let answer = match self.call(replace.json(&json!({ "value": value }))).await {
            Err(error) if error.code() == Some("not_found") => {
                let make = self.request(Method::POST, "/v1/secrets");
                self.call(make.json(&json!({ "name": name.as_str(), "value": value }))).await?
            }
            answer => answer?,
        };
        answer.json().await.map_err(self.broken())
    }

    /// All that there are, newest first, page by page.
    pub(crate) async fn secrets(&self) -> Result<Vec<Secret>, ClientError> {
        self.pages("/v1/secrets", &[]).await
    }

    pub(crate) async fn delete_secret(&self, name: &SecretName) -> Result<(), ClientError> {
        self.call(self.request(Method::DELETE, &format!("/v1/secrets/{name}"))).await?;
        Ok(())
    }
}
