//! Booting a machine: a kernel starts on a disk, and the guest's agent says when it serves. So templates are made of images, and so
//! sandboxes begin that have no memory to go on from.

use std::path::PathBuf;

use sandbar_hostnet::Slot;
use sandbar_vmm::{BootSource, Machine, MachineSpec};
use tokio::net::TcpListener;

use crate::error::Error;
use crate::push;
use crate::resources::Resources;

/// Starts a machine from this host's kernel, on its disk. `memory` is what its memory begins as: a file that is made.
///
/// Returns as soon as the processors run, with what hears the guest: whoever owns the machine ends it if that fails.
pub(crate) async fn start(
    resources: &Resources,
    machine: &MachineSpec,
    memory: PathBuf,
    slot: &Slot,
) -> Result<(Box<dyn Machine>, Guest), Error> {
    let source = BootSource {
        kernel: resources.kernel.vmlinux.clone(),
        initramfs: resources.kernel.initramfs.clone(),
        memory,
    };
    // Before the machine: the guest pushes as soon as its agent serves.
    let listener = slot.ready_listener().await.map_err(Error::internal("listen for the guest"))?;
    let machine = resources.vmm.boot(machine, &source).await.map_err(Error::internal("boot the machine"))?;
    Ok((machine, Guest { listener }))
}

/// A guest that boots.
pub(crate) struct Guest {
    listener: TcpListener,
}

impl Guest {
    /// Completes when its agent serves.
    pub(crate) async fn ready(self, resources: &Resources, machine: &dyn Machine) -> Result<(), Error> {
        let limit = resources.deadlines.guest_boot;
        let failed = tokio::select! {
            pushed = tokio::time::timeout(limit, self.pushed()) => match pushed {
                Ok(pushed) => return pushed,
                Err(_) => format!("the guest's agent was not ready within {} s", limit.as_secs()),
            },
            () = machine.exited() => "the guest ended before its agent was ready".to_owned(),
        };
        tracing::error!(process = %machine.process(), output = machine.output(), "{failed}");
        Err(Error::DoesNotBoot(failed))
    }

    async fn pushed(&self) -> Result<(), Error> {
        while push::next(&self.listener).await?.event != push::Event::Ready {}
        Ok(())
    }
}
