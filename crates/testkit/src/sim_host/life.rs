//! The life of a simulated sandbox after its creation: pause, resume, snapshots, forks, deadlines, figures.

use buffa::EnumValue;
use connectrpc::ConnectError;
use rpc::fork_sandbox_response::child_result::Outcome;
use rpc::fork_sandbox_response::{ChildResult, Failure};
use sandbar_proto::host as rpc;

use super::faults::refusal;
use super::inventory::{Files, Inventory, Stored, Vm};
use super::{Reason, SandboxState};

/// For how long every simulated guest stands still while it is copied.
const STALL_MS: u64 = 7;
/// Points of every ring.
const POINTS: i64 = 3;

/// What of a guest's files is in its memory.
const IN_MEMORY: &str = "/dev/shm/";

/// The disk of a guest, without what its memory alone holds.
fn disk(files: &Files) -> Files {
    let on_disk = files.iter().filter(|(path, _)| !path.starts_with(IN_MEMORY));
    on_disk.map(|(path, content)| (path.clone(), content.clone())).collect()
}

/// When a sandbox ends that was last used then.
pub(super) fn expiry(last_active_ms: i64, timeout_sec: u32) -> i64 {
    if timeout_sec == 0 { 0 } else { last_active_ms + i64::from(timeout_sec) * 1_000 }
}

/// What nobody said is ACTIVITY.
pub(super) fn or_activity(given: EnumValue<rpc::TimeoutFrom>) -> EnumValue<rpc::TimeoutFrom> {
    if given == rpc::TimeoutFrom::TIMEOUT_FROM_UNSPECIFIED {
        rpc::TimeoutFrom::TIMEOUT_FROM_ACTIVITY.into()
    } else {
        given
    }
}

/// What nobody said is KILL.
pub(super) fn or_kill(given: EnumValue<rpc::OnTimeout>) -> EnumValue<rpc::OnTimeout> {
    if given == rpc::OnTimeout::ON_TIMEOUT_UNSPECIFIED {
        rpc::OnTimeout::ON_TIMEOUT_KILL.into()
    } else {
        given
    }
}

impl Inventory {
    /// A paused one is a success, whatever was kept of it.
    pub(super) fn pause(
        &mut self,
        id: &str,
        reason: &str,
        mode: rpc::PauseMode,
    ) -> Result<rpc::Sandbox, ConnectError> {
        let now = self.clock.now();
        let vm = self.at_rest(id)?;
        if vm.record.state == SandboxState::SANDBOX_STATE_RUNNING {
            vm.record.pause_mode = mode.into();
            if mode == rpc::PauseMode::PAUSE_MODE_FILESYSTEM {
                vm.files = disk(&vm.files);
            }
            vm.record.state = SandboxState::SANDBOX_STATE_PAUSED.into();
            vm.record.paused_at_unix_ms = now;
            vm.record.expires_at_unix_ms = 0;
            vm.record.snapshot_bytes = 40 << 20;
            vm.record.host_ip.clear();
            reason.clone_into(&mut vm.record.pause_reason);
            vm.record.generation += 1;
            self.changed();
        }
        self.record(id)
    }

    /// It was idle for its time-out: paused, in the way that was said for that.
    pub(super) fn expire(&mut self, id: &str) -> Result<rpc::Sandbox, ConnectError> {
        let mode = if self.at_rest(id)?.record.on_timeout == rpc::OnTimeout::ON_TIMEOUT_PAUSE_FILESYSTEM {
            rpc::PauseMode::PAUSE_MODE_FILESYSTEM
        } else {
            rpc::PauseMode::PAUSE_MODE_FULL
        };
        self.pause(id, "idle", mode)
    }

