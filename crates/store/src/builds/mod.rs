//! Builds of templates.
//!
//! ```text
//!   pending ──► running ──► success | failed | cancelled
//!      ▲  └────────┼───────────────────────► cancelled
//!      └───────────┘ given back, or its lease ran out: another attempt
//! ```
//!
//! A claim is known by its `worker`, a name that no two claims share: whatever is written in a build's course is written only
//! where the claim is still the last one. Leases are measured by the database's clock.
//!
//! - this file: rows, and finding them. `claim.rs`: the course of a build. `logs.rs`: what its steps wrote. `images.rs`:
//!   templates that are made of images for an attempt. `files.rs`: archives that clients bring. `announced.rs`: builds that have no
//!   steps yet.

mod announced;
mod claim;
mod files;
mod images;
mod logs;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sandbar_types::id::{Build, Sandbox, Team, Template, User};
use sandbar_types::recipe::{Base, Dialect};
use sandbar_types::{BuildStatus, Id, TemplateKind, TemplateName, TemplateTag};
use serde::Deserialize as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::convert::{integer, unsigned, unsigned_opt, word};
use crate::{Position, Store, StoreError, Tx};

pub use announced::AnnouncedRow;
pub use claim::{Claim, Ended, Lease};
pub use files::BuildFilesRow;
pub use images::{ImageLeft, NewImageRow};
pub use logs::{BuildLogRow, LogChunk, LogExtent};

/// One build.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct BuildRow {
    pub id: Id<Build>,
    pub team_id: Id<Team>,
    pub name: TemplateName,
    pub base: Base,
    pub base_tag: TemplateTag,
    pub dialect: Dialect,
    pub tags: Vec<TemplateTag>,
    pub note: Option<String>,
    /// The steps, an array.
    pub recipe: Value,
    pub healthcheck: Option<String>,
    pub healthcheck_sec: u32,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: Option<u32>,
    pub status: BuildStatus,
    pub current_step: u32,
    pub total_steps: u32,
    pub error: Option<String>,
    pub template_id: Option<Id<Template>>,
    pub sandbox_id: Option<Id<Sandbox>>,
    pub attempts: u32,
    pub cancel_asked: bool,
    pub operation: Option<Value>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub kind: TemplateKind,
    /// Names of secrets, by those of variables.
    pub secrets: BTreeMap<String, String>,
    pub trace: Option<String>,
}

/// A build to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewBuildRow<'a> {
    pub id: Id<Build>,
    pub team_id: Id<Team>,
    pub name: &'a TemplateName,
    pub base: &'a Base,
    pub base_tag: &'a TemplateTag,
    pub dialect: Dialect,
    pub tags: &'a [TemplateTag],
    pub note: Option<&'a str>,
    pub recipe: &'a Value,
    pub healthcheck: Option<&'a str>,
    pub healthcheck_sec: u32,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: Option<u32>,
    /// The archives that its steps copy from.
    pub files: &'a [String],
    /// Credentials for its image's registry, sealed. They are gone when the build has ended.
    pub registry: Option<&'a [u8]>,
    pub total_steps: u32,
    pub created_by: Option<Id<User>>,
    pub operation: &'a Value,
    pub kind: TemplateKind,
    /// Names of secrets, by those of variables.
    pub secrets: &'a BTreeMap<String, String>,
    pub trace: Option<&'a str>,
}

pub(crate) struct Raw {
    id: Uuid,
    team_id: Uuid,
    name: String,
    base_template: String,
    base_tag: String,
    dialect: String,
    tags: Vec<String>,
    note: Option<String>,
    recipe: Value,
    healthcheck: Option<String>,
    healthcheck_sec: i32,
    vcpus: i32,
    memory_mb: i32,
    disk_mb: Option<i32>,
    status: String,
    current_step: i32,
    total_steps: i32,
    error: Option<String>,
    template_id: Option<Uuid>,
    sandbox_id: Option<Uuid>,
    attempts: i32,
    cancel_asked: bool,
    operation: Option<Value>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    kind: String,
    secrets: Value,
    trace: Option<String>,
}

impl TryFrom<Raw> for BuildRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            team_id: Id::from_uuid(raw.team_id),
            name: word("template_builds.name", &raw.name)?,
            base: word("template_builds.base_template", &raw.base_template)?,
            base_tag: word("template_builds.base_tag", &raw.base_tag)?,
            dialect: word("template_builds.dialect", &raw.dialect)?,
            tags: tags("template_builds.tags", &raw.tags)?,
            note: raw.note,
            recipe: raw.recipe,
            healthcheck: raw.healthcheck,
            healthcheck_sec: unsigned("template_builds.healthcheck_sec", raw.healthcheck_sec)?,
            vcpus: unsigned("template_builds.vcpus", raw.vcpus)?,
            memory_mb: unsigned("template_builds.memory_mb", raw.memory_mb)?,
            disk_mb: unsigned_opt("template_builds.disk_mb", raw.disk_mb)?,
            status: word("template_builds.status", &raw.status)?,
            current_step: unsigned("template_builds.current_step", raw.current_step)?,
            total_steps: unsigned("template_builds.total_steps", raw.total_steps)?,
            error: raw.error,
            template_id: raw.template_id.map(Id::from_uuid),
            sandbox_id: raw.sandbox_id.map(Id::from_uuid),
            attempts: unsigned("template_builds.attempts", raw.attempts)?,
            cancel_asked: raw.cancel_asked,
            operation: raw.operation,
            created_at: raw.created_at,
            started_at: raw.started_at,
            finished_at: raw.finished_at,
            kind: word("template_builds.kind", &raw.kind)?,
            secrets: secrets(&raw.secrets)?,
            trace: raw.trace,
        })
    }
}

