//! Between the host agent's words and the contract's messages, both ways.

use std::str::FromStr;
use std::time::Duration;

use buffa::EnumValue;
use sandbar_proto::host::{
    self, MetricsPoint, MetricsTier, SandboxState, TemplateKind as WireKind, fork_sandbox_request,
    fork_sandbox_response,
};
use sandbar_types::guest::GUEST_IP;
use sandbar_types::id::{Id, Kind, Sandbox, Template};
use sandbar_types::{MetricsRange, NetworkPolicy, OnTimeout, PauseMode, TemplateKind, TimeoutFrom, limits};

use crate::error::Error;
use crate::journal::Deadline;
use crate::metrics::Point;
use crate::sandbox::{CreateRequest, Handle, Size, State};
use crate::volumes::describe_mounts;
use crate::warm::Counts;

/// An id in its prefixed form.
pub(crate) fn parse<K: Kind>(text: &str) -> Result<Id<K>, Error> {
    Id::from_str(text).map_err(|e| Error::BadInput(e.to_string()))
}

/// How the warm pool does.
pub(crate) fn warm_pool(counts: Counts) -> host::WarmPool {
    let Counts { spares, hits, misses } = counts;
    host::WarmPool { spares: u32::try_from(spares).unwrap_or(u32::MAX), hits, misses, ..Default::default() }
}

/// Refuses a time-out that no sandbox may have.
pub(crate) fn check_timeout(timeout_sec: u32) -> Result<(), Error> {
    if limits::TIMEOUT_SEC.contains(&timeout_sec) {
        return Ok(());
    }
    Err(Error::BadInput("timeout_sec is out of bounds".into()))
}

/// What happens at the time-out; none where the caller leaves it open.
pub(crate) fn on_timeout(wire: EnumValue<host::OnTimeout>) -> Option<OnTimeout> {
    match wire.as_known() {
        Some(host::OnTimeout::ON_TIMEOUT_KILL) => Some(OnTimeout::Kill),
        Some(host::OnTimeout::ON_TIMEOUT_PAUSE) => Some(OnTimeout::Pause),
        Some(host::OnTimeout::ON_TIMEOUT_PAUSE_FILESYSTEM) => Some(OnTimeout::PauseFilesystem),
        Some(host::OnTimeout::ON_TIMEOUT_UNSPECIFIED) | None => None,
    }
}

/// What a pause is to keep.
pub(crate) fn pause_mode(wire: EnumValue<host::PauseMode>) -> PauseMode {
    match wire.as_known() {
        Some(host::PauseMode::PAUSE_MODE_FILESYSTEM) => PauseMode::Filesystem,
        Some(host::PauseMode::PAUSE_MODE_FULL | host::PauseMode::PAUSE_MODE_UNSPECIFIED) | None => {
            PauseMode::Full
        }
    }
}

/// A number that may be left out.
pub(crate) const fn some(number: u32) -> Option<u32> {
    if number == 0 { None } else { Some(number) }
}

/// From when the time-out counts; none where the caller leaves it open.
pub(crate) fn timeout_from(wire: EnumValue<host::TimeoutFrom>) -> Option<TimeoutFrom> {
    match wire.as_known() {
        Some(host::TimeoutFrom::TIMEOUT_FROM_ACTIVITY) => Some(TimeoutFrom::Activity),
        Some(host::TimeoutFrom::TIMEOUT_FROM_START) => Some(TimeoutFrom::Start),
        Some(host::TimeoutFrom::TIMEOUT_FROM_UNSPECIFIED) | None => None,
    }
}

/// The deadline of a sandbox that is to be made. It counts from when the sandbox runs.
pub(crate) fn new_deadline(
    timeout_sec: u32,
    at: EnumValue<host::OnTimeout>,
    from: EnumValue<host::TimeoutFrom>,
) -> Result<Deadline, Error> {
    check_timeout(timeout_sec)?;
    Ok(Deadline {
        timeout_sec,
        on_timeout: on_timeout(at).unwrap_or(OnTimeout::Kill),
        from: timeout_from(from).unwrap_or(TimeoutFrom::Activity),
        since_unix_ms: 0,
    })
}

/// A child that is asked for. It names the same template as its source, and may connect to the same places.
pub(crate) fn child(
    child: fork_sandbox_request::Child,
    template_id: Id<Template>,
    network: &NetworkPolicy,
) -> Result<CreateRequest, Error> {
    if child.access_token.is_empty() {
        return Err(Error::BadInput("a child's access_token is missing".into()));
    }
    let deadline = new_deadline(child.timeout_sec, child.on_timeout, child.timeout_from)?;
    let env: Vec<_> = child.env.into_iter().collect();
    Ok(CreateRequest {
        id: parse(&child.id)?,
        template_id,
        size: Size::default(),
        access_token: child.access_token,
        // A child that is given none goes on with its source's.
        env: if env.is_empty() { None } else { Some(env) },
        secrets: None,
        user: None,
        workdir: None,
        deadline,
        hostname: child.hostname,
        network: network.clone(),
        volumes: Vec::new(),
        row_generation: 0,
    })
}

/// What became of a child.
pub(crate) fn child_result(
    id: Id<Sandbox>,
    made: Result<Handle, Error>,
) -> fork_sandbox_response::ChildResult {
    use fork_sandbox_response::child_result::Outcome;
    let outcome = match made {
        Ok(handle) => Outcome::from(describe(&handle)),
        Err(error) => Outcome::from(fork_sandbox_response::Failure {
            reason: error.reason().into(),
            message: error.to_string(),
            ..Default::default()
        }),
    };
    fork_sandbox_response::ChildResult { id: id.to_string(), outcome: Some(outcome), ..Default::default() }
}

