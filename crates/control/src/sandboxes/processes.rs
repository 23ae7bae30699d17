//! The processes that were started in a sandbox from outside.

use super::{CallSite, ProcessRef, Sandbox, SandboxError};
use crate::{Control, OpContext};

/// One that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Process {
    pub pid: u32,
    pub tag: Option<String>,
    pub cmd: String,
    pub args: Vec<String>,
}

impl Control {
    /// Those that run, by whatever way they were started.
    pub async fn sandbox_processes(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
    ) -> Result<Vec<Process>, SandboxError> {
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "asking for its processes")?;
        let processes = client
            .list_processes(sandbox.id, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the question", limit), error))?;
        let read = |process: sandbar_proto::host::Process| Process {
            pid: process.pid,
            tag: (!process.tag.is_empty()).then_some(process.tag),
            cmd: process.cmd,
            args: process.args,
        };
        Ok(processes.into_iter().map(read).collect())
    }

    /// Kills one.
    pub async fn sandbox_kill_process(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        process: &ProcessRef,
    ) -> Result<(), SandboxError> {
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "killing a process")?;
        client
            .kill_process(sandbox.id, process.to_proto()?, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the kill", limit), error))
    }
}
