//! Templates and where their files are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::recipe::Defaults;
use sandbar_types::{Arch, Id, TemplateKind, TemplateName, VmmKind};
use serde::Deserialize as _;
use serde_json::Value;
use uuid::Uuid;

use crate::convert::{bigint, integer, unsigned, word};
use crate::{Position, Store, StoreError, Tx};

/// One template.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct TemplateRow {
    pub id: Id<Template>,
    pub team_id: Id<Team>,
    pub name: TemplateName,
    pub kind: TemplateKind,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub size_bytes: u64,
    pub arch: Arch,
    pub vmm: VmmKind,
    pub defaults: Defaults,
    pub durable: bool,
    pub created_at: DateTime<Utc>,
}

/// How often sandboxes were made from a template, and when last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TemplateUse {
    pub id: Id<Template>,
    pub count: u64,
    pub last_at: DateTime<Utc>,
}

/// A template whose files are to be made.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewTemplateRow<'a> {
    pub id: Id<Template>,
    pub team_id: Id<Team>,
    pub name: &'a TemplateName,
    pub kind: TemplateKind,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub arch: Arch,
    pub vmm: VmmKind,
}

/// What a host says of a template whose files are complete.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct CompleteTemplate<'a> {
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub size_bytes: u64,
    pub compatibility: &'a str,
}

pub(crate) struct Raw {
    pub(crate) id: Uuid,
    pub(crate) team_id: Uuid,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) vcpus: i32,
    pub(crate) memory_mb: i32,
    pub(crate) disk_mb: i32,
    pub(crate) size_bytes: i64,
    pub(crate) arch: String,
    pub(crate) vmm: String,
    pub(crate) defaults: Value,
    pub(crate) durable: bool,
    pub(crate) created_at: DateTime<Utc>,
}

impl TryFrom<Raw> for TemplateRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            team_id: Id::from_uuid(raw.team_id),
            name: word("templates.name", &raw.name)?,
            kind: word("templates.kind", &raw.kind)?,
            vcpus: unsigned("templates.vcpus", raw.vcpus)?,
            memory_mb: unsigned("templates.memory_mb", raw.memory_mb)?,
            disk_mb: unsigned("templates.disk_mb", raw.disk_mb)?,
            size_bytes: unsigned("templates.size_bytes", raw.size_bytes)?,
            arch: word("templates.arch", &raw.arch)?,
            vmm: word("templates.vmm", &raw.vmm)?,
            defaults: Defaults::deserialize(&raw.defaults).map_err(|_| StoreError::Unknown {
                column: "templates.defaults",
                value: raw.defaults.to_string(),
            })?,
            durable: raw.durable,
            created_at: raw.created_at,
        })
    }
}

impl Store {
    /// The template that a name means to a team: its own before the platform's.
    pub async fn template_by_name(
        &self,
        team: Id<Team>,
        name: &TemplateName,
    ) -> Result<Option<TemplateRow>, StoreError> {
        sqlx::query_as!(
            Raw,
            "SELECT id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, defaults, durable, created_at
             FROM templates
             WHERE team_id IN ($1, $2) AND name = $3 AND deleted_at IS NULL AND ready_at IS NOT NULL AND NOT draft
             ORDER BY (team_id = $1) DESC LIMIT 1",
            team.uuid(),
            Id::PLATFORM.uuid(),
            name.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TemplateRow::try_from)
        .transpose()
    }

    /// A template that a team may use, by its id.
    pub async fn template_find(
        &self,
        team: Id<Team>,
        id: Id<Template>,
    ) -> Result<Option<TemplateRow>, StoreError> {
        sqlx::query_as!(
            Raw,
            "SELECT id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, defaults, durable, created_at
             FROM templates
             WHERE id = $1 AND team_id IN ($2, $3) AND deleted_at IS NULL AND ready_at IS NOT NULL AND NOT draft",
            id.uuid(),
            team.uuid(),
            Id::PLATFORM.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TemplateRow::try_from)
        .transpose()
    }

    /// The snapshots that a team made of its sandboxes, or of one of them, or those of one name; newest first.
    pub async fn template_list_made(
        &self,
        team: Id<Team>,
        source: Option<Id<Sandbox>>,
        only: Option<Id<Template>>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<TemplateRow>, StoreError> {
        sqlx::query_as!(
            Raw,
            "SELECT id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, defaults, durable, created_at
             FROM templates
             WHERE team_id = $1 AND deleted_at IS NULL AND ready_at IS NOT NULL AND NOT is_pause
               AND ($2::uuid IS NULL OR source_id = $2) AND ($3::uuid IS NULL OR id = $3)
               AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
             ORDER BY created_at DESC, id DESC LIMIT $6",
            team.uuid(),
            source.map(Id::uuid),
            only.map(Id::uuid),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(TemplateRow::try_from)
        .collect()
    }

    /// How often a team made sandboxes from templates, and when last; of those that it did at all.
    pub async fn template_uses(
        &self,
        team: Id<Team>,
        ids: &[Id<Template>],
    ) -> Result<Vec<TemplateUse>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        sqlx::query!(
            r#"SELECT template_id, count(*) AS "count!", max(created_at) AS "last!" FROM sandboxes
               WHERE team_id = $1 AND template_id = ANY($2) GROUP BY template_id"#,
            team.uuid(),
            &ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(TemplateUse {
                id: Id::from_uuid(row.template_id),
                count: unsigned("count", row.count)?,
                last_at: row.last,
            })
        })
        .collect()
    }

