//! Which driver runs virtual machines, decided as the host agent decides it: by booting a guest.

use sandbar_host_agent::Virtualization;
use sandbar_storage::{DebianSource, prepare_kernel};
use sandbar_vmm::Accelerator;

use super::Finding;
use super::disk::KernelStore;
use crate::guest_binaries::GUEST_BINARIES;

const CHECK: &str = "virtual machines";

pub(super) async fn check(store: KernelStore) -> Finding {
    let finding = match detect(&store).await {
        Ok((Accelerator::Kvm, reason)) => Finding::ok(CHECK, format!("driver qemu. {reason}")),
        Ok((Accelerator::Tcg, reason)) => Finding::warn(
            CHECK,
            format!("driver qemu. {reason}"),
            "sandboxes work, but their processors are 5 to 20 times slower; for speed use a machine with hardware virtualization, or \
             turn on nested virtualization for this one",
        ),
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
async fn detect(store: &KernelStore) -> anyhow::Result<(Accelerator, String)> {
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
        let found = Virtualization::detect(&kernel, &folder).await?;
        Ok((found.vmm.compatibility().accelerator, found.reason))
    }
    .await;
    std::fs::remove_dir_all(&folder)?;
    detected
}
