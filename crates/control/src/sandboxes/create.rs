use super::{IdempotencyKey, NewSandbox, Sandbox, SandboxError};
use crate::{Control, OpContext};
impl Control {
    /// Makes a sandbox and returns it once it runs. With an idempotency key, a repeated request is answered with the sandbox
    /// that the first one made.
    pub async fn sandbox_create(
        &self,
        ctx: &OpContext,
        new: &NewSandbox,
        key: Option<&IdempotencyKey>,
    ) -> Result<Sandbox, SandboxError> {
        unimplemented!()
    }
}