/// A sandbox as the inventory tells of it.
pub(crate) fn describe(handle: &Handle) -> host::Sandbox {
    let view = handle.view();
    let last_active = handle.activity.last_unix_ms();
    let Deadline { timeout_sec, on_timeout, from, since_unix_ms: _ } = view.deadline;
    host::Sandbox {
        id: handle.id.to_string(),
        state: match view.state {
            State::Starting => SandboxState::SANDBOX_STATE_STARTING,
            State::Running => SandboxState::SANDBOX_STATE_RUNNING,
            State::Pausing => SandboxState::SANDBOX_STATE_PAUSING,
            State::Paused => SandboxState::SANDBOX_STATE_PAUSED,
            State::Resuming => SandboxState::SANDBOX_STATE_RESUMING,
            State::Stopping => SandboxState::SANDBOX_STATE_STOPPING,
            State::Stopped => SandboxState::SANDBOX_STATE_STOPPED,
        }
        .into(),
        template_id: handle.template_id.to_string(),
        vcpus: view.vcpus,
        memory_mb: view.memory_mb,
        disk_mb: view.disk_mb,
        guest_ip: GUEST_IP.to_string(),
        host_ip: view.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        created_at_unix_ms: handle.created_at_unix_ms,
        last_active_at_unix_ms: last_active,
        // A paused sandbox's time stands still.
        expires_at_unix_ms: match view.pause {
            Some(_) => 0,
            None => view.deadline.ends_at_unix_ms(last_active).unwrap_or_default(),
        },
        generation: view.generation,
        stop_reason: view.stop_reason,
        on_timeout: match on_timeout {
            OnTimeout::Kill => host::OnTimeout::ON_TIMEOUT_KILL,
            OnTimeout::Pause => host::OnTimeout::ON_TIMEOUT_PAUSE,
            OnTimeout::PauseFilesystem => host::OnTimeout::ON_TIMEOUT_PAUSE_FILESYSTEM,
        }
        .into(),
        timeout_from: match from {
            TimeoutFrom::Activity => host::TimeoutFrom::TIMEOUT_FROM_ACTIVITY,
            TimeoutFrom::Start => host::TimeoutFrom::TIMEOUT_FROM_START,
        }
        .into(),
        timeout_sec,
        volumes: describe_mounts(&handle.volumes),
        paused_at_unix_ms: view.pause.map_or(0, |pause| pause.at_unix_ms),
        snapshot_bytes: view.pause.map_or(0, |pause| pause.bytes),
        pause_reason: view.pause.map(|pause| pause.reason.as_str().to_owned()).unwrap_or_default(),
        pause_mode: match view.pause.map(|pause| pause.mode) {
            None => host::PauseMode::PAUSE_MODE_UNSPECIFIED,
            Some(PauseMode::Full) => host::PauseMode::PAUSE_MODE_FULL,
            Some(PauseMode::Filesystem) => host::PauseMode::PAUSE_MODE_FILESYSTEM,
        }
        .into(),
        ..Default::default()
    }
}

/// A template of this host.
pub(crate) fn describe_template(template: &sandbar_storage::Template) -> host::Template {
    let spec = &template.manifest.spec;
    host::Template {
        id: template.id().to_string(),
        vcpus: spec.vcpus,
        memory_mb: spec.memory_mb,
        disk_mb: spec.disk_mb,
        size_bytes: template.size_on_disk(),
        arch: spec.arch.to_string(),
        vmm: spec.vmm.to_string(),
        compatibility: spec.compatibility.to_string(),
        kind: match spec.kind {
            TemplateKind::Base => WireKind::TEMPLATE_KIND_BASE,
            TemplateKind::Snapshot => WireKind::TEMPLATE_KIND_SNAPSHOT,
        }
        .into(),
        ..Default::default()
    }
}

/// The ring that is asked for.
pub(crate) fn metrics_range(wire: EnumValue<host::MetricsRange>) -> MetricsRange {
    match wire.as_known() {
        Some(host::MetricsRange::METRICS_RANGE_2H) => MetricsRange::TwoHours,
        Some(host::MetricsRange::METRICS_RANGE_24H) => MetricsRange::Day,
        Some(host::MetricsRange::METRICS_RANGE_10M | host::MetricsRange::METRICS_RANGE_UNSPECIFIED)
        | None => MetricsRange::TenMinutes,
    }
}

/// A ring with its points.
pub(crate) fn tier(range: MetricsRange, points: Vec<Point>) -> MetricsTier {
    let range = match range {
        MetricsRange::TenMinutes => host::MetricsRange::METRICS_RANGE_10M,
        MetricsRange::TwoHours => host::MetricsRange::METRICS_RANGE_2H,
        MetricsRange::Day => host::MetricsRange::METRICS_RANGE_24H,
    };
    let points = points.into_iter().map(point).collect();
    MetricsTier { range: range.into(), points, ..Default::default() }
}

/// A point of a ring.
pub(crate) fn point(point: Point) -> MetricsPoint {
    let Point { unix_ms, cpu_pct, mem_bytes, disk_bytes } = point;
    MetricsPoint { timestamp_unix_ms: unix_ms, cpu_pct, mem_bytes, disk_bytes, ..Default::default() }
}

/// A duration in whole milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
