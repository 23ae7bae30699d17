//! Builds of templates, and their progress.

use std::collections::BTreeMap;

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Method};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::events::Events;
use super::{Client, ClientError};

/// Whose templates are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builds {
    /// Those of the client's team.
    Team,
    /// The platform's own, which every team has; for its administrators.
    Platform,
}

impl Builds {
    fn path(self, rest: &str) -> String {
        let routes = match self {
            Self::Team => "/v1/builds",
            Self::Platform => "/v1/admin/builds",
        };
        format!("{routes}{rest}")
    }
}

/// What to build.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NewBuild {
    pub(crate) name: String,
    pub(crate) recipe: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from_archive: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) secrets: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) registry: Option<Registry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base_template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck_sec: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_mb: Option<u32>,
}

/// Who asks a registry.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) username: String,
    pub(crate) password: SecretString,
}

impl Serialize for Registry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = [("username", self.username.as_str()), ("password", self.password.expose_secret())];
        serializer.collect_map(pairs)
    }
}

/// A build, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Build {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) total_steps: u32,
    pub(crate) attempts: u32,
    pub(crate) error: Option<String>,
}

impl Build {
    /// Whether nothing comes any more.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "pending" | "running")
    }
}

/// What a step wrote since the event before, or since it began where the stream is new.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct StepLog {
    pub(crate) attempt: u32,
    pub(crate) step: u32,
    pub(crate) cmd: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) truncated: bool,
    pub(crate) duration_ms: Option<u64>,
}

/// What is there of an archive.
#[derive(Debug, Deserialize)]
struct Received {
    received: u64,
}

/// What comes of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BuildEvent {
    Log(StepLog),
    Build(Build),
}

/// A build's events, as they come.
pub(crate) struct BuildEvents(Events);

impl Client {
    pub(crate) async fn create_build(&self, whose: Builds, new: &NewBuild) -> Result<Build, ClientError> {
        let request = self.request(Method::POST, &whose.path("")).json(new);
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// Whether the platform has an archive of files for builds.
    pub(crate) async fn has_build_files(&self, whose: Builds, sha256: &str) -> Result<bool, ClientError> {
        let request = self.request(Method::GET, &whose.path(&format!("/files/{sha256}")));
        match self.call(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("not_found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How much of one the platform has: where an upload goes on.
    pub(crate) async fn build_files_received(&self, whose: Builds, sha256: &str) -> Result<u64, ClientError> {
        let request = self.request(Method::GET, &whose.path(&format!("/files/{sha256}/received")));
        let received: Received = self.call(request).await?.json().await.map_err(self.broken())?;
        Ok(received.received)
    }

    /// Brings one, from a byte of it on.
    pub(crate) async fn put_build_files(
        &self,
        whose: Builds,
        sha256: &str,
        contents: Body,
        (from, length): (u64, u64),
    ) -> Result<(), ClientError> {
        let request = self.request(Method::PUT, &whose.path(&format!("/files/{sha256}?from={from}")));
        self.open(request.header(CONTENT_LENGTH, length).body(contents)).await?;
        Ok(())
    }

    pub(crate) async fn cancel_build(&self, whose: Builds, id: &str) -> Result<Build, ClientError> {
        let request = self.request(Method::POST, &whose.path(&format!("/{id}/cancel")));
        self.call(request).await?.json().await.map_err(self.broken())
    }

    /// A build's events from its first step on.
    pub(crate) async fn follow_build(&self, whose: Builds, id: &str) -> Result<BuildEvents, ClientError> {
        let request = self.request(Method::GET, &whose.path(&format!("/{id}/logs/stream")));
        Ok(BuildEvents(Events::of(&self.url, self.open(request).await?)))
    }
}

impl BuildEvents {
    /// The next event; none at the stream's end.
    pub(crate) async fn next(&mut self) -> Result<Option<BuildEvent>, ClientError> {
        while let Some((name, data)) = self.0.next().await? {
            let event = match name.as_str() {
                "log" => serde_json::from_str(&data).map(BuildEvent::Log),
                "build" => serde_json::from_str(&data).map(BuildEvent::Build),
                // Of a later version.
                _ => continue,
            };
            return event.map(Some).map_err(|error| self.0.broken(error));
        }
        Ok(None)
    }
}
