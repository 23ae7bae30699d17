//! What a host owes of templates that are no more, and snapshots that nobody is making any more.

use std::collections::BTreeSet;

use sandbar_store::StoreError;
use sandbar_types::Id;
use sandbar_types::id::Template;

use crate::Control;
use crate::host_client::{HostClient, HostError};

/// What this part of a round came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TemplateReport {
    /// Templates whose files the host has deleted.
    pub(super) deleted: usize,
    /// Those that it could not delete now.
    pub(super) failed: usize,
}

impl Control {
    /// Gives up the snapshots that were begun on a host and are overdue, then asks it to delete what it owes, and what it made of a
    /// request that came after it was given up.
    pub(super) async fn reconcile_templates(
        &self,
        client: &HostClient,
    ) -> Result<TemplateReport, StoreError> {
        let host = client.id();
        let patience = chrono::Duration::from_std(self.config().operation_deadline).unwrap_or_default();
        let before = self.store().now().await? - patience;
        for template in self.store().snapshots_overdue(host, before).await? {
            tracing::info!(%template, %host, "giving up a snapshot that nobody is making any more");
            self.snapshot_abandoned(template).await?;
        }
        let forgotten = self.store().fetches_forget(host).await?;
        if forgotten > 0 {
            tracing::info!(%host, forgotten, "templates that nobody is fetching any more");
        }
        let mut owed: BTreeSet<Id<Template>> =
            self.store().deletions_owed(host, before).await?.into_iter().collect();
        match client.list_templates(self.config().call_deadline).await {
            Ok(listed) => {
                let listed: Vec<Id<Template>> =
                    listed.iter().filter_map(|template| template.id.parse().ok()).collect();
                owed.extend(self.store().templates_deleted(&listed).await?);
            }
            Err(error) => tracing::warn!(%host, error = &error as &dyn std::error::Error,
                "a host did not list its templates"),
        }
        let mut report = TemplateReport::default();
        for template in owed {
            match self.delete_owed(client, template).await? {
                Ok(()) => report.deleted += 1,
                Err(error) => {
                    tracing::warn!(%template, %host, error = &error as &dyn std::error::Error,
                        "a host cannot delete a template now; the next round asks again");
                    report.failed += 1;
                    // It will not answer for the others either, and its sandboxes' next round waits for this one.
                    if matches!(error, HostError::Unreachable(_) | HostError::Deadline(_)) {
                        break;
                    }
                }
            }
        }
        Ok(report)
    }

    async fn delete_owed(
        &self,
        client: &HostClient,
        template: Id<Template>,
    ) -> Result<Result<(), HostError>, StoreError> {
        if let Err(error) = client.delete_template(template, self.config().call_deadline).await {
            return Ok(Err(error));
        }
        self.store().snapshot_deleted_on(template, client.id()).await?;
        // A deletion whose control plane died before it was done.
        self.snapshot_finish_delete(template).await?;
        Ok(Ok(()))
    }
}
