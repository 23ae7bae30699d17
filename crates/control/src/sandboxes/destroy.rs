use super::{Sandbox, SandboxError};
use crate::{Control, OpContext};
impl Control {
    /// Ends a sandbox. Exactly one of several callers wins; the others are told its state.
    pub async fn sandbox_destroy(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<(), SandboxError> {
        unimplemented!()
    }

    /// Counts as activity, and tells whether the guest answers.
    pub async fn sandbox_ping(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<(), SandboxError> {
        unimplemented!()
    }
}
