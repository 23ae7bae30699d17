//! Copies of templates in object storage: who is making or deleting which.
//!
//! ```text
//!   (no row) ──► copier ──► complete ──► (template deleted) copier ──► (no row)
//! ```
//!
//! A copy is its copier's until a point in time that it moves on while it is at it. One whose copier died, or failed, is anybody's
//! after that.

use std::time::Duration;

use sandbar_types::Id;
use sandbar_types::id::{Host, Team, Template};
use uuid::Uuid;

use crate::{Store, StoreError};

/// One copy, by whoever is at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Copying {
    pub template: Id<Template>,
    pub copier: Uuid,
}

impl Store {
    /// Claims the oldest template that is on a host of the platform's, not durable, and nobody's, to be copied. The platform's own
    /// templates are made anew wherever they are needed.
    pub async fn copy_claim(
        &self,
        copier: Uuid,
        lease: Duration,
    ) -> Result<Option<Id<Template>>, StoreError> {
        let claimed = sqlx::query_scalar!(
            "WITH next AS (
                 SELECT t.id FROM templates t
                 WHERE t.deleted_at IS NULL AND t.ready_at IS NOT NULL AND NOT t.durable
                   AND NOT (t.team_id = $3 AND t.source_id IS NULL)
                   AND EXISTS (SELECT 1 FROM template_locations l JOIN hosts h ON h.id = l.host_id
                               WHERE l.template_id = t.id AND l.state = 'ready' AND h.kind = 'regular'
                                 AND h.status IN ('online', 'draining') AND h.deleted_at IS NULL)
                   AND NOT EXISTS (SELECT 1 FROM template_copies c WHERE c.template_id = t.id AND c.copier_until > now())
                 ORDER BY t.created_at LIMIT 1)
             INSERT INTO template_copies (template_id, copier, copier_until)
             SELECT id, $1, now() + make_interval(secs => $2) FROM next
             ON CONFLICT (template_id) DO UPDATE SET copier = EXCLUDED.copier, copier_until = EXCLUDED.copier_until
             WHERE template_copies.copier_until IS NULL OR template_copies.copier_until < now()
             RETURNING template_id",
            copier,
            lease.as_secs_f64(),
            Id::<Team>::PLATFORM.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(claimed.map(Id::from_uuid))
    }

    /// Claims a copy whose template is deleted, to be deleted.
    pub async fn copy_claim_deleted(
        &self,
        copier: Uuid,
        lease: Duration,
    ) -> Result<Option<Id<Template>>, StoreError> {
        let claimed = sqlx::query_scalar!(
            "UPDATE template_copies SET copier = $1, copier_until = now() + make_interval(secs => $2)
             WHERE template_id = (
                 SELECT c.template_id FROM template_copies c JOIN templates t ON t.id = c.template_id
                 WHERE t.deleted_at IS NOT NULL AND (c.copier_until IS NULL OR c.copier_until < now())
                 ORDER BY t.deleted_at LIMIT 1 FOR UPDATE OF c SKIP LOCKED)
             RETURNING template_id",
            copier,
            lease.as_secs_f64(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(claimed.map(Id::from_uuid))
    }

    /// Holds a claim for `lease` from now. Whether it is still ours.
    pub async fn copy_renew(&self, copying: Copying, lease: Duration) -> Result<bool, StoreError> {
        let renewed = sqlx::query!(
            "UPDATE template_copies SET copier_until = now() + make_interval(secs => $3)
             WHERE template_id = $1 AND copier = $2",
            copying.template.uuid(),
            copying.copier,
            lease.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Says that a copy is complete: its template is durable from now on. Of a kept pause the sandbox is, and its host, which has the sandbox
    /// itself, owes the deletion of the template's files. Whether the claim was still ours, and the template there.
    pub async fn copy_complete(&self, copying: Copying) -> Result<bool, StoreError> {
        let done = sqlx::query_scalar!(
            r#"WITH done AS (
                   UPDATE template_copies c SET copier = NULL, copier_until = NULL FROM templates t
                   WHERE c.template_id = $1 AND c.copier = $2 AND t.id = c.template_id AND t.deleted_at IS NULL
                   RETURNING c.template_id),
               told AS (
                   UPDATE templates SET durable = TRUE, updated_at = now() WHERE id IN (SELECT template_id FROM done)
                   RETURNING id, is_pause),
               kept AS (
                   UPDATE sandboxes s SET durable = TRUE, updated_at = now() FROM told
                   WHERE told.is_pause AND s.kept_as = told.id),
               owed AS (
                   UPDATE template_locations l SET state = 'deleting', updated_at = now() FROM told
                   WHERE told.is_pause AND l.template_id = told.id AND l.state = 'ready')
               SELECT count(*) AS "count!" FROM told"#,
            copying.template.uuid(),
            copying.copier,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(done > 0)
    }

    /// Gives a claim back: whoever looks next may have it.
    pub async fn copy_release(&self, copying: Copying) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE template_copies SET copier = NULL, copier_until = NULL WHERE template_id = $1 AND copier = $2",
            copying.template.uuid(),
            copying.copier,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets a copy whose objects are deleted.
    pub async fn copy_forget(&self, copying: Copying) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM template_copies WHERE template_id = $1 AND copier = $2",
            copying.template.uuid(),
            copying.copier,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A host of the platform's that has a template's files, with its address.
    pub async fn copy_source(
        &self,
        template: Id<Template>,
    ) -> Result<Option<(Id<Host>, String)>, StoreError> {
        Ok(sqlx::query!(
            r#"SELECT h.id, h.address AS "address!" FROM template_locations l JOIN hosts h ON h.id = l.host_id
               WHERE l.template_id = $1 AND l.state = 'ready' AND h.kind = 'regular' AND h.address IS NOT NULL
                 AND h.status IN ('online', 'draining') AND h.deleted_at IS NULL ORDER BY random() LIMIT 1"#,
            template.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(|row| (Id::from_uuid(row.id), row.address)))
    }

    /// Whether a complete copy is in object storage.
    pub async fn template_is_durable(&self, template: Id<Template>) -> Result<bool, StoreError> {
        let durable = sqlx::query_scalar!("SELECT durable FROM templates WHERE id = $1", template.uuid())
            .fetch_optional(&self.pool)
            .await?;
        Ok(durable.unwrap_or_default())
    }
}
