//! The end of a host.
//!
//! ```text
//!   1 begin    one transaction: it takes no new sandboxes; paused ones that object storage has are on no host; the others are `stopping`
//!              (only where that is forced)
//!   2 ask      the host destroys them, as far as it answers
//!   3 end      one transaction: rows `stopped`, volumes and credentials void, files forgotten, what nobody has files of any more deleted, the host
//!              gone, with the events
//! ```
//!
//! A control plane that dies in between leaves a host that drains, whose `stopping` rows the reconciler finishes; asking again goes on
//! from there. Whatever a host that did not answer still has is nobody's: should it come back it is told that there is no such host.

use futures::StreamExt as _;
use sandbar_store::Tx;
use sandbar_store::audit::{Event, Outcome};
use sandbar_store::hosts::{HostRow, LostSnapshot, Tenant};
use sandbar_store::volumes::HostVolume;
use sandbar_types::{Id, SandboxStatus, id};
use serde_json::json;

use super::{Host, HostError, Stay};
use crate::operation::{Action, Operation};
use crate::snapshots::{abandon, finish_delete};
use crate::{Control, OpContext, audit};

/// Sandboxes that are ended at the same time.
const AT_ONCE: usize = 8;

/// What becomes of what a host has that is deleted: its sandboxes, its volumes, and the snapshots that no other host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// There must be none.
    Refuse,
    /// It ends.
    Destroy,
}

/// What would end with a host.
#[derive(Debug, Clone)]
pub struct DeletePreview {
    /// Its living sandboxes, oldest first, but for those that survive it; each with why a drain alone does not take it away.
    pub sandboxes: Vec<(Tenant, Stay)>,
    /// How many survive it: they are paused, and object storage has them.
    pub surviving: usize,
    /// Templates of teams that no other host has the files of.
    pub snapshots: Vec<LostSnapshot>,
    /// Volumes of teams, each of which is on one host.
    pub volumes: Vec<HostVolume>,
}

impl DeletePreview {
    /// How many of the sandboxes are paused.
    #[must_use]
    pub fn paused(&self) -> usize {
        self.sandboxes.iter().filter(|(sandbox, _)| sandbox.status == SandboxStatus::Paused).count()
    }
}

impl Control {
    /// What would end with a host.
    pub async fn host_delete_preview(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
    ) -> Result<DeletePreview, HostError> {
        let host = Host::try_from(self.host_seen(ctx, id).await?)?;
        let (surviving, others): (Vec<_>, Vec<_>) =
            self.store().host_tenants(id).await?.into_iter().partition(|tenant| self.survives(tenant));
        let has_bucket = self.bucket().is_some();
        let stays = |tenant: Tenant| {
            let why = Stay::of(&tenant, host.kind, has_bucket);
            (tenant, why)
        };
        let sandboxes = others.into_iter().map(stays).collect();
        let snapshots = self.store().host_only_snapshots(id).await?;
        let volumes = self.store().host_volumes(id).await?;
        Ok(DeletePreview { sandboxes, surviving: surviving.len(), snapshots, volumes })
    }

    /// Whether a sandbox needs no host: it is paused, or just being restored, of what object storage has.
    fn survives(&self, tenant: &Tenant) -> bool {
        tenant.durable && self.bucket().is_some()
    }

