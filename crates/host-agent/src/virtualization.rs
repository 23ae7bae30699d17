//! Which VMM this host uses, and why: decided by booting a tiny guest, not by looking at device files.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbar_hostnet::Tag;
use sandbar_storage::Kernel;
use sandbar_vmm::probe::{KvmProbe, KvmVerdict};
use sandbar_vmm::{Accelerator, QemuVmm, Vmm, VmmError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::journal::{JournalError, write_atomically};

/// A guest kernel that has not started its first process by then is not going to.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// The VMM of this host.
pub struct Virtualization {
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// Why it is this one, for people.
    pub reason: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum VirtualizationError {
    /// QEMU is not usable.
    #[error("QEMU is not usable (install qemu-system-x86)")]
    Qemu(#[from] VmmError),
    /// The verdict cannot be kept.
    #[error("the verdict on KVM cannot be kept")]
    Cache(#[from] JournalError),
}

/// A verdict that holds until the kernel, QEMU or the host's boot changes.
#[derive(Serialize, Deserialize)]
struct Cached {
    key: String,
    verdict: KvmVerdict,
}

impl Virtualization {
    /// Chooses the VMM. The verdict on KVM is kept in `folder`, so that only the first start after a boot pays for it.
    pub async fn detect(kernel: &Kernel, folder: &Path) -> Result<Self, VirtualizationError> {
        let qemu = qemu_binary();
        let probe = KvmProbe {
            qemu: qemu.clone(),
            kernel: kernel.vmlinux.clone(),
            initramfs: kernel.initramfs.clone(),
            work_dir: folder.to_owned(),
            deadline: PROBE_DEADLINE,
        };
        let file = folder.join("kvm-verdict.json");
        let key = probe.cache_key().await;
        let cached = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok())
            .filter(|cached| cached.key == key);
        let verdict = match cached {
            Some(cached) => cached.verdict,
            None => {
                let verdict = probe.run().await;
                let cached = Cached { key, verdict: verdict.clone() };
                if let Ok(bytes) = serde_json::to_vec(&cached) {
                    write_atomically(&file, &bytes)?;
                }
                verdict
            }
        };
        let (accelerator, reason) = match verdict {
            KvmVerdict::Usable { boot_ms } => (
                Accelerator::Kvm,
                format!("QEMU with KVM: a guest kernel booted under it in {boot_ms} ms"),
            ),
            KvmVerdict::Unusable { reason } => {
                (Accelerator::Tcg, format!("QEMU with software emulation, since KVM is not usable: {reason}"))
            }
        };
        let vmm = Arc::new(QemuVmm::new(qemu, accelerator).await?);
        Ok(Self { vmm, reason })
    }
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
