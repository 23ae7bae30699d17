//! What E2B's clients are told of a sandbox.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_control::Control;
use sandbar_control::sandboxes::{self, OnTimeout};
use sandbar_types::guest::ENVD_VERSION;
use sandbar_types::network::Destination;
use sandbar_types::{Ingress, MountPath, NetworkPolicy, PauseMode, SandboxStatus, VolumeName};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use crate::e2b::names;
use crate::schema::Timestamp;

/// Whose the sandbox is, in a field that nobody reads any more and everybody requires.
const CLIENT_ID: &str = "sandbar";

/// The two states that the contract knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::e2b) enum State {
    Running,
    Paused,
}

impl State {
    /// None: to E2B's clients there is no such sandbox, not yet or not any more. What is on its way is where it goes; what is `missing` is
    /// not lost, and was last seen running.
    pub(super) const fn of(status: SandboxStatus) -> Option<Self> {
        match status {
            SandboxStatus::Running
            | SandboxStatus::Snapshotting
            | SandboxStatus::Resuming
            | SandboxStatus::Missing => Some(Self::Running),
            SandboxStatus::Pausing | SandboxStatus::Paused => Some(Self::Paused),
            SandboxStatus::Pending
            | SandboxStatus::Starting
            | SandboxStatus::Stopping
            | SandboxStatus::Stopped
            | SandboxStatus::Error => None,
        }
    }

    /// The statuses that are this state.
    pub(super) fn statuses(self) -> impl Iterator<Item = SandboxStatus> {
        SandboxStatus::ALL.into_iter().filter(move |status| Self::of(*status) == Some(self))
    }
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "running" => Ok(Self::Running),
            "paused" => Ok(Self::Paused),
            _ => Err(format!("{text:?} is neither running nor paused")),
        }
    }
}

/// A sandbox and what is needed to reach it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct Sandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: String,
    envd_version: &'static str,
    envd_access_token: String,
    traffic_access_token: Option<String>,
    domain: Option<String>,
}

impl Sandbox {
    pub(super) fn new(control: &Control, sandbox: &sandboxes::Sandbox) -> Self {
        let access = control.sandbox_access(sandbox);
        Self {
            template_id: names::files_id(sandbox.template_id),
            sandbox_id: sandbox.id.e2b(),
            client_id: CLIENT_ID,
            alias: sandbox.template.to_string(),
            envd_version: ENVD_VERSION,
            envd_access_token: access.access_token.expose_secret().to_owned(),
            traffic_access_token: (!sandbox.ingress.public)
                .then(|| access.traffic_token.expose_secret().to_owned()),
            domain: control.domain().map(str::to_owned),
        }
    }
}

/// A sandbox in a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct ListedSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: String,
    started_at: Timestamp,
    end_at: Timestamp,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    state: State,
    envd_version: &'static str,
    metadata: BTreeMap<String, String>,
    volume_mounts: Vec<VolumeMount>,
}

/// A volume that it has.
#[derive(Debug, Serialize)]
struct VolumeMount {
    name: VolumeName,
    path: MountPath,
}

impl ListedSandbox {
    /// None where there is no such sandbox to E2B's clients.
    pub(super) fn new(sandbox: &sandboxes::Sandbox) -> Option<Self> {
        Some(Self {
            template_id: names::files_id(sandbox.template_id),
            sandbox_id: sandbox.id.e2b(),
            client_id: CLIENT_ID,
            alias: sandbox.template.to_string(),
            started_at: Timestamp(sandbox.started_at.unwrap_or(sandbox.created_at)),
            end_at: Timestamp(end_of(sandbox)),
            cpu_count: sandbox.vcpus,
            memory_mb: sandbox.memory_mb,
            disk_size_mb: sandbox.disk_mb,
            state: State::of(sandbox.status)?,
            envd_version: ENVD_VERSION,
            metadata: sandbox.metadata.clone(),
            volume_mounts: sandbox
                .volumes
                .iter()
                .map(|mount| VolumeMount { name: mount.name.clone(), path: mount.path.clone() })
                .collect(),
        })
    }
}

/// All of a sandbox.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct SandboxDetail {
    #[serde(flatten)]
    listed: ListedSandbox,
    envd_access_token: String,
    /// Null where nobody denied it.
    allow_internet_access: Option<bool>,
    domain: Option<String>,
    network: Network,
    lifecycle: Lifecycle,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<PauseMode>,
}

/// Where it may connect to, and who may connect to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    allow_out: Vec<Destination>,
    deny_out: Vec<Destination>,
    allow_public_traffic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_request_host: Option<String>,
}

/// How it ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: OnTimeout,
}

impl SandboxDetail {
    /// As [`ListedSandbox::new`].
    pub(super) fn new(control: &Control, sandbox: &sandboxes::Sandbox) -> Option<Self> {
        let NetworkPolicy { allow_out, deny_out, allow_internet } = sandbox.network.clone();
        let Ingress { public, public_ports: _, mask_request_host, auto_resume } = sandbox.ingress.clone();
        Some(Self {
            listed: ListedSandbox::new(sandbox)?,
            envd_access_token: control.sandbox_access(sandbox).access_token.expose_secret().to_owned(),
            allow_internet_access: (!allow_internet).then_some(false),
            domain: control.domain().map(str::to_owned),
            network: Network { allow_out, deny_out, allow_public_traffic: public, mask_request_host },
            lifecycle: Lifecycle {
                auto_resume,
                on_timeout: match sandbox.on_timeout.keeps() {
                    None => OnTimeout::Kill,
                    // The contract has one word for both.
                    Some(_) => OnTimeout::Pause,
                },
            },
            pause_mode: (sandbox.status == SandboxStatus::Paused)
                .then(|| sandbox.pause_mode.unwrap_or(PauseMode::Full)),
        })
    }
}

/// When it ends by itself. The contract requires a time: of a paused one it is that of its pause, and "never" is the last second that
/// every client can read.
fn end_of(sandbox: &sandboxes::Sandbox) -> DateTime<Utc> {
    match (State::of(sandbox.status), sandbox.expires_at) {
        (Some(State::Running), Some(at)) => at,
        (Some(State::Running), None) if sandbox.timeout_sec == 0 => {
            DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
        }
        _ => sandbox.updated_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_one_state_or_none() {
        let running: Vec<_> = State::Running.statuses().collect();
        let paused: Vec<_> = State::Paused.statuses().collect();
        assert!(running.contains(&SandboxStatus::Running) && paused.contains(&SandboxStatus::Paused));
        assert!(running.iter().chain(&paused).all(|status| !status.is_end()));
        assert_eq!(running.len() + paused.len(), 6);
    }
}
