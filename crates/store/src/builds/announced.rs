//! Builds that have an id and a name, and no steps yet.

use std::time::Duration;

use sandbar_types::id::{Build, Team};
use sandbar_types::{Id, TemplateName, TemplateTag};
use uuid::Uuid;

use super::tags;
use crate::convert::{integer, unsigned_opt, word};
use crate::{Store, StoreError, Tx};

/// One that waits for its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct AnnouncedRow {
    pub id: Id<Build>,
    pub team_id: Id<Team>,
    pub name: TemplateName,
    pub tags: Vec<TemplateTag>,
    pub vcpus: Option<u32>,
    pub memory_mb: Option<u32>,
}

struct Raw {
    id: Uuid,
    team_id: Uuid,
    name: String,
    tags: Vec<String>,
    vcpus: Option<i32>,
    memory_mb: Option<i32>,
}

impl TryFrom<Raw> for AnnouncedRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            team_id: Id::from_uuid(raw.team_id),
            name: word("announced_builds.name", &raw.name)?,
            tags: tags("announced_builds.tags", &raw.tags)?,
            vcpus: unsigned_opt("announced_builds.vcpus", raw.vcpus)?,
            memory_mb: unsigned_opt("announced_builds.memory_mb", raw.memory_mb)?,
        })
    }
}

impl Store {
    /// Announces a build, unless its team has announced `most` already. Says whether it did.
    pub async fn build_announce(&self, new: &AnnouncedRow, most: u32) -> Result<bool, StoreError> {
        let tags: Vec<String> = new.tags.iter().map(ToString::to_string).collect();
        let done = sqlx::query!(
            "INSERT INTO announced_builds (id, team_id, name, tags, vcpus, memory_mb)
             SELECT $1, $2, $3, $4, $5, $6
             WHERE (SELECT count(*) FROM announced_builds WHERE team_id = $2) < $7",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name.as_str(),
            &tags,
            new.vcpus.map(integer),
            new.memory_mb.map(integer),
            i64::from(most),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// One of a team's that waits for its steps.
    pub async fn build_announced(
        &self,
        team: Id<Team>,
        id: Id<Build>,
    ) -> Result<Option<AnnouncedRow>, StoreError> {
        sqlx::query_as!(
            Raw,
            "SELECT id, team_id, name, tags, vcpus, memory_mb FROM announced_builds WHERE id = $1 AND team_id = $2",
            id.uuid(),
            team.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(AnnouncedRow::try_from)
        .transpose()
    }

    /// Whether a team announced a build whose template is known by this id, or asked for one.
    pub async fn builds_of_name_id(&self, team: Id<Team>, id: Uuid) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM announced_builds WHERE team_id = $1 AND template_name_id(team_id, name) = $2)
                   OR EXISTS (SELECT 1 FROM template_builds WHERE team_id = $1 AND template_name_id(team_id, name) = $2) AS "known!""#,
            team.uuid(),
            id,
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Forgets those whose steps have not come for this long.
    pub async fn builds_announced_sweep(&self, after: Duration) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "DELETE FROM announced_builds WHERE created_at < now() - make_interval(secs => $1)",
            after.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

impl Tx {
    /// Its steps have come: it is announced no more. False where another request was faster.
    pub async fn build_announced_take(&mut self, id: Id<Build>) -> Result<bool, StoreError> {
        let done = sqlx::query!("DELETE FROM announced_builds WHERE id = $1", id.uuid())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() > 0)
    }
}
