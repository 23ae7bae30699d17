//! What a host owes of volumes that are no more, and volumes that nobody is making any more.

use sandbar_store::StoreError;

use crate::Control;
use crate::host_client::{HostClient, HostError};

/// What this part of a round came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct VolumeReport {
    /// Volumes that the host has removed.
    pub(super) deleted: usize,
    /// Those that it could not remove now.
    pub(super) failed: usize,
}

impl Control {
    /// Gives up the volumes that were begun on a host and are overdue, then asks it to remove what it owes. One that a sandbox still has, which
    /// is at its end, is removed in a later round.
    pub(super) async fn reconcile_volumes(&self, client: &HostClient) -> Result<VolumeReport, StoreError> {
        let host = client.id();
        let patience = chrono::Duration::from_std(self.config().operation_deadline).unwrap_or_default();
        let before = self.store().now().await? - patience;
        let mut report = VolumeReport::default();
        for volume in self.store().volumes_owed(host, before).await? {
            match client.delete_volume(volume, self.config().call_deadline).await {
                Ok(()) => {
                    self.store().volume_deleted(volume).await?;
                    report.deleted += 1;
                }
                Err(error) => {
                    tracing::warn!(%volume, %host, error = &error as &dyn std::error::Error,
                        "a host cannot remove a volume now; the next round asks again");
                    report.failed += 1;
                    // It will not answer for the others either.
                    if matches!(error, HostError::Unreachable(_) | HostError::Deadline(_)) {
                        break;
                    }
                }
            }
        }
        Ok(report)
    }
}
