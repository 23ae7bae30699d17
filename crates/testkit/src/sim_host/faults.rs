//! What can be made to go wrong with a call, and how a test sees that a call has come.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use connectrpc::{ConnectError, ErrorDetail};
use sandbar_proto::host as rpc;
use tokio::sync::watch;

use super::Reason;

/// The RPCs by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are those of the contract, crates/proto/proto/sandbar/host/v1/host.proto"
)]
pub enum Rpc {
    GetHealth,
    ListSandboxes,
    CreateSandbox,
    DestroySandbox,
    PingSandbox,
    Exec,
    ExecStream,
    ListProcesses,
    KillProcess,
    ListFolder,
    MakeFolder,
    RemovePath,
    WriteFile,
    ReadFile,
    Tunnel,
    CreateTemplate,
    ImportImage,
    ListTemplates,
    PauseSandbox,
    ResumeSandbox,
    RefuseResumes,
    SnapshotSandbox,
    ForkSandbox,
    FlattenRootfs,
    DeleteTemplate,
    OpenTemplate,
    ReadTemplatePart,
    ReceiveTemplate,
    WriteTemplatePart,
    CommitTemplate,
    VerifyTemplate,
    VerifySandbox,
    SetDeadline,
    SetNetworkPolicy,
    GetNetworkDenials,
    PauseAll,
    GetSandboxMetrics,
    FlushSandboxMetrics,
    GetSandboxLogs,
    FollowSandboxLogs,
    CreateVolume,
    DeleteVolume,
    ListVolumes,
}

/// How a call goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Refused with this reason; nothing was done.
    Refuse(Reason),
    /// Fails without a reason that a program could read; nothing was done.
    Fail,
    /// Never answers; nothing was done.
    Hang,
    /// The work is done, and the caller is told that the connection broke.
    LoseReply,
    /// The work is done, and the caller hears nothing.
    HangAfter,
    /// Waits at the door until the gate is opened, then goes on as usual.
    Hold(Gate),
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// At the next call only.
    Once,
    /// Until [`super::SimHost::heal`].
    Always,
}

/// A door that calls wait at.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    /// Lets the waiting calls through, and all later ones.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        // The sender lives as long as `self`, so this ends only by the gate's opening.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What is left to do wrong once the work is done.
pub(super) enum Reply {
    Deliver,
    Lose,
    Never,
}

impl Reply {
    /// Hands `result` to the caller, or not.
    pub(super) async fn send<T>(self, result: Result<T, ConnectError>) -> Result<T, ConnectError> {
        match self {
            Self::Deliver => result,
            Self::Lose => Err(ConnectError::unavailable("the connection broke")),
            Self::Never => std::future::pending().await,
        }
    }
}

/// The faults that are switched on, and the calls that were seen.
#[derive(Default)]
pub(super) struct Faults {
    switched: Mutex<HashMap<Rpc, VecDeque<(Fault, Times)>>>,
    seen: watch::Sender<HashMap<Rpc, usize>>,
}

impl Faults {
    pub(super) fn inject(&self, rpc: Rpc, fault: Fault, times: Times) {
        self.switched().entry(rpc).or_default().push_back((fault, times));
    }

    pub(super) fn clear(&self) {
        self.switched().clear();
    }

    pub(super) fn calls(&self, rpc: Rpc) -> usize {
        self.seen.borrow().get(&rpc).copied().unwrap_or(0)
    }

    pub(super) async fn arrived(&self, rpc: Rpc, count: usize) {
        // The sender lives as long as `self`.
        let _ = self.seen.subscribe().wait_for(|seen| seen.get(&rpc).copied().unwrap_or(0) >= count).await;
    }

    /// Counts a call of `rpc` and lets the fault that is due strike.
    pub(super) async fn arrive(&self, rpc: Rpc) -> Result<Reply, ConnectError> {
        let fault = self.take(rpc);
        self.seen.send_modify(|seen| *seen.entry(rpc).or_default() += 1);
        match fault {
            None => Ok(Reply::Deliver),
            Some(Fault::Refuse(reason)) => Err(refusal(reason)),
            Some(Fault::Fail) => Err(ConnectError::internal("the simulated agent fails")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::LoseReply) => Ok(Reply::Lose),
            Some(Fault::HangAfter) => Ok(Reply::Never),
            Some(Fault::Hold(gate)) => {
                gate.passed().await;
                Ok(Reply::Deliver)
            }
        }
    }

    fn take(&self, rpc: Rpc) -> Option<Fault> {
        let mut switched = self.switched();
        let due = switched.get_mut(&rpc)?;
        match due.front()? {
            (fault, Times::Always) => Some(fault.clone()),
            (_, Times::Once) => due.pop_front().map(|(fault, _)| fault),
        }
    }

    fn switched(&self) -> MutexGuard<'_, HashMap<Rpc, VecDeque<(Fault, Times)>>> {
        self.switched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A refusal as the contract words it: a reason for programs, in the error's details.
pub(super) fn refusal(reason: Reason) -> ConnectError {
    let message = format!("refused: {reason:?}");
    let error = match reason {
        Reason::REASON_SANDBOX_NOT_FOUND
        | Reason::REASON_TEMPLATE_NOT_FOUND
        | Reason::REASON_COMMAND_NOT_FOUND
        | Reason::REASON_FILE_NOT_FOUND
        | Reason::REASON_IMAGE_NOT_FOUND
        | Reason::REASON_PROCESS_NOT_FOUND
        | Reason::REASON_VOLUME_NOT_FOUND => ConnectError::not_found(message),
        Reason::REASON_INVALID_STATE
        | Reason::REASON_INCOMPATIBLE
        | Reason::REASON_FILE_CHANGED
        | Reason::REASON_OUTDATED
        | Reason::REASON_VOLUME_IN_USE
        | Reason::REASON_HAS_VOLUMES
        | Reason::REASON_IMAGE_NO_PLATFORM
        | Reason::REASON_IMAGE_DOES_NOT_BOOT
        | Reason::REASON_REGISTRY_FAILED => ConnectError::failed_precondition(message),
        Reason::REASON_IMAGE_NOT_AUTHORISED => ConnectError::permission_denied(message),
        Reason::REASON_SNAPSHOT_DAMAGED => ConnectError::data_loss(message),
        Reason::REASON_TEMPLATE_IN_USE | Reason::REASON_BUSY => ConnectError::aborted(message),
        Reason::REASON_NO_CAPACITY | Reason::REASON_GUEST_DISK_FULL => {
            ConnectError::resource_exhausted(message)
        }
        Reason::REASON_BAD_INPUT | Reason::REASON_IMAGE_TOO_LARGE | Reason::REASON_IMAGE_BROKEN => {
            ConnectError::invalid_argument(message)
        }
        Reason::REASON_GUEST_UNREACHABLE | Reason::REASON_PORT_CLOSED => ConnectError::unavailable(message),
        Reason::REASON_TIMEOUT => ConnectError::deadline_exceeded(message),
        Reason::REASON_UNSPECIFIED => ConnectError::unknown(message),
    };
    let detail = rpc::ErrorDetail { reason: reason.into(), ..Default::default() };
    error.with_detail(ErrorDetail::from_message("sandbar.host.v1.ErrorDetail", &detail))
}
