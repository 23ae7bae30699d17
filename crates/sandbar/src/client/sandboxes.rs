//! `/v1/sandboxes`: create, list, get, delete.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use reqwest::Method;
use sandbar_types::{Id, OnTimeout, SandboxStatus, id};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError};

/// A sandbox, as the API tells it. What this version does not know of it is kept for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) id: Id<id::Sandbox>,
    pub(crate) status: SandboxStatus,
    pub(crate) template: String,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    pub(crate) disk_mb: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) created_at: DateTime<Utc>,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

/// What is asked of a new sandbox; what is left out is the platform's choice.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NewSandbox {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_sec: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_timeout: Option<OnTimeout>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, String>,
    /// Names of secrets, by the variable that each is the value of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) secrets: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<Mount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<NetworkRules>,
}

/// A volume that a sandbox is to have.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Mount {
    /// Its name or id.
    pub(crate) name: String,
    pub(crate) path: String,
}

/// Where a sandbox may connect to, as it is asked for.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NetworkRules {
    pub(crate) allow_out: Vec<String>,
    pub(crate) deny_out: Vec<String>,
    pub(crate) allow_internet: bool,
}

/// Where a sandbox may connect to, and what it was denied. What this version does not know of it is kept for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) allow_out: Vec<String>,
    pub(crate) deny_out: Vec<String>,
    pub(crate) allow_internet: bool,
    pub(crate) denials: Denials,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Denials {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) addresses: Vec<DeniedAddress>,
    pub(crate) names: Vec<DeniedName>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeniedAddress {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: Option<u32>,
    pub(crate) packets: u64,
    pub(crate) last_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeniedName {
    pub(crate) name: String,
    pub(crate) queries: u64,
    pub(crate) last_at: Option<DateTime<Utc>>,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxFilter {
    /// Empty: all but stopped and failed ones.
    pub(crate) status: Vec<SandboxStatus>,
    pub(crate) template: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Client {
    pub(crate) async fn create_sandbox(&self, new: &NewSandbox) -> Result<Sandbox, ClientError> {
        let response = self.call(self.request(Method::POST, "/v1/sandboxes").json(new)).await?;
        response.json().await.map_err(self.broken())
    }

    pub(crate) async fn sandbox(&self, id: Id<id::Sandbox>) -> Result<Sandbox, ClientError> {
        let response = self.call(self.request(Method::GET, &format!("/v1/sandboxes/{id}"))).await?;
        response.json().await.map_err(self.broken())
    }

    pub(crate) async fn network(&self, id: Id<id::Sandbox>) -> Result<Network, ClientError> {
        let response = self.call(self.request(Method::GET, &format!("/v1/sandboxes/{id}/network"))).await?;
        response.json().await.map_err(self.broken())
    }

    pub(crate) async fn set_network(
        &self,
        id: Id<id::Sandbox>,
        rules: &NetworkRules,
    ) -> Result<(), ClientError> {
        let request = self.request(Method::PUT, &format!("/v1/sandboxes/{id}/network"));
        self.call(request.json(rules)).await?;
        Ok(())
    }

    pub(crate) async fn delete_sandbox(&self, id: Id<id::Sandbox>) -> Result<(), ClientError> {
        self.call(self.request(Method::DELETE, &format!("/v1/sandboxes/{id}"))).await?;
        Ok(())
    }

    /// All that match, newest first, page by page.
    pub(crate) async fn sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>, ClientError> {
        let mut query: Vec<(&str, String)> = Vec::new();
        if !filter.status.is_empty() {
            let words: Vec<&str> = filter.status.iter().map(|status| status.as_str()).collect();
            query.push(("status", words.join(",")));
        }
        query.extend(filter.template.iter().map(|name| ("template", name.clone())));
        query.extend(filter.metadata.iter().map(|(key, value)| ("metadata", format!("{key}={value}"))));
        self.pages("/v1/sandboxes", &query).await
    }
}
