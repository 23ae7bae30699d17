//! Lines on the kernel's console: the only place where anybody can read what PID 1 has to say.

use std::io::Write;

use rustix::fs::{Mode, OFlags};

/// Makes the console this process's standard streams. The kernel does so itself only if the initramfs has `/dev/console`.
pub(crate) fn attach() {
    if let Ok(console) = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty()) {
        // A console that cannot be used costs messages, not the boot.
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// Writes one line.
pub(crate) fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "sandbar-init: {line}");
}
