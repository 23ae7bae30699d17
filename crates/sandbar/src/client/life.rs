//! Pause, resume, forks, time-outs, figures.

use chrono::{DateTime, Utc};
use reqwest::Method;
use sandbar_types::{Id, MetricsRange, OnTimeout, id};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError, Sandbox};

/// A time-out; what is left out stays as it was, or is the platform's choice.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Timeout {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_sec: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_timeout: Option<OnTimeout>,
}

/// Whether a sandbox's memory is kept, or used; left out where it is, as every platform takes it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<bool>,
}

impl Memory {
    pub(crate) const fn of(kept: bool) -> Self {
        Self { memory: if kept { None } else { Some(false) } }
    }
}

/// How a sandbox goes on.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Resume {
    #[serde(flatten)]
    pub(crate) timeout: Timeout,
    #[serde(flatten)]
    pub(crate) memory: Memory,
}

/// What is asked of a fork.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct NewFork {
    pub(crate) count: u32,
    #[serde(flatten)]
    pub(crate) timeout: Timeout,
}

/// One child of a fork.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Child {
    Sandbox(Box<Sandbox>),
    Error(ChildError),
}

/// Why there is no child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChildError {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A sandbox's figures, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Metrics {
    pub(crate) range: MetricsRange,
    pub(crate) points: Vec<MetricsPoint>,
}

/// At one moment, or on average up to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MetricsPoint {
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) cpu_pct: f64,
    pub(crate) mem_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Client {
    pub(crate) async fn pause_sandbox(
        &self,
        id: Id<id::Sandbox>,
        memory: Memory,
    ) -> Result<Sandbox, ClientError> {
        let request = self.request(Method::POST, &format!("/v1/sandboxes/{id}/pause")).json(&memory);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    pub(crate) async fn resume_sandbox(
        &self,
        id: Id<id::Sandbox>,
        resume: Resume,
    ) -> Result<Sandbox, ClientError> {
        let request = self.request(Method::POST, &format!("/v1/sandboxes/{id}/resume")).json(&resume);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    pub(crate) async fn set_timeout(
        &self,
        id: Id<id::Sandbox>,
        timeout: Timeout,
    ) -> Result<Sandbox, ClientError> {
        let request = self.request(Method::POST, &format!("/v1/sandboxes/{id}/timeout")).json(&timeout);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    pub(crate) async fn fork_sandbox(
        &self,
        id: Id<id::Sandbox>,
        fork: NewFork,
    ) -> Result<Vec<Child>, ClientError> {
        let request = self.request(Method::POST, &format!("/v1/sandboxes/{id}/fork")).json(&fork);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    pub(crate) async fn metrics(
        &self,
        id: Id<id::Sandbox>,
        range: MetricsRange,
    ) -> Result<Metrics, ClientError> {
        let request = self.request(Method::GET, &format!("/v1/sandboxes/{id}/metrics?range={range}"));
        self.call(request).await?.json().await.map_err(self.broken())
    }
}
