//! What is decided about a host: draining, tags, and its end, with what would end with it.

use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{Id, SandboxStatus};
use sqlx::PgExecutor;

use super::{HostRow, Raw, hosts};
use crate::convert::word;
use crate::{Store, StoreError, Tx};

/// A living sandbox of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct Tenant {
    pub id: Id<Sandbox>,
    pub team_id: Id<Team>,
    pub status: SandboxStatus,
    pub durable: bool,
    pub has_volumes: bool,
}

/// A template of a team whose only files are on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct LostSnapshot {
    pub id: Id<Template>,
    pub team_id: Id<Team>,
    pub name: String,
}

impl Store {
    /// The living sandboxes of a host, oldest first; paused ones are.
    pub async fn host_tenants(&self, host: Id<Host>) -> Result<Vec<Tenant>, StoreError> {
        sqlx::query!(
            r#"SELECT id, team_id, status, durable, volumes <> '[]' AS "has_volumes!" FROM sandboxes WHERE host_id = $1 AND status NOT IN ('stopped', 'error')
             ORDER BY created_at, id"#,
            host.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Tenant {
                id: Id::from_uuid(row.id),
                team_id: Id::from_uuid(row.team_id),
                status: word("sandboxes.status", &row.status)?,
                durable: row.durable,
                has_volumes: row.has_volumes,
            })
        })
        .collect()
    }

    /// The teams' templates that no other host has the files of. The platform's are made anew wherever they are needed.
    pub async fn host_only_snapshots(&self, host: Id<Host>) -> Result<Vec<LostSnapshot>, StoreError> {
        only_snapshots(&self.pool, host).await
    }

    /// A host's tags, in order.
    pub async fn host_tags(&self, host: Id<Host>) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar!("SELECT tag FROM host_tags WHERE host_id = $1 ORDER BY tag", host.uuid())
            .fetch_all(&self.pool)
            .await?)
    }
}

impl Tx {
    /// A host, held until the transaction ends: nothing is placed on it meanwhile.
    pub async fn host_lock(&mut self, id: Id<Host>) -> Result<Option<HostRow>, StoreError> {
        hosts!("SELECT", "FROM hosts WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", id.uuid())
            .fetch_optional(self.connection())
            .await?
            .map(HostRow::try_from)
            .transpose()
    }

    /// Lets a host take new sandboxes, or no more. The caller holds it.
    pub async fn host_set_draining(&mut self, id: Id<Host>, draining: bool) -> Result<HostRow, StoreError> {
        let row = hosts!(
            "UPDATE hosts SET draining = $2, generation = generation + 1, updated_at = now(),
                    status = CASE WHEN $2 AND status = 'online' THEN 'draining'
                                  WHEN NOT $2 AND status = 'draining' THEN 'online' ELSE status END
             WHERE id = $1 RETURNING",
            "",
            id.uuid(),
            draining,
        )
        .fetch_one(self.connection())
        .await?;
        self.host_tell(id).await?;
        row.try_into()
    }

    /// Gives a host a tag, unless that would be more than `most`. Whether it has it now.
    pub async fn host_tag_add(&mut self, id: Id<Host>, tag: &str, most: i64) -> Result<bool, StoreError> {
        let has = sqlx::query_scalar!(
            r#"WITH added AS (
                   INSERT INTO host_tags (host_id, tag)
                   SELECT $1, $2 WHERE (SELECT count(*) FROM host_tags WHERE host_id = $1) < $3
                   ON CONFLICT DO NOTHING RETURNING tag)
               SELECT EXISTS (SELECT 1 FROM added)
                   OR EXISTS (SELECT 1 FROM host_tags WHERE host_id = $1 AND tag = $2) AS "has!""#,
            id.uuid(),
            tag,
            most,
        )
        .fetch_one(self.connection())
        .await?;
        Ok(has)
    }

    /// Takes a tag from a host. Whether it had it.
    pub async fn host_tag_remove(&mut self, id: Id<Host>, tag: &str) -> Result<bool, StoreError> {
        let done = sqlx::query!("DELETE FROM host_tags WHERE host_id = $1 AND tag = $2", id.uuid(), tag)
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The templates of which a host has or may have files, held until the transaction ends: none of them is published or deleted
    /// meanwhile.
    pub async fn host_templates_lock(&mut self, host: Id<Host>) -> Result<Vec<Id<Template>>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT id FROM templates WHERE id IN (SELECT template_id FROM template_locations WHERE host_id = $1)
             ORDER BY id FOR NO KEY UPDATE",
            host.uuid(),
        )
        .fetch_all(self.connection())
        .await?
        .into_iter()
        .map(Id::from_uuid)
        .collect())
    }

    /// As [`Store::host_only_snapshots`], in this transaction.
    pub async fn host_only_snapshots(&mut self, host: Id<Host>) -> Result<Vec<LostSnapshot>, StoreError> {
        only_snapshots(self.connection(), host).await
    }

    /// Deletes a host that the caller holds: its credentials are void, and it has no files any more that anybody counts on.
    pub async fn host_delete(&mut self, id: Id<Host>) -> Result<(), StoreError> {
        self.host_refresh_tokens_revoke(id).await?;
        sqlx::query!("DELETE FROM host_tokens WHERE host_id = $1", id.uuid())
            .execute(self.connection())
            .await?;
        sqlx::query!("DELETE FROM template_locations WHERE host_id = $1", id.uuid())
            .execute(self.connection())
            .await?;
        sqlx::query!(
            "UPDATE hosts SET deleted_at = now(), credential_epoch = credential_epoch + 1,
                    generation = generation + 1, updated_at = now() WHERE id = $1",
            id.uuid(),
        )
        .execute(self.connection())
        .await?;
        self.host_tell(id).await
    }
}

async fn only_snapshots(
    executor: impl PgExecutor<'_>,
    host: Id<Host>,
) -> Result<Vec<LostSnapshot>, StoreError> {
    Ok(sqlx::query!(
        "SELECT t.id, t.team_id, t.name FROM templates t
         JOIN template_locations l ON l.template_id = t.id AND l.host_id = $1 AND l.state = 'ready'
         WHERE t.deleted_at IS NULL AND t.ready_at IS NOT NULL AND t.team_id <> $2 AND NOT t.durable
           AND NOT t.is_pause
           AND NOT EXISTS (SELECT 1 FROM template_locations o
                           WHERE o.template_id = t.id AND o.host_id <> $1 AND o.state = 'ready')
         ORDER BY t.created_at, t.id",
        host.uuid(),
        Id::<Team>::PLATFORM.uuid(),
    )
    .fetch_all(executor)
    .await?
    .into_iter()
    .map(|row| LostSnapshot {
        id: Id::from_uuid(row.id),
        team_id: Id::from_uuid(row.team_id),
        name: row.name,
    })
    .collect())
}