    /// The templates that a team may use, newest first.
    pub async fn template_list(
        &self,
        team: Id<Team>,
        kind: Option<TemplateKind>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<TemplateRow>, StoreError> {
        sqlx::query_as!(
            Raw,
            "SELECT id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, defaults, durable, created_at
             FROM templates
             WHERE team_id IN ($1, $2) AND deleted_at IS NULL AND ready_at IS NOT NULL AND NOT draft
               AND ($3::text IS NULL OR kind = $3)
               AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
             ORDER BY created_at DESC, id DESC LIMIT $6",
            team.uuid(),
            Id::PLATFORM.uuid(),
            kind.map(TemplateKind::as_str),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(TemplateRow::try_from)
        .collect()
    }

    /// Claims the making of a template of a team on a host of the template's kind that is heard of, lacks it and takes sandboxes: which
    /// one, if nobody else has claimed it within `lease`. Only a template that is ready elsewhere.
    pub async fn template_claim(
        &self,
        host: Id<Host>,
        team: Id<Team>,
        name: &str,
        lease: Duration,
    ) -> Result<Option<Id<Template>>, StoreError> {
        let id = sqlx::query_scalar!(
            "INSERT INTO template_locations (template_id, host_id, state)
             SELECT t.id, h.id, 'fetching' FROM templates t JOIN hosts h ON h.arch = t.arch AND h.vmm = t.vmm
             WHERE h.id = $1 AND h.deleted_at IS NULL AND h.status = 'online' AND t.team_id = $2 AND t.name = $3
               AND t.deleted_at IS NULL AND t.ready_at IS NOT NULL AND NOT t.draft
             ON CONFLICT (template_id, host_id) DO UPDATE SET updated_at = now()
             WHERE template_locations.state = 'fetching'
               AND template_locations.updated_at < now() - make_interval(secs => $4)
             RETURNING template_id",
            host.uuid(),
            team.uuid(),
            name,
            lease.as_secs_f64(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(id.map(Id::from_uuid))
    }

    /// Gives a claim back that came to nothing.
    pub async fn template_claim_end(&self, template: Id<Template>, host: Id<Host>) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM template_locations WHERE template_id = $1 AND host_id = $2 AND state = 'fetching'",
            template.uuid(),
            host.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets that a host has a template's files, because it says that it has not.
    pub async fn template_location_forget(
        &self,
        template: Id<Template>,
        host: Id<Host>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM template_locations WHERE template_id = $1 AND host_id = $2 AND state = 'ready'",
            template.uuid(),
            host.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Takes a name and an id for a template whose files are to be made, and says which id: the one that had the name already, if
    /// there is one.
    pub async fn template_reserve(&mut self, new: &NewTemplateRow<'_>) -> Result<Id<Template>, StoreError> {
        // The update changes nothing; it is there so that the row that is in the way is returned.
        let id = sqlx::query_scalar!(
            "INSERT INTO templates (id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm)
             VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, $8)
             ON CONFLICT (team_id, name) WHERE deleted_at IS NULL AND NOT draft DO UPDATE SET name = EXCLUDED.name
             RETURNING id",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name.as_str(),
            new.kind.as_str(),
            integer(new.vcpus),
            integer(new.memory_mb),
            new.arch.as_str(),
            new.vmm.as_str(),
        )
        .fetch_one(self.connection())
        .await?;
        Ok(Id::from_uuid(id))
    }

    /// Says that a template's files are complete on a host. Its sizes are those of the first host that had them.
    pub async fn template_complete(
        &mut self,
        id: Id<Template>,
        host: Id<Host>,
        complete: &CompleteTemplate<'_>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE templates SET vcpus = $2, memory_mb = $3, disk_mb = $4, size_bytes = $5, compatibility = $6,
                    ready_at = now(), updated_at = now()
             WHERE id = $1 AND ready_at IS NULL",
            id.uuid(),
            integer(complete.vcpus),
            integer(complete.memory_mb),
            integer(complete.disk_mb),
            bigint(complete.size_bytes),
            complete.compatibility,
        )
        .execute(self.connection())
        .await?;
        sqlx::query!(
            "INSERT INTO template_locations (template_id, host_id, state) VALUES ($1, $2, 'ready')
             ON CONFLICT (template_id, host_id) DO UPDATE SET state = 'ready', updated_at = now()",
            id.uuid(),
            host.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}
