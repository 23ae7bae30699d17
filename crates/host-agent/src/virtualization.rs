//! Which VMM this host uses, and why: decided by booting a tiny guest, not by looking at device files.
//!
//! Firecracker where it is installed and boots a guest, else QEMU with KVM where that boots one, else QEMU in software. What one of them
//! has begun the other cannot go on with: so a host whose sandboxes are QEMU's stays with it until it is told otherwise.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sandbar_hostnet::Tag;
use sandbar_storage::Kernel;
use sandbar_types::VmmKind;
use sandbar_vmm::probe::{KvmProbe, KvmVerdict, ProbedVmm};
use sandbar_vmm::{
    Accelerator, CgroupError, Cgroups, FirecrackerOptions, FirecrackerVmm, QemuVmm, Vmm, VmmError,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::chain;
use crate::journal::{JournalError, write_atomically};

/// A guest kernel that has not started its first process by then is not going to.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Which VMM is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VmmChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one or none.
    Only(VmmKind),
}

impl FromStr for VmmChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Only(VmmKind::Firecracker)),
            "qemu" => Ok(Self::Only(VmmKind::Qemu)),
            _ => Err("auto, firecracker and qemu are possible".to_owned()),
        }
    }
}

impl fmt::Display for VmmChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(kind) => kind.fmt(f),
        }
    }
}

/// The VMM of this host.
pub struct Virtualization {
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// Why it is this one, for people.
    pub reason: String,
    /// What bounds its machines.
    pub cgroups: Cgroups,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum VirtualizationError {
    /// QEMU is not usable.
    #[error("QEMU is not usable (install qemu-system-x86)")]
    Qemu(#[source] VmmError),
    /// Firecracker is wanted and not usable.
    #[error("Firecracker is not usable: {0}")]
    Firecracker(String),
    /// Control groups cannot be looked at.
    #[error("control groups cannot be used")]
    Cgroups(#[from] CgroupError),
    /// The verdict cannot be kept.
    #[error("the verdict on KVM cannot be kept")]
    Cache(#[from] JournalError),
}

/// A verdict that holds until the kernel, the VMM or the host's boot changes.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    verdict: KvmVerdict,
}

/// What of Firecracker there is.
enum Found {
    Usable(Virtualization),
    /// It is not, for this reason.
    Unusable(String),
}

impl Virtualization {
    /// Chooses the VMM, on a host whose sandboxes are those of `in_use`. The verdict on KVM is kept in `folder`, so that only the first
    /// start after a boot pays for it.
    pub async fn detect(
        choice: VmmChoice,
        in_use: &[VmmKind],
        kernel: &Kernel,
        folder: &Path,
    ) -> Result<Self, VirtualizationError> {
        let cgroups = Cgroups::open(&format!("sandbar-{}", network_tag(folder)))?;
        let asked = Asked { kernel, folder, cgroups };
        match choice {
            VmmChoice::Only(VmmKind::Qemu) => asked.qemu("it was asked for").await,
            VmmChoice::Only(VmmKind::Firecracker) => match asked.firecracker().await? {
                Found::Usable(found) => Ok(found),
                Found::Unusable(reason) => Err(VirtualizationError::Firecracker(reason)),
            },
            VmmChoice::Auto if stays_with_qemu(in_use) => {
                asked.qemu("sandboxes that it began are here, and no other can go on with them").await
            }
            VmmChoice::Auto => match asked.firecracker().await? {
                Found::Usable(found) => Ok(found),
                Found::Unusable(reason) => asked.qemu(&format!("Firecracker is not usable: {reason}")).await,
            },
        }
    }
}

fn stays_with_qemu(in_use: &[VmmKind]) -> bool {
    in_use.contains(&VmmKind::Qemu) && !in_use.contains(&VmmKind::Firecracker)
}

/// What a VMM is looked for with.
struct Asked<'a> {
    kernel: &'a Kernel,
    folder: &'a Path,
    cgroups: Cgroups,
}

impl Asked<'_> {
    async fn firecracker(&self) -> Result<Found, VirtualizationError> {
        // The jailer's process is not the agent's child: whose it is says its group.
        if self.cgroups.is_empty() {
            return Ok(Found::Unusable("no control groups".to_owned()));
        }
        let options = firecracker_options();
        let vmm = match FirecrackerVmm::new(&options, self.cgroups.clone()).await {
            Ok(vmm) => vmm,
            Err(error) => return Ok(Found::Unusable(not_usable(&error))),
        };
        let build = vmm.compatibility().build.clone();
        let probed = ProbedVmm::Firecracker(options.firecracker);
        Ok(match self.verdict("firecracker", &build, probed).await? {
            KvmVerdict::Usable { boot_ms } => Found::Usable(Virtualization {
                vmm: Arc::new(vmm),
                reason: format!(
                    "Firecracker {build} with KVM: a guest kernel booted under it in {boot_ms} ms"
                ),
                cgroups: self.cgroups.clone(),
            }),
            KvmVerdict::Unusable { reason } => Found::Unusable(reason),
        })
    }

    async fn qemu(&self, why: &str) -> Result<Virtualization, VirtualizationError> {
        let qemu = qemu_binary();
        let emulated = QemuVmm::new(&qemu, Accelerator::Tcg, self.cgroups.clone())
            .await
            .map_err(VirtualizationError::Qemu)?;
        let build = emulated.compatibility().build.clone();
        Ok(match self.verdict("kvm", &build, ProbedVmm::Qemu(qemu.clone())).await? {
            KvmVerdict::Usable { boot_ms } => Virtualization {
                vmm: Arc::new(
                    QemuVmm::new(&qemu, Accelerator::Kvm, self.cgroups.clone())
                        .await
                        .map_err(VirtualizationError::Qemu)?,
                ),
                reason: format!("QEMU with KVM: a guest kernel booted under it in {boot_ms} ms; {why}"),
                cgroups: self.cgroups.clone(),
            },
            KvmVerdict::Unusable { reason } => Virtualization {
                vmm: Arc::new(emulated),
                reason: format!("QEMU with software emulation, since KVM is not usable: {reason}; {why}"),
                cgroups: self.cgroups.clone(),
            },
        })
    }

    /// Whether a guest boots, as it was found before or is found now.
    async fn verdict(
        &self,
        name: &str,
        build: &str,
        vmm: ProbedVmm,
    ) -> Result<KvmVerdict, VirtualizationError> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let key = format!("{} {build} {}", self.kernel.hash, boot_id.trim());
        let file = self.folder.join(format!("{name}-verdict.json"));
        if let Some(verdict) = kept(&file, &key) {
            return Ok(verdict);
        }
        let probe = KvmProbe {
            vmm,
            kernel: self.kernel.vmlinux.clone(),
            initramfs: self.kernel.initramfs.clone(),
            work_dir: self.folder.to_owned(),
            deadline: PROBE_DEADLINE,
        };
        let verdict = probe.run().await;
        keep(&file, &Kept { key, verdict: verdict.clone() })?;
        Ok(verdict)
    }
}

