//! Calls about a sandbox's life after its creation, and about the templates that are made of it.

use std::time::Duration;

use sandbar_proto::host;
use sandbar_types::id::{Sandbox, Template};
use sandbar_types::{Id, MetricsRange, OnTimeout, PauseMode, TimeoutFrom};

use super::client::{HostClient, within};
use super::{HostError, Reason};
use crate::sandboxes::{Awakening, Extent, NewDeadline, Resume};

const NO_SANDBOX: HostError = HostError::Protocol("no sandbox in the answer");
const NO_TEMPLATE: HostError = HostError::Protocol("no template in the answer");

impl HostClient {
    /// Pauses a sandbox. A paused one is a success, whatever was kept of it.
    pub async fn pause_sandbox(
        &self,
        id: Id<Sandbox>,
        mode: PauseMode,
        limit: Duration,
    ) -> Result<host::Sandbox, HostError> {
        let mode = match mode {
            PauseMode::Full => host::PauseMode::PAUSE_MODE_FULL,
            PauseMode::Filesystem => host::PauseMode::PAUSE_MODE_FILESYSTEM,
        };
        let request =
            host::PauseSandboxRequest { id: id.to_string(), mode: mode.into(), ..Default::default() };
        let answer =
            self.call(self.rpc().pause_sandbox_with_options(request, within(limit))).await?.into_owned();
        answer.sandbox.into_option().ok_or(NO_SANDBOX)
    }

    /// Pauses all that run: how many could not be paused, and run on.
    pub async fn pause_all(&self, limit: Duration) -> Result<u32, HostError> {
        let request = host::PauseAllRequest { reason: "the host drains".to_owned(), ..Default::default() };
        let answer = self.call(self.rpc().pause_all_with_options(request, within(limit))).await?.into_owned();
        Ok(answer.failed)
    }

    /// Lets a paused sandbox go on. A running one is a success; refused where the host knows of a later generation of its row.
    pub async fn resume_sandbox(
        &self,
        id: Id<Sandbox>,
        row_generation: i64,
        resume: Resume,
        limit: Duration,
    ) -> Result<host::Sandbox, HostError> {
        let Resume { timeout_sec, on_timeout, timeout_from, awakening } = resume;
        let request = host::ResumeSandboxRequest {
            id: id.to_string(),
            timeout_sec,
            on_timeout: on_timeout_word(on_timeout).into(),
            timeout_from: timeout_from_word(timeout_from).into(),
            reboot: awakening == Awakening::Reboot,
            row_generation: row_generation.unsigned_abs(),
            ..Default::default()
        };
        let answer =
            self.call(self.rpc().resume_sandbox_with_options(request, within(limit))).await?.into_owned();
        answer.sandbox.into_option().ok_or(NO_SANDBOX)
    }

    /// Has a host refuse resumes of this generation of a sandbox's row and of earlier ones, wherever they are: what the sandbox is now.
    pub async fn refuse_resumes(
        &self,
        id: Id<Sandbox>,
        row_generation: i64,
        limit: Duration,
    ) -> Result<host::Sandbox, HostError> {
        let request = host::RefuseResumesRequest {
            id: id.to_string(),
            row_generation: row_generation.unsigned_abs(),
            ..Default::default()
        };
        let answer =
            self.call(self.rpc().refuse_resumes_with_options(request, within(limit))).await?.into_owned();
        answer.sandbox.into_option().ok_or(NO_SANDBOX)
    }

    /// Keeps a sandbox as a snapshot template: the template, and for how many milliseconds the guest stood still.
    pub async fn snapshot_sandbox(
        &self,
        id: Id<Sandbox>,
        template: Id<Template>,
        limit: Duration,
    ) -> Result<(host::Template, u64), HostError> {
        self.snapshot(id, template, false, limit).await
    }

    /// Keeps what a paused sandbox's pause kept, its disk alone perhaps, as a template for that sandbox to go on from.
    pub async fn keep_pause(
        &self,
        id: Id<Sandbox>,
        template: Id<Template>,
        limit: Duration,
    ) -> Result<host::Template, HostError> {
        self.snapshot(id, template, true, limit).await.map(|(template, _)| template)
    }

    async fn snapshot(
        &self,
        id: Id<Sandbox>,
        template: Id<Template>,
        own_pause: bool,
        limit: Duration,
    ) -> Result<(host::Template, u64), HostError> {
        let request = host::SnapshotSandboxRequest {
            id: id.to_string(),
            template_id: template.to_string(),
            own_pause,
            ..Default::default()
        };
        let answer =
            self.call(self.rpc().snapshot_sandbox_with_options(request, within(limit))).await?.into_owned();
        Ok((answer.template.into_option().ok_or(NO_TEMPLATE)?, answer.stall_ms))
    }

    /// Keeps a sandbox's disk alone, as a base template.
    pub async fn flatten_rootfs(
        &self,
        id: Id<Sandbox>,
        template: Id<Template>,
        limit: Duration,
    ) -> Result<host::Template, HostError> {
        let request = host::FlattenRootfsRequest {
            id: id.to_string(),
            template_id: template.to_string(),
            ..Default::default()
        };
        let answer =
            self.call(self.rpc().flatten_rootfs_with_options(request, within(limit))).await?.into_owned();
        answer.template.into_option().ok_or(NO_TEMPLATE)
    }