/// Reads tags.
fn tags(column: &'static str, texts: &[String]) -> Result<Vec<TemplateTag>, StoreError> {
    texts.iter().map(|text| word(column, text)).collect()
}

/// Reads which secrets are meant.
fn secrets(value: &Value) -> Result<BTreeMap<String, String>, StoreError> {
    BTreeMap::deserialize(value)
        .map_err(|_| StoreError::Unknown { column: "template_builds.secrets", value: value.to_string() })
}

/// Rows of builds: what comes after the columns, and its parameters.
macro_rules! builds {
    ($before:literal, $after:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            crate::builds::Raw,
            $before + "id, team_id, name, base_template, base_tag, dialect, tags, note, recipe, healthcheck, healthcheck_sec, vcpus, memory_mb, disk_mb, status,
             current_step, total_steps, error, template_id, sandbox_id, attempts, cancel_asked, operation, created_at,
             started_at, finished_at, kind, secrets, trace " + $after
            $(, $argument)*
        )
    };
}
pub(crate) use builds;

impl Store {
    /// A build; of a team's, where one is named.
    pub async fn build_find(
        &self,
        team: Option<Id<Team>>,
        id: Id<Build>,
    ) -> Result<Option<BuildRow>, StoreError> {
        builds!(
            "SELECT ",
            "FROM template_builds WHERE id = $1 AND ($2::uuid IS NULL OR team_id = $2)",
            id.uuid(),
            team.map(Id::uuid),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(BuildRow::try_from)
        .transpose()
    }

    /// Builds, newest first; of a team's, where one is named.
    pub async fn build_list(
        &self,
        team: Option<Id<Team>>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<BuildRow>, StoreError> {
        builds!(
            "SELECT ",
            "FROM template_builds WHERE ($1::uuid IS NULL OR team_id = $1)
               AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
             ORDER BY created_at DESC, id DESC LIMIT $4",
            team.map(Id::uuid),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(BuildRow::try_from)
        .collect()
    }
}

impl Store {
    /// A team's builds of one name, newest first.
    pub async fn builds_of_name(
        &self,
        team: Id<Team>,
        name: &TemplateName,
        limit: i64,
    ) -> Result<Vec<BuildRow>, StoreError> {
        builds!(
            "SELECT ",
            "FROM template_builds WHERE team_id = $1 AND name = $2 ORDER BY created_at DESC, id DESC LIMIT $3",
            team.uuid(),
            name.as_str(),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(BuildRow::try_from)
        .collect()
    }

    /// Which build made each of some templates, of those that one did, and how many a team began under its name.
    pub async fn builds_of_templates(
        &self,
        team: Id<Team>,
        ids: &[Id<Template>],
    ) -> Result<Vec<(Id<Template>, Id<Build>, u64)>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        sqlx::query!(
            r#"SELECT b.template_id AS "template_id!", b.id,
                      (SELECT count(*) FROM template_builds o WHERE o.team_id = b.team_id AND o.name = b.name) AS "count!"
               FROM template_builds b WHERE b.template_id = ANY($2) AND b.team_id = $1"#,
            team.uuid(),
            &ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok((Id::from_uuid(row.template_id), Id::from_uuid(row.id), unsigned("count of builds", row.count)?))
        })
        .collect()
    }
}

impl Tx {
    /// Makes a row in the state `pending`.
    pub async fn build_insert(&mut self, new: &NewBuildRow<'_>) -> Result<BuildRow, StoreError> {
        let tags: Vec<String> = new.tags.iter().map(ToString::to_string).collect();
        builds!(
            "INSERT INTO template_builds (id, team_id, name, base_template, recipe, healthcheck, healthcheck_sec, vcpus,
                                          memory_mb, total_steps, created_by, operation, disk_mb, files,
                                          registry, base_tag, dialect, tags, note, kind, secrets, trace)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
             RETURNING ",
            "",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name.as_str(),
            new.base.to_string(),
            new.recipe,
            new.healthcheck,
            integer(new.healthcheck_sec),
            integer(new.vcpus),
            integer(new.memory_mb),
            integer(new.total_steps),
            new.created_by.map(Id::uuid),
            new.operation,
            new.disk_mb.map(integer),
            new.files,
            new.registry,
            new.base_tag.as_str(),
            new.dialect.as_str(),
            &tags,
            new.note,
            new.kind.as_str(),
            json!(new.secrets),
            new.trace,
        )
        .fetch_one(self.connection())
        .await?
        .try_into()
    }
}