    /// A running one is a success, one that is asked for too late is refused. One that boots has what its disk holds.
    pub(super) fn resume(
        &mut self,
        request: &rpc::ResumeSandboxRequest,
    ) -> Result<rpc::Sandbox, ConnectError> {
        let (address, now) = (self.next_address(), self.clock.now());
        let vm = self.at_rest(&request.id)?;
        let is_paused = vm.record.state == SandboxState::SANDBOX_STATE_PAUSED;
        let (asked, known) = (request.row_generation, vm.row_generation);
        if asked > 0 && (asked < known || (asked == known && is_paused)) {
            return Err(refusal(Reason::REASON_OUTDATED));
        }
        if is_paused {
            vm.row_generation = known.max(asked);
            if request.reboot {
                vm.files = disk(&vm.files);
            }
            let record = &mut vm.record;
            record.pause_mode = rpc::PauseMode::PAUSE_MODE_UNSPECIFIED.into();
            record.state = SandboxState::SANDBOX_STATE_RUNNING.into();
            record.paused_at_unix_ms = 0;
            record.snapshot_bytes = 0;
            record.pause_reason.clear();
            record.host_ip = address;
            record.generation += 1;
            let timeout_sec = request.timeout_sec.unwrap_or(record.timeout_sec);
            set_deadline(record, now, timeout_sec, request.on_timeout, request.timeout_from);
            self.changed();
        }
        self.record(&request.id)
    }

    pub(super) fn refuse_resumes(
        &mut self,
        id: &str,
        row_generation: u64,
    ) -> Result<rpc::Sandbox, ConnectError> {
        let vm = self.at_rest(id)?;
        vm.row_generation = vm.row_generation.max(row_generation);
        self.record(id)
    }

    pub(super) fn set_deadline(
        &mut self,
        request: &rpc::SetDeadlineRequest,
    ) -> Result<rpc::Sandbox, ConnectError> {
        let now = self.clock.now();
        let vm = self.running(&request.id)?;
        let mut changed = vm.record.clone();
        set_deadline(&mut changed, now, request.timeout_sec, request.on_timeout, request.timeout_from);
        let ends = |record: &rpc::Sandbox| match record.expires_at_unix_ms {
            0 => i64::MAX,
            at => at,
        };
        if !request.longer_only || ends(&changed) > ends(&vm.record) {
            vm.record = changed;
        }
        vm.record.generation += 1;
        self.changed();
        self.record(&request.id)
    }

    pub(super) fn set_network(
        &mut self,
        request: rpc::SetNetworkPolicyRequest,
    ) -> Result<rpc::Sandbox, ConnectError> {
        let vm = self.at_rest(&request.id)?;
        vm.network = request.policy.into_option().unwrap_or_default();
        vm.record.generation += 1;
        self.changed();
        self.record(&request.id)
    }

    /// Every guest was denied the same.
    pub(super) fn denials(&mut self, id: &str) -> Result<rpc::GetNetworkDenialsResponse, ConnectError> {
        use rpc::get_network_denials_response::{Address, Count, Name, Reason as Why};
        let policy = self.at_rest(id)?.network.clone();
        let last_at_unix_ms = self.clock.now();
        let count = |reason: Why, packets| Count { reason: reason.into(), packets, ..Default::default() };
        Ok(rpc::GetNetworkDenialsResponse {
            policy: policy.into(),
            counts: vec![count(Why::REASON_POLICY, 3), count(Why::REASON_NAME, 2)],
            addresses: vec![Address {
                address: "203.0.113.7".to_owned(),
                protocol: "tcp".to_owned(),
                port: 443,
                packets: 3,
                last_at_unix_ms,
                ..Default::default()
            }],
            names: vec![Name {
                name: "evil.example".to_owned(),
                queries: 2,
                last_at_unix_ms,
                ..Default::default()
            }],
            ..Default::default()
        })
    }

    pub(super) fn pause_all(&mut self) -> rpc::PauseAllResponse {
        let running: Vec<String> = self
            .sandboxes
            .values()
            .filter(|vm| vm.record.state == SandboxState::SANDBOX_STATE_RUNNING)
            .map(|vm| vm.record.id.clone())
            .collect();
        let full = rpc::PauseMode::PAUSE_MODE_FULL;
        let paused = running.iter().filter(|id| self.pause(id, "host_refused", full).is_ok()).count();
        rpc::PauseAllResponse { paused: u32::try_from(paused).unwrap_or(u32::MAX), ..Default::default() }
    }

