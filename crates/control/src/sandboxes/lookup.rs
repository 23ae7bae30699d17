//! Finding sandboxes. Another team's sandbox is not found, which is all that its id may tell.

use std::collections::BTreeMap;

use sandbar_store::sandboxes::{ListFilter, SandboxRow};
use sandbar_store::{Position, StoreError};
use sandbar_types::{Id, SandboxStatus, id};

use super::{Sandbox, SandboxError};
use crate::host_client::HostClient;
use crate::{Control, OpContext, Page, PageRequest};

/// Which sandboxes to list.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// Of these states. Empty = all that have not ended.
    pub status: Vec<SandboxStatus>,
    /// Made from the template of this name.
    pub template: Option<String>,
    /// With all these metadata entries.
    pub metadata: BTreeMap<String, String>,
}

impl Control {
    /// The caller's team's sandbox. It is found after its end, too.
    pub async fn sandbox_get(&self, ctx: &OpContext, id: Id<id::Sandbox>) -> Result<Sandbox, SandboxError> {
        let row = self.store().sandbox_find(ctx.team()?, id).await?;
        Ok(row.ok_or(SandboxError::NotFound { id })?.try_into()?)
    }

    /// The caller's team's sandboxes, newest first.
    pub async fn sandbox_list(
        &self,
        ctx: &OpContext,
        filter: &SandboxFilter,
        page: &PageRequest,
    ) -> Result<Page<Sandbox>, SandboxError> {
        let SandboxFilter { status, template, metadata } = filter;
        let filter = ListFilter {
            team_id: ctx.team()?,
            status,
            template: template.as_deref(),
            metadata,
            after: page.after(),
            limit: page.fetch(),
        };
        let rows = self.store().sandbox_list(&filter).await?;
        let sandboxes: Vec<Sandbox> = rows.into_iter().map(Sandbox::try_from).collect::<Result<_, _>>()?;
        let position = |sandbox: &Sandbox| Position { created_at: sandbox.created_at, id: sandbox.id.uuid() };
        Ok(page.page(sandboxes, position, |sandbox| sandbox))
    }

    /// The client of a sandbox's host, if the sandbox is running. One that is being copied runs.
    pub(super) fn client_of_running(
        &self,
        sandbox: &Sandbox,
        operation: &'static str,
    ) -> Result<HostClient, SandboxError> {
        match (sandbox.status, sandbox.host_id, &sandbox.host_address) {
            (SandboxStatus::Running | SandboxStatus::Snapshotting, Some(host), Some(address)) => {
                Ok(self.host_clients().get(host, address))
            }
            (SandboxStatus::Missing, _, _) => Err(SandboxError::Missing { id: sandbox.id }),
            (status, _, _) => {
                Err(SandboxError::InvalidState { id: sandbox.id, status, operation, needed: "running" })
            }
        }
    }

    /// The client of a sandbox's host, if the host keeps the sandbox, running or as files.
    pub(super) fn client_of_kept(
        &self,
        sandbox: &Sandbox,
        operation: &'static str,
    ) -> Result<HostClient, SandboxError> {
        match (sandbox.status, sandbox.host_id, &sandbox.host_address) {
            (SandboxStatus::Paused, Some(host), Some(address)) => Ok(self.host_clients().get(host, address)),
            _ => self.client_of_running(sandbox, operation),
        }
    }
}

impl TryFrom<SandboxRow> for Sandbox {
    type Error = StoreError;

    fn try_from(row: SandboxRow) -> Result<Self, StoreError> {
        let unknown = |column, value: &str| StoreError::Unknown { column, value: value.to_owned() };
        let address = |column, text: Option<String>| {
            text.map(|text| text.parse().map_err(|_| unknown(column, &text))).transpose()
        };
        let SandboxRow {
            id,
            team_id,
            template_id,
            template_name,
            host_id,
            host_address,
            status,
            status_reason,
            generation: _,
            vcpus,
            memory_mb,
            disk_mb,
            timeout_sec,
            on_timeout,
            timeout_from,
            pause_mode,
            metadata,
            network,
            ingress,
            guest_ip,
            host_ip,
            created_at,
            started_at,
            last_active_at,
            expires_at,
            transition_started_at: _,
            updated_at,
            operation: _,
            kept_as: _,
            durable,
            volumes,
        } = row;
        Ok(Self {
            id,
            team_id,
            template_id,
            status,
            template: template_name.parse().map_err(|_| unknown("templates.name", &template_name))?,
            vcpus,
            memory_mb,
            disk_mb,
            timeout_sec,
            on_timeout,
            timeout_from,
            pause_mode,
            network,
            metadata,
            host_id,
            host_address,
            guest_ip: address("sandboxes.guest_ip", guest_ip)?,
            host_ip: address("sandboxes.host_ip", host_ip)?,
            created_at,
            started_at,
            last_active_at,
            expires_at,
            updated_at,
            status_reason,
            ingress,
            durable,
            volumes,
        })
    }
}
