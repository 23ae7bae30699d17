//! The process that every simulated guest runs, in a terminal.

use connectrpc::ConnectError;
use rpc::process_selector::Selector;
use sandbar_proto::host as rpc;

use super::Reason;
use super::faults::refusal;

const PID: u32 = 1_000;
const TAG: &str = "shell";

/// It cannot be killed so that it is gone: who comes after finds it again.
pub(super) fn only() -> rpc::Process {
    rpc::Process {
        pid: PID,
        tag: TAG.to_owned(),
        cmd: "/bin/bash".to_owned(),
        args: vec!["-i".to_owned(), "-l".to_owned()],
        ..Default::default()
    }
}

/// Whether it is meant.
pub(super) fn named(wanted: Option<&rpc::ProcessSelector>) -> Result<(), ConnectError> {
    match wanted.and_then(|wanted| wanted.selector.as_ref()) {
        Some(Selector::Pid(PID)) => Ok(()),
        Some(Selector::Tag(tag)) if tag == TAG => Ok(()),
        Some(_) => Err(refusal(Reason::REASON_PROCESS_NOT_FOUND)),
        None => Err(refusal(Reason::REASON_BAD_INPUT)),
    }
}