/// Why Firecracker's driver cannot be had.
fn not_usable(error: &VmmError) -> String {
    match error {
        VmmError::Start { binary, source } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("{} is not installed", binary.display())
        }
        error => chain(error),
    }
}

fn kept(file: &Path, key: &str) -> Option<KvmVerdict> {
    // A file that cannot be read or understood is no verdict: the probe is run again.
    let kept: Kept = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    (kept.key == key).then_some(kept.verdict)
}

fn keep(file: &Path, kept: &Kept) -> Result<(), JournalError> {
    let bytes = serde_json::to_vec(kept).expect("a verdict has no map with keys other than text");
    write_atomically(file, &bytes)
}

/// The QEMU of this host: from `SANDBAR_QEMU`, else by its usual name.
pub(crate) fn qemu_binary() -> PathBuf {
    std::env::var_os("SANDBAR_QEMU").map_or_else(|| PathBuf::from("qemu-system-x86_64"), PathBuf::from)
}

/// The Firecracker of this host: from `SANDBAR_FIRECRACKER`, else by its usual name; and the jailer beside it.
fn firecracker_options() -> FirecrackerOptions {
    let firecracker =
        std::env::var_os("SANDBAR_FIRECRACKER").map_or_else(|| PathBuf::from("firecracker"), PathBuf::from);
    FirecrackerOptions { jailer: firecracker.with_file_name("jailer"), firecracker }
}

/// Marks what this agent makes in the host's network: stable for its folder, different for another's.
pub(crate) fn network_tag(data_dir: &Path) -> Tag {
    let folder = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    hex::encode(&digest[..2]).parse().expect("four hexadecimal digits are a tag")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["auto", "firecracker", "qemu"] {
            assert_eq!(text.parse::<VmmChoice>().unwrap().to_string(), text);
        }
        assert!("kvm".parse::<VmmChoice>().is_err());
    }

    #[test]
    fn sandboxes_that_are_there_keep_their_vmm() {
        use VmmKind::{Firecracker, Qemu};
        assert!(stays_with_qemu(&[Qemu, Qemu]));
        for in_use in [&[][..], &[Firecracker], &[Qemu, Firecracker]] {
            assert!(!stays_with_qemu(in_use), "{in_use:?}");
        }
    }

    #[test]
    fn what_is_not_installed_is_said_so() {
        let source = std::io::ErrorKind::NotFound.into();
        let error = VmmError::Start { binary: "firecracker".into(), source };
        assert_eq!(not_usable(&error), "firecracker is not installed");
    }
}
