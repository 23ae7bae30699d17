//! The processes that were started in a guest from outside.

use connectrpc::{ConnectError, ErrorCode};
use sandbar_proto::host::{self, process_selector};
use sandbar_proto::process::{
    self, ListRequest, ProcessInfo, ProcessSelector, SendSignalRequest, process_selector as guest_selector,
};

use crate::error::Error;
use crate::guest::{GuestClient, process_error};

/// Those that run.
pub(crate) async fn list(guest: &GuestClient) -> Result<Vec<host::Process>, Error> {
    let answer = guest.process().list(ListRequest::default()).await.map_err(|e| process_error(&e))?;
    Ok(answer.into_owned().processes.into_iter().map(describe).collect())
}

/// Kills one.
pub(crate) async fn kill(
    guest: &GuestClient,
    wanted: Option<process_selector::Selector>,
) -> Result<(), Error> {
    let request = SendSignalRequest {
        process: selector(wanted)?.into(),
        signal: process::Signal::SIGNAL_SIGKILL.into(),
        ..Default::default()
    };
    guest.process().send_signal(request).await.map_err(|e| not_found_or(&e))?;
    Ok(())
}

/// The guest's word for a process that a call means.
pub(crate) fn selector(wanted: Option<process_selector::Selector>) -> Result<ProcessSelector, Error> {
    use guest_selector::Selector;
    let selector = match wanted {
        Some(process_selector::Selector::Pid(pid)) => Selector::Pid(pid),
        Some(process_selector::Selector::Tag(tag)) => Selector::Tag(tag),
        None => return Err(Error::BadInput("no process is named".into())),
    };
    Ok(ProcessSelector { selector: Some(selector), ..Default::default() })
}

/// What a failed call about a process means.
pub(crate) fn not_found_or(error: &ConnectError) -> Error {
    match error.code {
        ErrorCode::NotFound => Error::ProcessNotFound(error.message.clone().unwrap_or_default()),
        _ => process_error(error),
    }
}

fn describe(info: ProcessInfo) -> host::Process {
    let config = info.config.into_option().unwrap_or_default();
    host::Process {
        pid: info.pid,
        tag: info.tag.unwrap_or_default(),
        cmd: config.cmd,
        args: config.args,
        ..Default::default()
    }
}
