//! Templates that are made of sandboxes: their making, their publishing, their deletion, and what is owed to hosts that were away.
//!
//! ```text
//!   row        reserved ──► ready ──► (operation delete) ──► deleted
//!                 └──────────────────────────────────────────►┘
//!   location   fetching ──► ready ──► deleting ──► (no row)
//!                 └──────────────────►┘
//! ```
//!
//! - A reserved template is a name (or, for a draft, not even that), an id, and a host that may have files of it.
//! - A location in `deleting` is a debt: the host is asked to delete until it says that it has. It outlives the template.

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{Arch, Id, TemplateKind, TemplateName, TemplateTag, VmmKind};
use serde_json::Value;
use sqlx::PgExecutor;

use crate::convert::{bigint, integer, word};
use crate::templates::{CompleteTemplate, Raw, TemplateRow};
use crate::{Store, StoreError, Tx};

/// Whether a new snapshot's name must be free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// It must, and it is taken from now on.
    Fresh,
    /// It need not: the snapshot takes the place of the one that has it, once its files are complete.
    Replace,
}

/// A snapshot whose files are to be made.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewSnapshotRow<'a> {
    pub id: Id<Template>,
    pub team_id: Id<Team>,
    pub name: &'a TemplateName,
    pub naming: Naming,
    pub kind: TemplateKind,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub arch: Arch,
    pub vmm: VmmKind,
    pub host_id: Id<Host>,
    /// What it is made of.
    pub source_id: Id<Sandbox>,
    /// What its sandboxes' commands have; none = what those of the sandbox's own template have.
    pub defaults: Option<&'a Value>,
    /// An object, in the audit trail's words.
    pub operation: &'a Value,
}

/// A snapshot that is no more, with what its end is told by.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct EndedSnapshot {
    pub id: Id<Template>,
    pub team_id: Id<Team>,
    pub name: TemplateName,
    pub operation: Option<Value>,
}

/// Where files are that are to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Debt {
    pub host_id: Id<Host>,
    pub address: Option<String>,
    /// The host's status, in the schema's word.
    pub host_status: String,
}

impl Tx {
    /// As [`Store::snapshot_name_taken`], in this transaction.
    pub async fn snapshot_name_is_taken(
        &mut self,
        team: Id<Team>,
        name: &TemplateName,
    ) -> Result<bool, StoreError> {
        name_taken(self.connection(), team, name).await
    }

