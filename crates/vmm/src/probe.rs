//! Whether KVM runs guests here: asked by booting one.
//!
//! `/dev/kvm` that opens and answers proves little: under a page-table hypervisor it runs real-mode code, and a stock 64-bit kernel
//! spins for ever. So the kernel that sandboxes use is booted, and has to start a process that is heard of.

use std::{
    ffi::OsString,
    fmt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{VmmError, binary, error::file, firecracker, process::MARK, qemu, tsc};

/// Who is to boot a guest under KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbedVmm {
    /// The QEMU of this binary.
    Qemu(PathBuf),
    /// The Firecracker of this binary.
    Firecracker(PathBuf),
}

/// What a probe needs.
#[derive(Debug, Clone)]
pub struct KvmProbe {
    /// The VMM: the verdict holds for it alone.
    pub vmm: ProbedVmm,
    /// The kernel that sandboxes boot: the verdict holds for it alone.
    pub kernel: PathBuf,
    /// An initramfs whose `/init` writes a line to the console or ends the machine. The kernel's command line has `sandbar.probe`.
    /// The one that sandboxes boot will do too, since its init complains of the missing disk.
    pub initramfs: PathBuf,
    /// An existing folder. It marks the process, should this one die.
    pub work_dir: PathBuf,
    /// When to give up. A kernel takes a second or two.
    pub deadline: Duration,
}

/// What a probe found. It holds for one kernel, one build of QEMU and one boot of the host: the key to cache it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum KvmVerdict {
    /// A guest kernel booted and started its first process.
    Usable {
        /// How long that took.
        boot_ms: u64,
    },
    /// KVM cannot run the guest kernel here.
    Unusable {
        /// Why, in words for the operator.
        reason: String,
    },
}

/// What the console told so far.
#[derive(Debug, Default)]
struct Console {
    init_started: bool,
    last_line: String,
}

/// What a line of the console settles.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    UserSpace,
    Panic,
}

impl Console {
    fn hear(&mut self, line: &str) -> Heard {
        let line = line.trim();
        if line.is_empty() {
            return Heard::Nothing;
        }
        line.clone_into(&mut self.last_line);
        // The kernel's own lines start with a time stamp; whatever else comes after it started init is from there.
        if line.contains("Kernel panic") {
            Heard::Panic
        } else if line.contains("Run /init as init process") {
            self.init_started = true;
            Heard::Nothing
        } else if self.init_started && !line.starts_with('[') {
            Heard::UserSpace
        } else {
            Heard::Nothing
        }
    }
}

impl KvmProbe {
    /// Boots the guest. Ends by the deadline and leaves no process.
    pub async fn run(&self) -> KvmVerdict {
        let started = Instant::now();
        match self.boot().await {
            Ok(()) => KvmVerdict::Usable {
                boot_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            Err(reason) => KvmVerdict::Unusable { reason },
        }
    }

    async fn boot(&self) -> Result<(), String> {
        device()?;
        let (binary, arguments) = self.command_line().map_err(|error| error.to_string())?;
        let mut command = Command::new(binary);
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe { command.pre_exec(without_core) };
        let mut child = command
            .args(arguments)
            .env_clear()
            .env(MARK, &self.work_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", self.vmm))?;
        let mut console = Console::default();
        let listened = timeout(self.deadline, listen(&self.vmm, &mut child, &mut console)).await;
        let answer = listened.unwrap_or_else(|_| {
            let seconds = self.deadline.as_secs_f32();
            Err(if console.last_line.is_empty() {
                format!("/dev/kvm is there, but a guest kernel started under it printed nothing for {seconds} s")
            } else {
                format!(
                    "/dev/kvm is there, but a guest kernel did not start its first process within {seconds} s; the last it \
                     said: {:?}",
                    console.last_line
                )
            })
        });
        // Also when it ended by itself: this reaps it.
        if let Err(error) = child.kill().await {
            tracing::error!(%error, "cannot kill the probe's machine");
        }
        if let ProbedVmm::Firecracker(_) = self.vmm {
            // Left there, it would be written anew by the next probe.
            let _ = std::fs::remove_file(self.machine_file());
        }
        answer
    }

    fn command_line(&self) -> Result<(PathBuf, Vec<OsString>), VmmError> {
        match &self.vmm {
            ProbedVmm::Qemu(path) => {
                let arguments = qemu::probe_arguments(&self.kernel, &self.initramfs, tsc::measure_khz());
                Ok((binary::resolve(path)?, arguments))
            }
            ProbedVmm::Firecracker(path) => {
                let (machine, description) =
                    (self.machine_file(), firecracker::probe_file(&self.kernel, &self.initramfs)?);
                std::fs::write(&machine, description.to_string()).map_err(file("write", &machine))?;
                let arguments = [
                    "--no-api".into(),
                    "--config-file".into(),
                    machine.into(),
                    "--level".into(),
                    "Error".into(),
                ];
                Ok((binary::resolve(path)?, arguments.into()))
            }
        }
    }

    /// The description of Firecracker's machine.
    fn machine_file(&self) -> PathBuf {
        self.work_dir.join("probe-machine.json")
    }
}

impl fmt::Display for ProbedVmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu(_) => "QEMU",
            Self::Firecracker(_) => "Firecracker",
        })
    }
}

