//! Templates that hosts make of registries' images, each for one attempt at a build.
//!
//! ```text
//!   reserved (location fetching) ──► made (location ready) ──► deleted (location deleting: owed by the host)
//!        └─────────────────────────────────────────────────────►┘
//! ```
//!
//! The row bears the claim's name. It stays a draft that is not ready: no list shows it, and no name means it.

use sandbar_types::id::{Host, Template};
use sandbar_types::{Arch, Id, VmmKind};

use super::Claim;
use crate::convert::{bigint, integer};
use crate::templates::{CompleteTemplate, Raw, TemplateRow};
use crate::{Store, StoreError, Tx};

/// A template that a host is about to make of an image.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewImageRow {
    pub id: Id<Template>,
    pub host_id: Id<Host>,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub arch: Arch,
    pub vmm: VmmKind,
}

/// A template of an image whose attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLeft {
    /// Which.
    pub id: Id<Template>,
    /// Where its files may be, unless that host is gone.
    pub host: Option<Id<Host>>,
}

impl Tx {
    /// Takes an id for a claim's template, and writes down that a host may have files of it. False where the claim is lost.
    pub async fn build_image_reserve(&mut self, claim: Claim, new: NewImageRow) -> Result<bool, StoreError> {
        let reserved = sqlx::query!(
            "INSERT INTO templates (id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, draft,
                                    build_id, build_worker)
             SELECT $3, '00000000-0000-0000-0000-000000000000', name, 'snapshot', $4, $5, 0, 0, $6, $7, TRUE, id, worker
             FROM template_builds WHERE id = $1 AND worker = $2 AND status = 'running'",
            claim.build.uuid(),
            claim.worker.to_string(),
            new.id.uuid(),
            integer(new.vcpus),
            integer(new.memory_mb),
            new.arch.as_str(),
            new.vmm.as_str(),
        )
        .execute(self.connection())
        .await?;
        if reserved.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query!(
            "INSERT INTO template_locations (template_id, host_id, state) VALUES ($1, $2, 'fetching')",
            new.id.uuid(),
            new.host_id.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(true)
    }
}

impl Store {
    /// Says that a claim's template is made. None where it is not wanted any more.
    pub async fn build_image_made(
        &self,
        id: Id<Template>,
        complete: &CompleteTemplate<'_>,
    ) -> Result<Option<TemplateRow>, StoreError> {
        sqlx::query_as!(
            Raw,
            "WITH here AS (
                 UPDATE template_locations SET state = 'ready', updated_at = now()
                 WHERE template_id = $1 AND state = 'fetching' RETURNING template_id)
             UPDATE templates SET vcpus = $2, memory_mb = $3, disk_mb = $4, size_bytes = $5, compatibility = $6,
                    updated_at = now()
             FROM here WHERE id = here.template_id AND deleted_at IS NULL
             RETURNING id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, defaults, durable, created_at",
            id.uuid(),
            integer(complete.vcpus),
            integer(complete.memory_mb),
            integer(complete.disk_mb),
            bigint(complete.size_bytes),
            complete.compatibility,
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TemplateRow::try_from)
        .transpose()
    }

    /// A claim's templates.
    pub async fn build_images_of_claim(&self, claim: Claim) -> Result<Vec<ImageLeft>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT t.id, l.host_id AS "host?" FROM templates t LEFT JOIN template_locations l ON l.template_id = t.id
               WHERE t.build_id = $1 AND t.build_worker = $2 AND t.deleted_at IS NULL"#,
            claim.build.uuid(),
            claim.worker.to_string(),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| left(row.id, row.host)).collect())
    }

    /// Templates of images that nobody needs any more: their build has ended, or is at another attempt, or there is none.
    pub async fn build_images_left(&self) -> Result<Vec<ImageLeft>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT t.id, l.host_id AS "host?" FROM templates t LEFT JOIN template_locations l ON l.template_id = t.id
               WHERE t.build_id IS NOT NULL AND t.deleted_at IS NULL
                 AND NOT EXISTS (SELECT 1 FROM template_builds b
                                 WHERE b.id = t.build_id AND b.status = 'running' AND b.worker = t.build_worker
                                   AND b.leased_until >= now())
               LIMIT 100"#,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| left(row.id, row.host)).collect())
    }
}

fn left(id: uuid::Uuid, host: Option<uuid::Uuid>) -> ImageLeft {
    ImageLeft { id: Id::from_uuid(id), host: host.map(Id::from_uuid) }
}
