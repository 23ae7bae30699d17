//! Paused sandboxes in object storage: each pause on a host of the platform's is made a template that nobody sees, which is copied and
//! deleted as all are (`keep`). What it is kept for is in [`sandbar_store::sandboxes::KeptPause`] and `crate::sandboxes::elsewhere`.

use sandbar_store::StoreError;
use sandbar_store::templates::CompleteTemplate;
use sandbar_types::Id;
use sandbar_types::id::Template;

use super::keep::Kept;
use crate::Control;
use crate::host_client::HostError;

impl Control {
    /// Gives up what is no pause any more, and has hosts make templates of the pauses that are not kept. What fails is tried again at the
    /// next look; a host that does not answer is asked once.
    pub(super) async fn keep_pauses(&self, kept: &mut Kept) -> Result<(), StoreError> {
        for host in self.store().pauses_sweep().await? {
            self.wants_reconcile(host);
        }
        let limit = self.config().snapshot_deadline;
        let (mut passed, mut passed_hosts) = (Vec::new(), Vec::new());
        loop {
            let template = Id::<Template>::new();
            let Some(claim) = self.store().pause_claim(template, &passed, &passed_hosts).await? else {
                return Ok(());
            };
            passed.push(claim.sandbox);
            let client = self.host_clients().get(claim.host, &claim.address);
            let error = match client.keep_pause(claim.sandbox, template, limit).await {
                Ok(complete) => {
                    let sizes = CompleteTemplate {
                        vcpus: complete.vcpus,
                        memory_mb: complete.memory_mb,
                        disk_mb: complete.disk_mb,
                        size_bytes: complete.size_bytes,
                        compatibility: &complete.compatibility,
                    };
                    // Where it is the sandbox's no more, the next look sweeps it.
                    self.store().pause_ready(template, claim.host, &sizes).await?;
                    continue;
                }
                Err(error) => error,
            };
            kept.failed += 1;
            tracing::warn!(id = %claim.sandbox, host = %claim.host, error = &error as &dyn std::error::Error,
                "a pause could not be made ready for object storage; it is tried again");
            if matches!(error, HostError::Unreachable(_) | HostError::Deadline(_)) {
                passed_hosts.push(claim.host);
            }
            self.store().pause_abandon(template).await?;
        }
    }

    /// Takes what needs no host off those that are to be empty.
    pub(super) async fn leave_draining(&self) -> Result<(), StoreError> {
        for host in self.store().pauses_leave_draining().await? {
            tracing::info!(%host, "a paused sandbox left a host that drains");
            self.wants_reconcile(host);
        }
        Ok(())
    }
}