/// QEMU aborts where KVM is not what it expects.
fn without_core() -> std::io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

async fn listen(vmm: &ProbedVmm, child: &mut Child, console: &mut Console) -> Result<(), String> {
    let (Some(output), Some(mut complaints)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(format!("{vmm}'s output cannot be read"));
    };
    let mut lines = BufReader::new(output).split(b'\n');
    loop {
        match lines.next_segment().await.map_err(|error| format!("{vmm}'s output cannot be read: {error}"))? {
            Some(line) => match console.hear(&String::from_utf8_lossy(&line)) {
                Heard::Nothing => {}
                Heard::UserSpace => return Ok(()),
                Heard::Panic => {
                    return Err(format!("the guest kernel failed under KVM: {}", console.last_line));
                }
            },
            // Init ended the machine without a word.
            None if console.init_started => return Ok(()),
            None => {
                let mut text = String::new();
                // A process that closed its output has written its complaints, if any.
                let _ = complaints.read_to_string(&mut text).await;
                // The first complaint is the cause; what follows (an aborted assertion, say) are its consequences.
                let complaint = text.lines().next().unwrap_or_default().trim();
                return Err(format!("/dev/kvm is there, but {vmm} cannot run a guest under it: {complaint}"));
            }
        }
    }
}

fn device() -> Result<(), String> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(
            "there is no /dev/kvm: the processor's virtualization is switched off or not passed on to this machine"
                .to_owned(),
        ),
        Err(error) => Err(format!("/dev/kvm cannot be opened: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_user_space_counts() {
        let mut console = Console::default();
        for line in
            ["", "SeaBIOS", "[    0.000000] Linux version 6.1", "[    1.7] Run /init as init process", "\r"]
        {
            assert_eq!(console.hear(line), Heard::Nothing, "{line}");
        }
        assert_eq!(console.hear("[    1.8] virtio_blk virtio0: ready"), Heard::Nothing);
        assert_eq!(console.hear("sandbar-init: alive\r"), Heard::UserSpace);
        assert_eq!(
            console.hear("[    1.9] Kernel panic - not syncing: No working init found."),
            Heard::Panic
        );
        assert!(console.last_line.contains("No working init"));
    }

    #[test]
    fn a_verdict_can_be_kept() {
        let verdict = KvmVerdict::Unusable { reason: "no".to_owned() };
        let stored = serde_json::to_string(&verdict).unwrap();
        assert_eq!(stored, r#"{"verdict":"unusable","reason":"no"}"#);
        assert_eq!(serde_json::from_str::<KvmVerdict>(&stored).unwrap(), verdict);
    }
}