    /// Makes children of a running sandbox.
    pub async fn fork_sandbox(
        &self,
        request: host::ForkSandboxRequest,
        limit: Duration,
    ) -> Result<host::ForkSandboxResponse, HostError> {
        Ok(self.call(self.rpc().fork_sandbox_with_options(request, within(limit))).await?.into_owned())
    }

    /// Removes a template's files. An unknown one is a success.
    pub async fn delete_template(&self, id: Id<Template>, limit: Duration) -> Result<(), HostError> {
        let request = host::DeleteTemplateRequest { id: id.to_string(), ..Default::default() };
        let answer = self.call(self.rpc().delete_template_with_options(request, within(limit))).await;
        match answer {
            // A host may also put it as a refusal.
            Err(error) if error.reason() != Some(Reason::REASON_TEMPLATE_NOT_FOUND) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Reads all of a template's files and holds them against their manifest; how many bytes that were.
    pub async fn verify_template(&self, id: Id<Template>, limit: Duration) -> Result<u64, HostError> {
        let request = host::VerifyTemplateRequest { id: id.to_string(), ..Default::default() };
        Ok(self
            .call(self.rpc().verify_template_with_options(request, within(limit)))
            .await?
            .into_owned()
            .bytes)
    }

    /// The templates whose files are complete on the host.
    pub async fn list_templates(&self, limit: Duration) -> Result<Vec<host::Template>, HostError> {
        let request = host::ListTemplatesRequest::default();
        Ok(self
            .call(self.rpc().list_templates_with_options(request, within(limit)))
            .await?
            .into_owned()
            .templates)
    }

    /// Changes when a sandbox ends by itself, and how: in `timeout_sec` from now.
    pub async fn set_deadline(
        &self,
        id: Id<Sandbox>,
        timeout_sec: u32,
        NewDeadline { on_timeout, timeout_from, extent }: NewDeadline,
        limit: Duration,
    ) -> Result<host::Sandbox, HostError> {
        let request = host::SetDeadlineRequest {
            id: id.to_string(),
            timeout_sec,
            on_timeout: on_timeout_word(on_timeout).into(),
            timeout_from: timeout_from_word(timeout_from).into(),
            longer_only: extent == Extent::LongerOnly,
            ..Default::default()
        };
        let answer =
            self.call(self.rpc().set_deadline_with_options(request, within(limit))).await?.into_owned();
        answer.sandbox.into_option().ok_or(NO_SANDBOX)
    }

    /// What a sandbox used, from one ring.
    pub async fn sandbox_metrics(
        &self,
        id: Id<Sandbox>,
        range: MetricsRange,
        limit: Duration,
    ) -> Result<Vec<host::MetricsPoint>, HostError> {
        let range = match range {
            MetricsRange::TenMinutes => host::MetricsRange::METRICS_RANGE_10M,
            MetricsRange::TwoHours => host::MetricsRange::METRICS_RANGE_2H,
            MetricsRange::Day => host::MetricsRange::METRICS_RANGE_24H,
        };
        let request =
            host::GetSandboxMetricsRequest { id: id.to_string(), range: range.into(), ..Default::default() };
        Ok(self
            .call(self.rpc().get_sandbox_metrics_with_options(request, within(limit)))
            .await?
            .into_owned()
            .points)
    }

    /// What a sandbox used, from all rings.
    pub async fn flush_sandbox_metrics(
        &self,
        id: Id<Sandbox>,
        limit: Duration,
    ) -> Result<Vec<host::MetricsTier>, HostError> {
        let request = host::FlushSandboxMetricsRequest { id: id.to_string(), ..Default::default() };
        Ok(self
            .call(self.rpc().flush_sandbox_metrics_with_options(request, within(limit)))
            .await?
            .into_owned()
            .tiers)
    }
}

/// The contract's word.
pub(crate) const fn timeout_from_word(from: Option<TimeoutFrom>) -> host::TimeoutFrom {
    match from {
        None => host::TimeoutFrom::TIMEOUT_FROM_UNSPECIFIED,
        Some(TimeoutFrom::Activity) => host::TimeoutFrom::TIMEOUT_FROM_ACTIVITY,
        Some(TimeoutFrom::Start) => host::TimeoutFrom::TIMEOUT_FROM_START,
    }
}

/// The contract's word.
pub(crate) const fn on_timeout_word(on_timeout: Option<OnTimeout>) -> host::OnTimeout {
    match on_timeout {
        None => host::OnTimeout::ON_TIMEOUT_UNSPECIFIED,
        Some(OnTimeout::Kill) => host::OnTimeout::ON_TIMEOUT_KILL,
        Some(OnTimeout::Pause) => host::OnTimeout::ON_TIMEOUT_PAUSE,
        Some(OnTimeout::PauseFilesystem) => host::OnTimeout::ON_TIMEOUT_PAUSE_FILESYSTEM,
    }
}