    /// Deletes a host. The work goes on when the caller goes away.
    pub async fn host_delete(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
        existing: Existing,
    ) -> Result<(), HostError> {
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.delete_host_in_steps(&ctx, id, existing).await }).await
    }

    async fn delete_host_in_steps(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
        existing: Existing,
    ) -> Result<(), HostError> {
        let mut tx = self.store().begin().await?;
        let host = self.host_access(&mut tx, ctx, id).await?;
        // Nothing is placed while the host is held: there are none but these.
        let left = match self.bucket() {
            Some(_) => tx.sandboxes_leave_host(id).await?,
            None => Vec::new(),
        };
        let mut tenants = self.store().host_tenants(id).await?;
        tenants.retain(|tenant| !left.contains(&tenant.id));
        if existing == Existing::Refuse && !tenants.is_empty() {
            let sandboxes = tenants.into_iter().map(|tenant| tenant.id).collect();
            return Err(HostError::HasSandboxes { sandboxes });
        }
        if !tenants.is_empty() || !left.is_empty() {
            tx.host_set_draining(id, true).await?;
            let ending = tx.sandboxes_stop_on_host(id).await?;
            for row in &ending {
                tx.audit(&audit::sandbox(ctx, row, "destroy", Outcome::Success)).await?;
            }
            tx.commit().await?;
            self.destroy_on(&host, ending.iter().map(|row| row.id).chain(left).collect()).await;
            tx = self.store().begin().await?;
            self.host_access(&mut tx, ctx, id).await?;
        }
        self.end_host(tx, ctx, &host, existing, tenants.len()).await
    }

    /// Step 2.
    async fn destroy_on(&self, host: &HostRow, sandboxes: Vec<Id<id::Sandbox>>) {
        let Some(address) = &host.address else { return };
        let client = self.host_clients().get(host.id, address);
        let limit = self.config().destroy_deadline;
        if let Err(error) = client.health(self.config().call_deadline).await {
            tracing::warn!(host = %host.id, error = &error as &dyn std::error::Error,
                "a host that is deleted does not answer: what it has is left to it");
            return;
        }
        let destroy = |id: Id<id::Sandbox>| {
            let client = &client;
            async move {
                if let Err(error) = client.destroy_sandbox(id, limit).await {
                    tracing::warn!(%id, host = %client.id(), error = &error as &dyn std::error::Error,
                        "a host that is deleted did not destroy a sandbox");
                }
            }
        };
        futures::stream::iter(sandboxes).for_each_concurrent(AT_ONCE, destroy).await;
    }

    /// Step 3, with the host held.
    async fn end_host(
        &self,
        mut tx: Tx,
        ctx: &OpContext,
        host: &HostRow,
        existing: Existing,
        sandboxes: usize,
    ) -> Result<(), HostError> {
        // Templates before sandboxes: so does a snapshot that is published.
        let templates = tx.host_templates_lock(host.id).await?;
        tx.sandboxes_stop_on_host(host.id).await?;
        tx.sandboxes_end_on_host(host.id).await?;
        let lost = tx.host_only_snapshots(host.id).await?;
        if existing == Existing::Refuse && !lost.is_empty() {
            let names = lost.into_iter().map(|snapshot| snapshot.name).collect();
            return Err(HostError::HasSnapshots { names });
        }
        let volumes = self.store().host_volumes(host.id).await?;
        if existing == Existing::Refuse && !volumes.is_empty() {
            let names = volumes.into_iter().map(|volume| volume.name.to_string()).collect();
            return Err(HostError::HasVolumes { names });
        }
        // The host is held: none is made there any more.
        tx.volumes_end_on_host(host.id).await?;
        let deletion = Operation::begun(ctx, Action::Delete).to_value();
        for snapshot in &lost {
            tx.snapshot_begin_delete(snapshot.id, &deletion).await?;
        }
        tx.host_delete(host.id).await?;
        for template in templates {
            // One in the making is never made; one whose deletion began now, or waited for this host, has ended.
            abandon(&mut tx, template).await?;
            finish_delete(&mut tx, template).await?;
        }
        let metadata = json!({ "sandboxes": sandboxes, "snapshots": lost.len(), "volumes": volumes.len() });
        let event = audit::host(ctx, (host.id, host.team_id), "delete", Outcome::Success);
        tx.audit(&Event { metadata, ..event }).await?;
        tx.commit().await?;
        self.host_clients().evict(host.id);
        tracing::info!(host = %host.id, sandboxes, snapshots = lost.len(), "a host was deleted");
        Ok(())
    }
}