    /// The same template asked for again answers what is there.
    pub(super) fn snapshot(
        &mut self,
        id: &str,
        template: &str,
        kind: rpc::TemplateKind,
        own_pause: bool,
    ) -> Result<(rpc::Template, u64), ConnectError> {
        if let Some(stored) = self.templates.get(template) {
            return Ok((stored.record.clone(), 0));
        }
        let vm = self.at_rest(id)?;
        if !vm.record.volumes.is_empty() {
            return Err(refusal(Reason::REASON_HAS_VOLUMES));
        }
        if own_pause && vm.record.state != SandboxState::SANDBOX_STATE_PAUSED {
            return Err(refusal(Reason::REASON_INVALID_STATE));
        }
        let kind = match vm.record.pause_mode.as_known() {
            Some(rpc::PauseMode::PAUSE_MODE_FILESYSTEM) if own_pause => rpc::TemplateKind::TEMPLATE_KIND_BASE,
            _ => kind,
        };
        let files = match kind {
            rpc::TemplateKind::TEMPLATE_KIND_BASE => disk(&vm.files),
            _ if vm.record.pause_mode == rpc::PauseMode::PAUSE_MODE_FILESYSTEM => {
                return Err(refusal(Reason::REASON_INVALID_STATE));
            }
            _ => vm.files.clone(),
        };
        let stall = if vm.record.state == SandboxState::SANDBOX_STATE_RUNNING { STALL_MS } else { 0 };
        let record = rpc::Template {
            id: template.to_owned(),
            vcpus: vm.record.vcpus,
            memory_mb: vm.record.memory_mb,
            disk_mb: vm.record.disk_mb,
            size_bytes: 90 << 20,
            arch: "x86_64".to_owned(),
            vmm: "qemu".to_owned(),
            compatibility: "simulated".to_owned(),
            kind: kind.into(),
            ..Default::default()
        };
        let stored = Stored { record: record.clone(), files, spoilt: false };
        self.templates.insert(template.to_owned(), stored);
        Ok((record, stall))
    }

    /// Each child by itself; one that exists already is a success.
    pub(super) fn fork(
        &mut self,
        request: rpc::ForkSandboxRequest,
    ) -> Result<rpc::ForkSandboxResponse, ConnectError> {
        let source = self.running(&request.id)?;
        if !source.record.volumes.is_empty() {
            return Err(refusal(Reason::REASON_HAS_VOLUMES));
        }
        let (parent, files, network) = (source.record.clone(), source.files.clone(), source.network.clone());
        let mut response = rpc::ForkSandboxResponse { stall_ms: STALL_MS, ..Default::default() };
        let made = request.children.len().saturating_sub(self.failing_children);
        self.failing_children = self.failing_children.saturating_sub(request.children.len());
        for (number, child) in request.children.into_iter().enumerate() {
            let outcome = if number >= made {
                Outcome::from(Failure {
                    reason: Reason::REASON_NO_CAPACITY.into(),
                    message: "no slot is left".to_owned(),
                    ..Default::default()
                })
            } else if let Some(vm) = self.sandboxes.get(&child.id) {
                Outcome::from(vm.record.clone())
            } else {
                let now = self.clock.now();
                let mut record = rpc::Sandbox {
                    id: child.id.clone(),
                    host_ip: self.next_address(),
                    created_at_unix_ms: now,
                    generation: 1,
                    on_timeout: rpc::OnTimeout::ON_TIMEOUT_KILL.into(),
                    ..parent.clone()
                };
                set_deadline(&mut record, now, child.timeout_sec, child.on_timeout, child.timeout_from);
                let creation = rpc::CreateSandboxRequest {
                    id: child.id.clone(),
                    template_id: parent.template_id.clone(),
                    access_token: child.access_token,
                    env: child.env,
                    timeout_sec: child.timeout_sec,
                    hostname: child.hostname,
                    on_timeout: child.on_timeout,
                    timeout_from: child.timeout_from,
                    network: network.clone().into(),
                    ..Default::default()
                };
                self.insert(record.clone(), Some(creation), files.clone());
                Outcome::from(record)
            };
            response.children.push(ChildResult {
                id: child.id,
                outcome: Some(outcome),
                ..Default::default()
            });
        }
        Ok(response)
    }

