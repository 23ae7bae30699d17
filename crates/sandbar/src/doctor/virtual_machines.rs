//! Which driver runs virtual machines, decided as the host agent decides it: by booting a guest.

use sandbar_host_agent::{Virtualization, VmmChoice};
use sandbar_storage::{DebianSource, prepare_kernel};
use sandbar_types::VmmKind;
use sandbar_vmm::{Accelerator, Compatibility};

use super::Finding;
use super::disk::KernelStore;
use crate::guest_binaries::GUEST_BINARIES;

const CHECK: &str = "virtual machines";

/// How Firecracker is had, where KVM works.
const GET_FIRECRACKER: &str = "where KVM works, Firecracker can take QEMU's place: of release v1.16.1 or later of firecracker-microvm/firecracker on GitHub \
     take the .tgz for x86_64, compare it with its .sha256.txt, and install its firecracker-* and jailer-* as /usr/local/bin/firecracker \
     and /usr/local/bin/jailer; snapshots and paused sandboxes of QEMU stay with QEMU (--vmm)";

pub(super) async fn check(store: KernelStore) -> Finding {
    let finding = match detect(&store).await {
        Ok((driver, reason)) => {
            let found = format!("driver {}. {reason}", driver.vmm);
            match (driver.vmm, driver.accelerator) {
                (VmmKind::Firecracker, _) => Finding::ok(CHECK, found),
                (VmmKind::Qemu, Accelerator::Kvm) => {
                    Finding { advice: Some(GET_FIRECRACKER.to_owned()), ..Finding::ok(CHECK, found) }
                }
                (VmmKind::Qemu, Accelerator::Tcg) => Finding::warn(
                    CHECK,
                    found,
                    "sandboxes work, but their processors are 5 to 20 times slower; for speed use a machine with hardware virtualization, \
                     or turn on nested virtualization for this one",
                ),
            }
        }
        Err(error) => Finding::fail(
            CHECK,
            format!("no driver: {error:#}"),
            "install qemu-system-x86 (version 8.2 or later), and see that the machine reaches its Debian mirror",
        ),
    };
    // Removing a trial store blocks.
    let _dropped = tokio::task::spawn_blocking(move || drop(store)).await;
    finding
}

/// The verdict is not taken from the agent's cache, and not left in it: a doctor looks himself.
async fn detect(store: &KernelStore) -> anyhow::Result<(Compatibility, String)> {
    let Some(store) = store.store().cloned() else {
        anyhow::bail!("there is no store for the guest's kernel")
    };
    let folder = store.dir().join("tmp").join(format!("doctor-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let detected = async {
        let kernel = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            Ok(prepare_kernel(&store, GUEST_BINARIES, &DebianSource::detect()?, &|_: &str| {})?)
        })
        .await??;
        let found = Virtualization::detect(VmmChoice::Auto, &[], &kernel, &folder).await?;
        Ok((found.vmm.compatibility().clone(), found.reason))
    }
    .await;
    std::fs::remove_dir_all(&folder)?;
    detected
}
