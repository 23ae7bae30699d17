//! The sandbox that has a volume while its files are asked for from outside: made on demand of the platform's own template, where the volume
//! is, ended by its host a minute after its last use, and at once when somebody wants the volume for a sandbox of their own, or deletes it. It
//! is a sandbox of the team like any other, and counted as such.

use std::collections::BTreeMap;

use sandbar_store::volumes::VolumeRow;
use sandbar_types::id;
use sandbar_types::{Id, SandboxStatus, TimeoutFrom, VolumeStatus};

use super::{VolumeError, not_found};
use crate::sandboxes::{NetworkRules, NewMount, NewSandbox, OnTimeout, Sandbox, SandboxError};
use crate::{Control, OpContext};

/// Where it has the volume.
pub(super) const ROOT: &str = "/volume";
/// How long it outlives its last use.
const IDLE_SEC: u32 = 60;
/// Its metadata: which volume it serves.
const METADATA: &str = "sandbar_volume_files";
/// How often it is looked for, or made, where others end it or make it meanwhile.
const TRIES: usize = 5;

impl Control {
    /// A sandbox that has the volume at [`ROOT`] and lives for a while yet.
    pub(super) async fn file_server(
        &self,
        ctx: &OpContext,
        id: Id<id::Volume>,
    ) -> Result<Sandbox, VolumeError> {
        let mut last = None;
        for _ in 0..TRIES {
            let row = self.store().volume_find(id).await?.ok_or_else(|| not_found(&id.to_string()))?;
            if row.status != VolumeStatus::Ready {
                return Err(VolumeError::NotReady { name: row.name });
            }
            let sandbox = match row.sandbox_id {
                None => match self.file_server_create(ctx, &wanted(&row)).await {
                    Ok(sandbox) => return Ok(sandbox),
                    // Somebody else was faster, with the same or with a use of their own.
                    Err(
                        SandboxError::VolumeInUse { sandbox, .. } | SandboxError::Interrupted { id: sandbox },
                    ) => {
                        last = Some(sandbox);
                        continue;
                    }
                    Err(error) => return Err(VolumeError::Sandbox(error)),
                },
                Some(sandbox) if !row.serving => {
                    return Err(VolumeError::FilesInUse { name: row.name, sandbox });
                }
                Some(sandbox) => {
                    last = Some(sandbox);
                    self.sandbox_settled(ctx, sandbox).await.map_err(VolumeError::Sandbox)?
                }
            };
            if self.still_serves(ctx, &sandbox).await? {
                return Ok(sandbox);
            }
            // The host ended it a moment ago, or somebody paused it: its end is written down, and another one made.
            self.end_file_server(ctx, sandbox.id).await.map_err(VolumeError::Sandbox)?;
        }
        Err(match last {
            Some(id) => VolumeError::Sandbox(SandboxError::Busy { id }),
            None => not_found(&id.to_string()),
        })
    }

    /// Whether it answers. That counts as a use.
    async fn still_serves(&self, ctx: &OpContext, sandbox: &Sandbox) -> Result<bool, VolumeError> {
        match sandbox.status {
            SandboxStatus::Running | SandboxStatus::Snapshotting | SandboxStatus::Missing => {
                match self.sandbox_ping(ctx, sandbox).await {
                    Ok(()) => Ok(true),
                    Err(SandboxError::Gone { .. } | SandboxError::InvalidState { .. }) => Ok(false),
                    Err(error) => Err(VolumeError::Sandbox(error)),
                }
            }
            _ => Ok(false),
        }
    }
}

fn wanted(volume: &VolumeRow) -> NewSandbox {
    NewSandbox {
        timeout_sec: Some(IDLE_SEC),
        timeout_from: Some(TimeoutFrom::Activity),
        on_timeout: Some(OnTimeout::Kill),
        metadata: BTreeMap::from([(METADATA.to_owned(), volume.name.to_string())]),
        volumes: vec![NewMount { volume: volume.id.to_string(), path: ROOT.to_owned() }],
        network: Some(NetworkRules { allow_internet: Some(false), ..NetworkRules::default() }),
        ..NewSandbox::default()
    }
}