    pub(super) fn delete_template(&mut self, id: &str) -> bool {
        self.arriving.remove(id);
        self.templates.remove(id).is_some()
    }

    pub(super) fn verify_template(&self, id: &str) -> Result<u64, ConnectError> {
        let stored = self.templates.get(id).ok_or_else(|| refusal(Reason::REASON_TEMPLATE_NOT_FOUND))?;
        Ok(stored.record.size_bytes)
    }

    pub(super) fn verify_sandbox(&mut self, id: &str) -> Result<u64, ConnectError> {
        let vm = self.at_rest(id)?;
        if vm.record.state == SandboxState::SANDBOX_STATE_PAUSED {
            Ok(vm.record.snapshot_bytes)
        } else {
            Err(refusal(Reason::REASON_INVALID_STATE))
        }
    }

    /// Points that tell their ring by how far apart they are.
    pub(super) fn metrics(
        &mut self,
        id: &str,
        range: rpc::MetricsRange,
    ) -> Result<Vec<rpc::MetricsPoint>, ConnectError> {
        let step_ms = match range {
            rpc::MetricsRange::METRICS_RANGE_UNSPECIFIED => return Err(refusal(Reason::REASON_BAD_INPUT)),
            rpc::MetricsRange::METRICS_RANGE_10M => 500,
            rpc::MetricsRange::METRICS_RANGE_2H => 30_000,
            rpc::MetricsRange::METRICS_RANGE_24H => 300_000,
        };
        let vm = self.at_rest(id)?;
        let last = vm.record.last_active_at_unix_ms;
        let points = (0..POINTS).rev().map(|number| rpc::MetricsPoint {
            timestamp_unix_ms: last - number * step_ms,
            cpu_pct: 12.5,
            mem_bytes: 100 << 20,
            disk_bytes: 5 << 20,
            ..Default::default()
        });
        Ok(points.collect())
    }

    pub(super) fn all_metrics(&mut self, id: &str) -> Result<Vec<rpc::MetricsTier>, ConnectError> {
        [
            rpc::MetricsRange::METRICS_RANGE_10M,
            rpc::MetricsRange::METRICS_RANGE_2H,
            rpc::MetricsRange::METRICS_RANGE_24H,
        ]
        .into_iter()
        .map(|range| {
            let points = self.metrics(id, range)?;
            Ok(rpc::MetricsTier { range: range.into(), points, ..Default::default() })
        })
        .collect()
    }

    /// A sandbox that is running or paused.
    fn at_rest(&mut self, id: &str) -> Result<&mut Vm, ConnectError> {
        let vm = self.sandboxes.get_mut(id).ok_or_else(|| refusal(Reason::REASON_SANDBOX_NOT_FOUND))?;
        match vm.record.state.as_known() {
            Some(SandboxState::SANDBOX_STATE_RUNNING | SandboxState::SANDBOX_STATE_PAUSED) => Ok(vm),
            _ => Err(refusal(Reason::REASON_INVALID_STATE)),
        }
    }

    fn record(&self, id: &str) -> Result<rpc::Sandbox, ConnectError> {
        let vm = self.sandboxes.get(id).ok_or_else(|| refusal(Reason::REASON_SANDBOX_NOT_FOUND))?;
        Ok(vm.record.clone())
    }
}

fn set_deadline(
    record: &mut rpc::Sandbox,
    now: i64,
    timeout_sec: u32,
    on_timeout: EnumValue<rpc::OnTimeout>,
    timeout_from: EnumValue<rpc::TimeoutFrom>,
) {
    record.timeout_sec = timeout_sec;
    if timeout_from != rpc::TimeoutFrom::TIMEOUT_FROM_UNSPECIFIED {
        record.timeout_from = timeout_from;
    }
    if on_timeout != rpc::OnTimeout::ON_TIMEOUT_UNSPECIFIED {
        record.on_timeout = on_timeout;
    }
    record.last_active_at_unix_ms = now;
    record.expires_at_unix_ms = expiry(record.last_active_at_unix_ms, timeout_sec);
}
