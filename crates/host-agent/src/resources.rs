//! What all sandboxes of the host draw on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandbar_hostnet::{Pool, Slot};
use sandbar_storage::{Kernel, Store, TemplateSpec};
use sandbar_types::Arch;
use sandbar_vmm::{Compatibility, Confinement, DiskRate, Vmm};
use tokio::sync::{Notify, Semaphore};

use crate::arrivals::Arrivals;
use crate::error::Error;
use crate::import::Imports;
use crate::journal::Journal;
use crate::sandbox::activity::now_unix_ms;
use crate::volumes::Claims;
use crate::warm::Spares;

/// The host's shared parts. One for the agent's life.
pub(crate) struct Resources {
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) store: Store,
    pub(crate) pool: Pool,
    pub(crate) journal: Journal,
    pub(crate) kernel: Kernel,
    pub(crate) inventory: Inventory,
    pub(crate) deadlines: Deadlines,
    /// Users of machines begin here.
    pub(crate) first_user: u32,
    /// How fast each sandbox may use its disk.
    pub(crate) disk_rate: DiskRate,
    /// Machines that are restored ahead.
    pub(crate) spares: Arc<Spares>,
    /// Turns of work on the files of pauses that nobody waits for.
    pub(crate) settling: Semaphore,
    /// Turns of reading logs.
    pub(crate) log_reads: Semaphore,
    /// Templates that are on their way here.
    pub(crate) arrivals: Arrivals,
    /// Templates that are made of images of others.
    pub(crate) imports: Imports,
    /// Who has which volume.
    pub(crate) volumes: Arc<Claims>,
}

impl Resources {
    /// Whether this host's virtual machine monitor can go on with a machine.
    pub(crate) fn check(&self, machine: &TemplateSpec) -> Result<(), Error> {
        let needed: Compatibility = serde_json::from_value(machine.compatibility.clone())
            .map_err(|error| Error::Incompatible(error.to_string()))?;
        let host = self.vmm.compatibility();
        needed.check(host).map_err(|mismatch| Error::Incompatible(mismatch.to_string()))
    }

    /// What a machine is that this host boots on the disk of another one, whatever that ran on.
    pub(crate) fn booted(&self, disk_of: &TemplateSpec) -> Result<TemplateSpec, Error> {
        if disk_of.arch != Arch::host() {
            let (needed, host) = (disk_of.arch, Arch::host());
            return Err(Error::Incompatible(format!(
                "its programs are for {needed}, and this host is {host}"
            )));
        }
        Ok(TemplateSpec {
            vmm: self.vmm.kind(),
            compatibility: self.compatibility()?,
            kernel: self.kernel.hash.clone(),
            guest_token: None,
            ..disk_of.clone()
        })
    }

    /// What machines of this host say that they need, in the words that are kept with them.
    pub(crate) fn compatibility(&self) -> Result<serde_json::Value, Error> {
        serde_json::to_value(self.vmm.compatibility())
            .map_err(Error::internal("describe the virtual machine monitor"))
    }
}

/// Number of users that an agent's machines may have, and the first of them unless another is wanted: beyond the ranges of accounts
/// and of containers, and within what 32 bits can tell.
pub(crate) const USERS: u32 = 1 << 23;
pub(crate) const FIRST_USER: u32 = 0x7000_0000;

impl Resources {
    /// As whom the machine in a slot runs. The slot's address tells the user: no two slots of an agent have the same one, nor those of two
    /// agents on one machine, unless their networks are equal in the low 24 bits of their addresses. Those need different first users.
    pub(crate) fn confinement(&self, slot: &Slot, name: String) -> Confinement {
        let link = u32::from(slot.host_ip) / 2;
        Confinement { user: self.first_user + link % USERS, group: name }
    }
}

/// How long the guest may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// From a restored machine to its guest's acceptance of its identity.
    pub(crate) guest_init: Duration,
    /// From a booted kernel to the guest agent's ready push.
    pub(crate) guest_boot: Duration,
    /// For writing all that the guest's files hold through to its disk, before it is copied.
    pub(crate) guest_flush: Duration,
}

impl Default for Deadlines {
    /// Generous, since software emulation on a busy host is slow; a healthy restore takes tens of milliseconds, a boot seconds.
    fn default() -> Self {
        Self {
            guest_init: Duration::from_secs(30),
            guest_boot: Duration::from_secs(180),
            guest_flush: Duration::from_secs(20),
        }
    }
}

/// A counter of the changes of what exists on this host, and a signal for those that nobody asked for.
#[derive(Debug)]
pub(crate) struct Inventory {
    generation: AtomicU64,
    unasked: Notify,
}

impl Inventory {
    /// Counts from the present moment, so that an agent that starts anew goes on above all that its predecessor reported.
    pub(crate) fn starting_now() -> Self {
        // 2^16 changes a millisecond would be needed for two runs to overlap.
        let start = u64::try_from(now_unix_ms()).unwrap_or_default() << 16;
        Self { generation: AtomicU64::new(start), unasked: Notify::new() }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Something changed.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Something changed by itself: the control plane should hear of it now.
    pub(crate) fn changed_unasked(&self) {
        self.changed();
        self.unasked.notify_one();
    }

    /// Completes when something has changed by itself since the last completion.
    pub(crate) async fn unasked_change(&self) {
        self.unasked.notified().await;
    }
}

/// Runs file operations off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal(step))?
}
