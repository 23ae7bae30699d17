//! The end of a team.
//!
//! One transaction decides it: the team is invisible, its keys are revoked, its sandboxes are `stopping`, its snapshots
//! and volumes are gone and their files a debt of the hosts. From then on they end,
//! whoever finishes it: this process at once, or, when it is killed or a host does not answer, the reconciler, for which a row
//! that stays `stopping` is past its deadline.

use futures::StreamExt as _;
use sandbar_store::audit::Outcome;
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_types::id::Team;
use sandbar_types::{Id, SandboxStatus};
use serde_json::json;

use super::TeamError;
use crate::access::Role;
use crate::operation::{Action, Operation};
use crate::sandboxes::{SandboxError, keep_last};
use crate::{Control, OpContext, audit};

/// Sandboxes that are ended at the same time.
const AT_ONCE: usize = 8;

impl Control {
    /// Deletes a team, unless it is its owner's last one.
    pub async fn team_delete(&self, ctx: &OpContext, id: Id<Team>) -> Result<(), TeamError> {
        let mut tx = self.store().begin().await?;
        let access = self.team_access(&mut tx, ctx, id, Role::Owner).await?;
        tx.members_lock(id).await?;
        if tx.membership_count(access.user).await? <= 1 {
            return Err(TeamError::LastTeam);
        }
        if tx.team_has_hosts(id).await? {
            return Err(TeamError::HasHosts);
        }
        tx.api_keys_revoke(id, None).await?;
        tx.team_secrets_delete(id).await?;
        // Templates before sandboxes, as everywhere.
        let operation = Operation::begun(ctx, Action::Delete).to_value();
        let (snapshots, owing) = tx.snapshots_delete_of_team(id, &operation).await?;
        for snapshot in &snapshots {
            let Some(operation) = Operation::read(snapshot.operation.as_ref()) else { continue };
            // One in the making will never be made.
            let outcome = if operation.action == Action::Delete { Outcome::Success } else { Outcome::Error };
            tx.audit(&operation.snapshot_event(id, &snapshot.name, outcome)).await?;
        }
        let ending = tx.sandboxes_stop_of_team(id).await?;
        for row in &ending {
            tx.audit(&audit::sandbox(ctx, row, "destroy", Outcome::Success)).await?;
        }
        let removing = tx.volumes_delete_of_team(id).await?;
        tx.team_delete(id).await?;
        tx.defaults_move_away(id, None).await?;
        let metadata = json!({ "name": access.team.name, "sandboxes": ending.len(), "snapshots": snapshots.len(), "volumes": removing.len() });
        tx.audit(&audit::team(ctx, id, "delete", metadata)).await?;
        tx.commit().await?;
        let control = self.clone();
        self.go_on(async move {
            control.end_all(ending).await;
            // Once nothing runs from them any more, as far as that can be told; a host that still refuses is asked again.
            owing.into_iter().chain(removing).for_each(|host| control.wants_reconcile(host));
        });
        Ok(())
    }

    async fn end_all(&self, rows: Vec<SandboxRow>) {
        let end = |row: SandboxRow| async move {
            if let Err(error) = self.end_stopping(&row).await {
                tracing::warn!(sandbox = %row.id, error = &error as &dyn std::error::Error,
                    "a sandbox of a deleted team could not be ended now; the reconciler will");
            }
        };
        futures::stream::iter(rows).for_each_concurrent(AT_ONCE, end).await;
    }

    async fn end_stopping(&self, row: &SandboxRow) -> Result<(), SandboxError> {
        if let (Some(host), Some(address)) = (row.host_id, &row.host_address) {
            let limit = self.config().destroy_deadline;
            let client = self.host_clients().get(host, address);
            client
                .destroy_sandbox(row.id, limit)
                .await
                .map_err(|source| SandboxError::HostUnavailable { host: row.host_id, source })?;
        }
        let mut tx = self.store().begin().await?;
        keep_last(&mut tx, row.id, None).await?;
        // None: the reconciler was faster. Either way it is over.
        tx.sandbox_transition(&Transition::new(row.id, SandboxStatus::Stopped)).await?;
        Ok(tx.commit().await?)
    }
}
