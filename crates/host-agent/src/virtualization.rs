//! Which VMM this host uses, and why: decided by booting a tiny guest, not by looking at device files.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbar_hostnet::Tag;
use sandbar_storage::Kernel;
use sandbar_vmm::probe::{KvmProbe, KvmVerdict};
use sandbar_vmm::{Accelerator, CgroupError, Cgroups, QemuVmm, Vmm, VmmError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::journal::{JournalError, write_atomically};

/// Where the verdict on KVM is kept, in the agent's folder.
const VERDICT: &str = "kvm-verdict.json";
/// A guest kernel that has not started its first process by then is not going to.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

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
    Qemu(#[from] VmmError),
    /// Control groups cannot be looked at.
    #[error("control groups cannot be used")]
    Cgroups(#[from] CgroupError),
    /// The verdict cannot be kept.
    #[error("the verdict on KVM cannot be kept")]
    Cache(#[from] JournalError),
}

/// A verdict that holds until the kernel, QEMU or the host's boot changes.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    verdict: KvmVerdict,
}

impl Virtualization {
    /// Chooses the VMM. The verdict on KVM is kept in `folder`, so that only the first start after a boot pays for it.
    pub async fn detect(kernel: &Kernel, folder: &Path) -> Result<Self, VirtualizationError> {
        let qemu = qemu_binary();
        let cgroups = Cgroups::open(&format!("sandbar-{}", network_tag(folder)))?;
        let emulated = QemuVmm::new(&qemu, Accelerator::Tcg, cgroups.clone()).await?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let key = format!("{} {} {}", kernel.hash, emulated.compatibility().build, boot_id.trim());
        let verdict = match kept(&folder.join(VERDICT), &key) {
            Some(verdict) => verdict,
            None => {
                let probe = KvmProbe {
                    qemu: qemu.clone(),
                    kernel: kernel.vmlinux.clone(),
                    initramfs: kernel.initramfs.clone(),
                    work_dir: folder.to_owned(),
                    deadline: PROBE_DEADLINE,
                };
                let verdict = probe.run().await;
                keep(&folder.join(VERDICT), &Kept { key, verdict: verdict.clone() })?;
                verdict
            }
        };
        Ok(match verdict {
            KvmVerdict::Usable { boot_ms } => Self {
                vmm: Arc::new(QemuVmm::new(&qemu, Accelerator::Kvm, cgroups.clone()).await?),
                cgroups,
                reason: format!("QEMU with KVM: a guest kernel booted under it in {boot_ms} ms"),
            },
            KvmVerdict::Unusable { reason } => Self {
                vmm: Arc::new(emulated),
                cgroups,
                reason: format!("QEMU with software emulation, since KVM is not usable: {reason}"),
            },
        })
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

/// Marks what this agent makes in the host's network: stable for its folder, different for another's.
pub(crate) fn network_tag(data_dir: &Path) -> Tag {
    let folder = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    hex::encode(&digest[..2]).parse().expect("four hexadecimal digits are a tag")
}
