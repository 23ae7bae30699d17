//! What a client had sent before it left still goes in.
//!
//! Dropping a command's output resets its call, and with that all input that is on its way to the guest. So where the command outlives the
//! connection, the input is ended first, and the output read until the host, which has by then passed on everything, ends it.

use std::time::Duration;

use sandbar_control::sandboxes::ExecOutput;
use tokio::time::timeout;

/// How long what was sent last may take to arrive: a guest that is being copied takes nothing.
const LAST_INPUT: Duration = Duration::from_secs(10);

/// The client cannot be written to.
#[derive(Debug)]
pub(super) struct Gone;

/// After the end of the input: waits until the host has passed on all of it.
pub(super) async fn arrive(output: &mut ExecOutput) {
    // A host that takes longer is left to itself.
    let _ = timeout(LAST_INPUT, drain(output)).await;
}

/// After a client that is gone while it was written to: passes on what it had sent before, by `input`, which ends with that.
pub(super) async fn pass_on<T>(input: impl Future<Output = T>, output: &mut ExecOutput) {
    let all = async {
        tokio::select! {
            _ = input => drain(output).await,
            // Nobody is there any more to take it.
            () = drain(output) => {}
        }
    };
    // As above.
    let _ = timeout(LAST_INPUT, all).await;
}

async fn drain(output: &mut ExecOutput) {
    while let Ok(Some(_)) = output.next().await {}
}
