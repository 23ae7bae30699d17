//! PID 1 of a sandbox, in two stages.
//!
//! - Stage 1 (`stage1`) is `/init` of the initramfs: it loads the kernel modules, mounts the root disk, puts this binary and
//!   the guest agent on a tmpfs at `/run/sandbar` and switches root. The root image itself is never changed, so that any
//!   OCI image can be one.
//! - Stage 2 (`stage2`) is `/run/sandbar/init --stage2` on the real root: it mounts what a Linux system expects, sets the
//!   network up, and then supervises the guest agent and reaps orphans until it is told to shut down.
//!
//! Small on purpose: no runtime, no threads, no RPC. Whatever can be done by the agent is not done here.

mod console;
mod files;
mod modules;
mod mounts;
mod network;
mod stage1;
mod stage2;
mod supervisor;
mod uevent;

use std::process::ExitCode;

/// Where stage 1 puts the binaries, on a tmpfs.
const RUN_DIR: &str = "/run/sandbar";
/// The argument that tells the second stage from the first.
const STAGE2: &str = "--stage2";

fn main() -> ExitCode {
    // Off PID 1 this program would mount over and reboot the machine of whoever tried it.
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        eprintln!("sandbar-init {}: runs only as PID 1 of a sandbox", env!("CARGO_PKG_VERSION"));
        return ExitCode::from(2);
    }
    let failed = if std::env::args().nth(1).as_deref() == Some(STAGE2) {
        stage2::run().err().map(|error| error.to_string())
    } else {
        stage1::run().err().map(|error| error.to_string())
    };
    if let Some(reason) = failed {
        console::log(&format!("fatal: {reason}"));
    }
    supervisor::reboot()
}