    /// Takes an id, and with [`Naming::Fresh`] a name, for a snapshot, and writes down that a host may have files of it. Fails with
    /// [`StoreError::Taken`] where the name is.
    pub async fn snapshot_reserve(&mut self, new: &NewSnapshotRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO templates (id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, draft,
                                    operation, source_id, defaults)
             VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, $8, $9, $10, $11,
                     coalesce($12, (SELECT t.defaults FROM sandboxes s JOIN templates t ON t.id = s.template_id
                                    WHERE s.id = $11), '{}'))",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name.as_str(),
            new.kind.as_str(),
            integer(new.vcpus),
            integer(new.memory_mb),
            new.arch.as_str(),
            new.vmm.as_str(),
            new.naming == Naming::Replace,
            new.operation,
            new.source_id.uuid(),
            new.defaults,
        )
        .execute(self.connection())
        .await?;
        sqlx::query!(
            "INSERT INTO template_locations (template_id, host_id, state) VALUES ($1, $2, 'fetching')",
            new.id.uuid(),
            new.host_id.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Says that a reserved snapshot's files are complete on a host: it can be used under these tags from now on, and what had them
    /// has them no more, in one. None when it is not reserved any more.
    pub async fn snapshot_publish(
        &mut self,
        id: Id<Template>,
        host: Id<Host>,
        complete: &CompleteTemplate<'_>,
        tags: &[TemplateTag],
    ) -> Result<Option<TemplateRow>, StoreError> {
        // One of a team at a time: of two that replace the same one, the later must see what the earlier did. The team before the
        // template: so does the team's deletion.
        sqlx::query!(
            "SELECT t.id FROM teams t JOIN templates s ON s.team_id = t.id WHERE s.id = $1 FOR NO KEY UPDATE OF t",
            id.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        // Itself and the one that it replaces, in the order in which everybody takes several templates.
        sqlx::query!(
            "SELECT t.id FROM templates t JOIN templates s ON s.team_id = t.team_id AND s.name = t.name
             WHERE s.id = $1 AND t.deleted_at IS NULL ORDER BY t.id FOR NO KEY UPDATE OF t",
            id.uuid(),
        )
        .fetch_all(self.connection())
        .await?;
        let reserved = sqlx::query!(
            "SELECT team_id, name FROM templates WHERE id = $1 AND ready_at IS NULL AND deleted_at IS NULL",
            id.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        let Some(reserved) = reserved else { return Ok(None) };
        sqlx::query!(
            "UPDATE template_locations SET state = 'ready', updated_at = now()
             WHERE template_id = $1 AND host_id = $2",
            id.uuid(),
            host.uuid(),
        )
        .execute(self.connection())
        .await?;
        let row = sqlx::query_as!(
            Raw,
            "UPDATE templates SET vcpus = $2, memory_mb = $3, disk_mb = $4, size_bytes = $5, compatibility = $6,
                    ready_at = now(), updated_at = now()
             WHERE id = $1
             RETURNING id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, defaults, durable, created_at",
            id.uuid(),
            integer(complete.vcpus),
            integer(complete.memory_mb),
            integer(complete.disk_mb),
            bigint(complete.size_bytes),
            complete.compatibility,
        )
        .fetch_one(self.connection())
        .await?;
        self.name_and_tag(reserved.team_id, &reserved.name, id, tags).await?;
        row.try_into().map(Some)
    }

    /// Gives a reserved snapshot up: what its host may have of it is owed to be deleted. None when it is not reserved any more.
    pub async fn snapshot_abandon(&mut self, id: Id<Template>) -> Result<Option<EndedSnapshot>, StoreError> {
        let ended = sqlx::query!(
            "UPDATE templates SET deleted_at = now(), updated_at = now()
             WHERE id = $1 AND ready_at IS NULL AND deleted_at IS NULL RETURNING team_id, name, operation",
            id.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        let Some(ended) = ended else { return Ok(None) };
        sqlx::query!(
            "UPDATE template_locations SET state = 'deleting', fetcher = NULL, fetcher_until = NULL, updated_at = now() WHERE template_id = $1",
            id.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(Some(EndedSnapshot {
            id,
            team_id: Id::from_uuid(ended.team_id),
            name: word("templates.name", &ended.name)?,
            operation: ended.operation,
        }))
    }

    /// Begins to delete a template: no sandbox is made from it any more, and its files are owed to be deleted wherever they are.
    /// None when it is gone.
    pub async fn snapshot_begin_delete(
        &mut self,
        id: Id<Template>,
        operation: &Value,
    ) -> Result<Option<Vec<Debt>>, StoreError> {
        let begun = sqlx::query!(
            "UPDATE templates SET operation = $2, updated_at = now()
             WHERE id = $1 AND deleted_at IS NULL AND ready_at IS NOT NULL",
            id.uuid(),
            operation,
        )
        .execute(self.connection())
        .await?;
        if begun.rows_affected() == 0 {
            return Ok(None);
        }
        let debts = sqlx::query!(
            "UPDATE template_locations l SET state = 'deleting', fetcher = NULL, fetcher_until = NULL, updated_at = now()
             FROM hosts h WHERE l.template_id = $1 AND h.id = l.host_id RETURNING l.host_id, h.address, h.status",
            id.uuid(),
        )
        .fetch_all(self.connection())
        .await?
        .into_iter()
        .map(|row| Debt {
            host_id: Id::from_uuid(row.host_id),
            address: row.address,
            host_status: row.status,
        })
        .collect();
        Ok(Some(debts))
    }

    /// Takes a deletion back, because a host refused: where the files are still, they can be used again.
    pub async fn snapshot_keep(&mut self, id: Id<Template>) -> Result<(), StoreError> {
        let kept = sqlx::query!(
            "UPDATE templates SET operation = NULL, updated_at = now() WHERE id = $1 AND deleted_at IS NULL",
            id.uuid(),
        )
        .execute(self.connection())
        .await?;
        if kept.rows_affected() > 0 {
            sqlx::query!(
                "UPDATE template_locations SET state = 'ready', updated_at = now()
                 WHERE template_id = $1 AND state = 'deleting'",
                id.uuid(),
            )
            .execute(self.connection())
            .await?;
        }
        Ok(())
    }

    /// Deletes a template whose deletion was begun, once each of its hosts has deleted its files or owes to. None when there is
    /// nothing to do.
    pub async fn snapshot_delete(&mut self, id: Id<Template>) -> Result<Option<EndedSnapshot>, StoreError> {
        let ended = sqlx::query!(
            "UPDATE templates t SET deleted_at = now(), updated_at = now()
             WHERE id = $1 AND deleted_at IS NULL AND ready_at IS NOT NULL AND operation ->> 'action' = 'delete'
               AND NOT EXISTS (SELECT 1 FROM template_locations l
                               WHERE l.template_id = t.id AND l.state <> 'deleting')
             RETURNING team_id, name, operation",
            id.uuid(),
        )
        .fetch_optional(self.connection())
        .await?;
        let Some(ended) = ended else { return Ok(None) };
        Ok(Some(EndedSnapshot {
            id,
            team_id: Id::from_uuid(ended.team_id),
            name: word("templates.name", &ended.name)?,
            operation: ended.operation,
        }))
    }

    /// Deletes all templates of a team whose row the caller holds, those in the making too: their files are owed to be deleted wherever
    /// they are. `operation` is whose doing that is; who began a deletion or a making before keeps theirs. What ended, and who owes.
    pub async fn snapshots_delete_of_team(
        &mut self,
        team: Id<Team>,
        operation: &Value,
    ) -> Result<(Vec<EndedSnapshot>, Vec<Id<Host>>), StoreError> {
        let ended = sqlx::query!(
            "UPDATE templates SET deleted_at = now(), updated_at = now(),
                    operation = CASE WHEN ready_at IS NULL OR operation ->> 'action' = 'delete' THEN operation ELSE $2 END
             WHERE id IN (SELECT id FROM templates WHERE team_id = $1 AND deleted_at IS NULL AND NOT is_pause
                          ORDER BY id FOR NO KEY UPDATE)
               AND deleted_at IS NULL RETURNING id, name, operation",
            team.uuid(),
            operation,
        )
        .fetch_all(self.connection())
        .await?;
        let ids: Vec<uuid::Uuid> = ended.iter().map(|row| row.id).collect();
        let owing = sqlx::query_scalar!(
            "WITH owed AS (
                 UPDATE template_locations SET state = 'deleting', fetcher = NULL, fetcher_until = NULL, updated_at = now()
                 WHERE template_id = ANY($1) RETURNING host_id)
             SELECT DISTINCT host_id FROM owed",
            &ids,
        )
        .fetch_all(self.connection())
        .await?;
        let ended = ended
            .into_iter()
            .map(|row| {
                Ok(EndedSnapshot {
                    id: Id::from_uuid(row.id),
                    team_id: team,
                    name: word("templates.name", &row.name)?,
                    operation: row.operation,
                })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok((ended, owing.into_iter().map(Id::from_uuid).collect()))
    }
}

impl Store {
    /// Whether a team has a snapshot of a name, ready or being made under it.
    pub async fn snapshot_name_taken(&self, team: Id<Team>, name: &TemplateName) -> Result<bool, StoreError> {
        name_taken(&self.pool, team, name).await
    }

    /// Writes down that a host has deleted a template's files.
    pub async fn snapshot_deleted_on(&self, id: Id<Template>, host: Id<Host>) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM template_locations WHERE template_id = $1 AND host_id = $2 AND state = 'deleting'",
            id.uuid(),
            host.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The templates whose files a host owes to delete: those that are deleted, and those whose deletion was begun before `before`,
    /// which nobody is at any more.
    pub async fn deletions_owed(
        &self,
        host: Id<Host>,
        before: DateTime<Utc>,
    ) -> Result<Vec<Id<Template>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT l.template_id FROM template_locations l JOIN templates t ON t.id = l.template_id
             WHERE l.host_id = $1 AND l.state = 'deleting' AND (t.deleted_at IS NOT NULL OR l.updated_at < $2)
             ORDER BY l.updated_at LIMIT 1000",
            host.uuid(),
            before,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }

    /// Those of `ids` that are deleted.
    pub async fn templates_deleted(&self, ids: &[Id<Template>]) -> Result<Vec<Id<Template>>, StoreError> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
        Ok(sqlx::query_scalar!(
            "SELECT id FROM templates WHERE id = ANY($1) AND deleted_at IS NOT NULL",
            &ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }

    /// The snapshots that were begun on a host before `before` and are not ready. Those of builds have a lease of their own.
    pub async fn snapshots_overdue(
        &self,
        host: Id<Host>,
        before: DateTime<Utc>,
    ) -> Result<Vec<Id<Template>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT l.template_id FROM template_locations l JOIN templates t ON t.id = l.template_id
             WHERE l.host_id = $1 AND l.state = 'fetching' AND l.updated_at < $2
               AND t.ready_at IS NULL AND t.deleted_at IS NULL AND t.build_id IS NULL
             ORDER BY l.updated_at LIMIT 1000",
            host.uuid(),
            before,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }
}

async fn name_taken(
    executor: impl PgExecutor<'_>,
    team: Id<Team>,
    name: &TemplateName,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM templates
                          WHERE team_id = $1 AND name = $2 AND deleted_at IS NULL AND NOT draft) AS "taken!""#,
        team.uuid(),
        name.as_str(),
    )
    .fetch_one(executor)
    .await?)
}
