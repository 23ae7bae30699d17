//! The volumes that a sandbox is made with: which they are, where it therefore runs, and that it alone has them from then on.
//!
//! Volumes whose files are just being served (`crate::volumes`) are taken from the sandbox that does so, which ends.

use sandbar_proto::host;
use sandbar_store::Tx;
use sandbar_store::volumes::VolumeRef;
use sandbar_types::id::{self, Host, Team};
use sandbar_types::{Id, MountPath, SandboxStatus, VolumeMount, VolumeStatus};

use super::create::Request;
use super::{InvalidSandbox, NewMount, NoHostReason, Sandbox, SandboxError, VolumeHostReason};
use crate::{Control, OpContext, volumes};

/// How often a volume is taken from a sandbox that serves its files: others may begin to serve them again.
const TAKES: usize = 3;

/// The volumes of a sandbox to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Volumes {
    pub(super) mounts: Vec<VolumeMount>,
    /// The host that has all of them.
    pub(super) home: Option<Id<Host>>,
    pub(super) use_of: Use,
}

/// What a sandbox has volumes for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Use {
    /// Whatever its owner does with them.
    #[default]
    Own,
    /// Their files are asked for from outside. It gives them up for one that has a use of its own.
    Files,
}

impl Volumes {
    /// What the caller is told where no host takes the sandbox.
    pub(super) fn no_host(&self, reason: NoHostReason, drains: bool) -> SandboxError {
        match (self.home, self.mounts.first()) {
            (Some(host), Some(mount)) => {
                let reason = if drains { VolumeHostReason::Draining } else { reason.into() };
                SandboxError::VolumeHost { volume: mount.name.clone(), host, reason }
            }
            _ => SandboxError::NoHosts { reason },
        }
    }

    /// Gives the sandbox, whose row is there, its volumes. All or none: the caller gives the transaction up where it fails.
    pub(super) async fn claim(
        &self,
        tx: &mut Tx,
        team: Id<Team>,
        sandbox: Id<id::Sandbox>,
    ) -> Result<(), SandboxError> {
        // In one order, so that two that want the same ones do not wait for each other.
        let mut mounts: Vec<_> = self.mounts.iter().collect();
        mounts.sort_unstable_by_key(|mount| mount.id);
        for mount in mounts {
            if tx.volume_claim(mount.id, sandbox, self.use_of == Use::Files).await? {
                continue;
            }
            let row = tx.volume_lock(team, &VolumeRef::Id(mount.id)).await?;
            let row = row.ok_or_else(|| SandboxError::VolumeNotFound { volume: mount.name.to_string() })?;
            match (row.status, row.sandbox_id) {
                (VolumeStatus::Ready, Some(sandbox)) => {
                    return Err(SandboxError::VolumeInUse {
                        volume: row.name,
                        sandbox,
                        serving: row.serving,
                    });
                }
                // It came free between the two statements, and is held now.
                (VolumeStatus::Ready, None)
                    if tx.volume_claim(mount.id, sandbox, self.use_of == Use::Files).await? => {}
                _ => return Err(SandboxError::VolumeNotReady { volume: row.name }),
            }
        }
        Ok(())
    }

    pub(super) fn to_proto(&self) -> Vec<host::VolumeMount> {
        let mount = |mount: &VolumeMount| host::VolumeMount {
            volume_id: mount.id.to_string(),
            path: mount.path.to_string(),
            ..Default::default()
        };
        self.mounts.iter().map(mount).collect()
    }
}

impl Control {
    /// The team's volumes of these names or ids, which `paths` goes with.
    pub(super) async fn volumes_for(
        &self,
        team: Id<Team>,
        wanted: &[NewMount],
        paths: &[MountPath],
    ) -> Result<Volumes, SandboxError> {
        let mut volumes = Volumes::default();
        let mut first = None;
        for (NewMount { volume, path: _ }, path) in wanted.iter().zip(paths) {
            let unknown = || SandboxError::VolumeNotFound { volume: volume.clone() };
            let reference = volumes::reference(volume).ok_or_else(unknown)?;
            let row = self.store().volume(team, &reference).await?.ok_or_else(unknown)?;
            if volumes.mounts.iter().any(|mount| mount.id == row.id) {
                return Err(InvalidSandbox::VolumeTwice { volume: volume.clone() }.into());
            }
            if row.status != VolumeStatus::Ready {
                return Err(SandboxError::VolumeNotReady { volume: row.name });
            }
            let (other, host) = first.get_or_insert((row.name.clone(), row.host_id));
            if *host != row.host_id {
                return Err(SandboxError::VolumesApart { volumes: (other.clone(), row.name) });
            }
            volumes.home = Some(row.host_id);
            volumes.mounts.push(VolumeMount { id: row.id, name: row.name, path: path.clone() });
        }
        Ok(volumes)
    }

    /// Makes a sandbox, and ends those before that serve the files of its volumes.
    pub(super) async fn create_with_volumes(
        &self,
        ctx: &OpContext,
        request: &Request,
    ) -> Result<Sandbox, SandboxError> {
        for _ in 0..TAKES {
            match self.create_in_steps(ctx, request).await {
                Err(SandboxError::VolumeInUse { sandbox, serving: true, .. }) => {
                    self.end_file_server(ctx, sandbox).await?;
                }
                outcome => return outcome,
            }
        }
        self.create_in_steps(ctx, request).await
    }

    /// Ends a sandbox that serves a volume's files. Where somebody else does so at this moment, waits for that for a time.
    pub(crate) async fn end_file_server(
        &self,
        ctx: &OpContext,
        id: Id<id::Sandbox>,
    ) -> Result<(), SandboxError> {
        let sandbox = self.sandbox_get(ctx, id).await?;
        match self.sandbox_destroy(ctx, &sandbox).await {
            Err(SandboxError::InvalidState { status: SandboxStatus::Stopping, .. }) => {
                self.sandbox_ended(ctx, id).await
            }
            // It has ended.
            Err(SandboxError::InvalidState { status, .. }) if status.is_end() => Ok(()),
            outcome => outcome,
        }
    }
}
