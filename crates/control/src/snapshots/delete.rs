//! Deleting a snapshot, and checking one.
//!
//! ```text
//!   1 begin    no sandbox is made from it any more; each host that has its files owes their deletion
//!   2 ask      every host that can be reached deletes; one that is away goes on owing it; one that refuses stops all of it
//!   3 finish   the snapshot is gone, with the event. Or it is kept, and can be used where its files still are
//! ```

use futures::future::join_all;
use sandbar_store::snapshots::Debt;
use sandbar_store::templates::TemplateRow;
use sandbar_store::{StoreError, Tx};
use sandbar_types::{Id, TemplateName, id};

use super::SnapshotError;
use crate::host_client::{Circuit, HostError, Reason};
use crate::operation::{Action, Operation};
use crate::sandboxes::SandboxError;
use crate::{Control, OpContext};

impl Control {
    /// Deletes a snapshot of the caller's team. Sandboxes that were made from it go on. The work goes on when the caller goes away.
    pub async fn snapshot_delete(&self, ctx: &OpContext, name: &TemplateName) -> Result<(), SnapshotError> {
        let row = self.own_snapshot(ctx, name).await?;
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.delete_in_steps(&ctx, &row).await }).await
    }

    /// The same, of one of the platform's.
    pub(crate) async fn platform_template_delete(
        &self,
        ctx: &OpContext,
        name: &TemplateName,
    ) -> Result<(), SnapshotError> {
        let row = self.store().template_by_name(Id::PLATFORM, name).await?;
        let row = row.ok_or_else(|| SnapshotError::NotFound { name: name.clone() })?;
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.delete_in_steps(&ctx, &row).await }).await
    }

    /// Reads all files of a snapshot on one of its hosts and holds them against what they were when it was made: how many bytes
    /// that were.
    pub async fn snapshot_verify(&self, ctx: &OpContext, name: &TemplateName) -> Result<u64, SnapshotError> {
        let row = self.store().template_by_name(ctx.team()?, name).await?;
        let row = row.ok_or_else(|| SnapshotError::NotFound { name: name.clone() })?;
        let limit = self.config().verify_deadline;
        let hosts = self.store().template_hosts(row.id).await?;
        let mut clients: Vec<_> =
            hosts.iter().map(|(host, address)| self.host_clients().get(*host, address)).collect();
        // Any copy will do, so rather one whose host answers.
        clients.sort_by_key(|client| *client.circuit().borrow() == Circuit::Open);
        if let Some(client) = clients.first() {
            let host = client.id();
            return client
                .verify_template(row.id, limit)
                .await
                .map_err(|error| check_failed(host, limit, error));
        }
        let reason = crate::sandboxes::NoHostReason::NoTemplateFiles;
        Err(SandboxError::NoHosts { reason }.into())
    }

    /// The team's own snapshot of a name; the platform's are refused.
    async fn own_snapshot(&self, ctx: &OpContext, name: &TemplateName) -> Result<TemplateRow, SnapshotError> {
        let team = ctx.team()?;
        match self.store().template_by_name(team, name).await? {
            Some(row) if row.team_id == team => Ok(row),
            Some(_) => Err(SnapshotError::Platform { name: name.clone() }),
            None => Err(SnapshotError::NotFound { name: name.clone() }),
        }
    }

    async fn delete_in_steps(&self, ctx: &OpContext, row: &TemplateRow) -> Result<(), SnapshotError> {
        let operation = Operation::begun(ctx, Action::Delete);
        let mut tx = self.store().begin().await?;
        let debts = tx.snapshot_begin_delete(row.id, &operation.to_value()).await?;
        let debts = debts.ok_or_else(|| SnapshotError::NotFound { name: row.name.clone() })?;
        tx.commit().await?;

        let asked = join_all(debts.iter().map(|debt| self.ask_to_delete(row.id, debt))).await;
        for answer in asked {
            match answer {
                Ok(()) => {}
                Err(AskError::Host { host, error }) => {
                    let mut tx = self.store().begin().await?;
                    tx.snapshot_keep(row.id).await?;
                    tx.commit().await?;
                    let in_use = [Reason::REASON_TEMPLATE_IN_USE, Reason::REASON_BUSY];
                    return Err(match error.reason() {
                        Some(reason) if in_use.contains(&reason) => SnapshotError::InUse {
                            name: row.name.clone(),
                            message: error.agent_message().to_owned(),
                        },
                        _ => check_failed(host, self.config().call_deadline, error),
                    });
                }
                Err(AskError::Store(error)) => return Err(error.into()),
            }
        }
        // Not by us: the reconciler was faster, or a deletion beside this one was refused and took both back.
        if !self.snapshot_finish_delete(row.id).await?
            && let Some(kept) = self.store().template_by_name(row.team_id, &row.name).await?
            && kept.id == row.id
        {
            return Err(SnapshotError::Overtaken { name: row.name.clone() });
        }
        Ok(())
    }

    /// Step 2, for one host. One that is away owes it, which is as good.
    async fn ask_to_delete(&self, id: Id<id::Template>, debt: &Debt) -> Result<(), AskError> {
        let away = !matches!(debt.host_status.as_str(), "online" | "draining");
        let Some(address) = debt.address.as_ref().filter(|_| !away) else { return Ok(()) };
        let client = self.host_clients().get(debt.host_id, address);
        match client.delete_template(id, self.config().call_deadline).await {
            Ok(()) => Ok(self.store().snapshot_deleted_on(id, debt.host_id).await?),
            Err(HostError::Unreachable(_) | HostError::Deadline(_)) => Ok(()),
            Err(error) => Err(AskError::Host { host: debt.host_id, error }),
        }
    }

    /// Step 3. Whether there was something to finish.
    pub(crate) async fn snapshot_finish_delete(&self, id: Id<id::Template>) -> Result<bool, StoreError> {
        let mut tx = self.store().begin().await?;
        let finished = finish_delete(&mut tx, id).await?;
        tx.commit().await?;
        if finished {
            self.copies_wanted().notify_one();
        }
        Ok(finished)
    }
}

/// Step 3. Whether there was something to finish.
pub(crate) async fn finish_delete(tx: &mut Tx, id: Id<id::Template>) -> Result<bool, StoreError> {
    let Some(ended) = tx.snapshot_delete(id).await? else { return Ok(false) };
    if let Some(operation) = Operation::read(ended.operation.as_ref()) {
        tx.audit(&operation.deleted_event(ended.team_id, &ended.name)).await?;
    }
    Ok(true)
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("host {host} did not delete it")]
    Host { host: Id<id::Host>, error: HostError },
    #[error("the database failed")]
    Store(#[from] StoreError),
}

fn check_failed(host: Id<id::Host>, limit: std::time::Duration, error: HostError) -> SnapshotError {
    let message = error.agent_message().to_owned();
    match error {
        HostError::Refused { reason: Reason::REASON_TEMPLATE_NOT_FOUND, .. } => {
            SandboxError::NoHosts { reason: crate::sandboxes::NoHostReason::NoTemplateFiles }
        }
        HostError::Deadline(_) => SandboxError::Timeout { what: "the check", limit },
        HostError::Unreachable(_) => SandboxError::HostUnavailable { host: Some(host), source: error },
        HostError::Refused { .. } | HostError::Failed(_) | HostError::Protocol(_) => {
            SandboxError::Agent { host: Some(host), message, source: error }
        }
    }
    .into()
}
