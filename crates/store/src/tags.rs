//! Tags: which build of a template `name:tag` means.
//!
//! The tag `default` is held by the template that holds the name, and has no row. Every other tag is a row of its own. A template that holds
//! neither name nor tag is deleted by the transaction that took its last: its files are owed to be deleted wherever they are.

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Team, Template};
use sandbar_types::{Id, TemplateName, TemplateTag};
use uuid::Uuid;

use crate::convert::word;
use crate::templates::{Raw, TemplateRow};
use crate::{Store, StoreError, Tx};

/// One tag of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// Which.
    pub tag: TemplateTag,
    /// What it means.
    pub template_id: Id<Template>,
    /// The build that made that, or the template's own id where none did.
    pub build_id: Uuid,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// The template that a name and a tag mean to a team: its own before the platform's.
    pub async fn template_by_tag(
        &self,
        team: Id<Team>,
        name: &TemplateName,
        tag: &TemplateTag,
    ) -> Result<Option<TemplateRow>, StoreError> {
        if tag.is_default() {
            return self.template_by_name(team, name).await;
        }
        sqlx::query_as!(
            Raw,
            "SELECT t.id, t.team_id, t.name, t.kind, t.vcpus, t.memory_mb, t.disk_mb, t.size_bytes, t.arch, t.vmm, t.defaults,
                    t.durable, t.created_at
             FROM template_tags g JOIN templates t ON t.id = g.template_id
             WHERE g.team_id IN ($1, $2) AND g.name = $3 AND g.tag = $4 AND t.deleted_at IS NULL AND t.ready_at IS NOT NULL
             ORDER BY (g.team_id = $1) DESC LIMIT 1",
            team.uuid(),
            Id::PLATFORM.uuid(),
            name.as_str(),
            tag.as_str(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(TemplateRow::try_from)
        .transpose()
    }

    /// The name that all its builds are known by under this id, where the team may use one of them, and whose name that is.
    pub async fn template_name_by_id(
        &self,
        team: Id<Team>,
        id: Uuid,
    ) -> Result<Option<(Id<Team>, TemplateName)>, StoreError> {
        let row = sqlx::query!(
            "SELECT team_id, name FROM templates
             WHERE template_name_id(team_id, name) = $1 AND team_id IN ($2, $3) AND deleted_at IS NULL AND ready_at IS NOT NULL
             LIMIT 1",
            id,
            team.uuid(),
            Id::PLATFORM.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((Id::from_uuid(row.team_id), word("templates.name", &row.name)?))).transpose()
    }

    /// The tags of each of some templates, `default` first.
    pub async fn tags_of(
        &self,
        ids: &[Id<Template>],
    ) -> Result<Vec<(Id<Template>, TemplateTag)>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        sqlx::query!(
            r#"SELECT id AS "id!", tag AS "tag!" FROM (
                   SELECT id, $2 AS tag, 0 AS rank FROM templates WHERE id = ANY($1) AND NOT draft
                   UNION ALL SELECT template_id, tag, 1 FROM template_tags WHERE template_id = ANY($1)) held
               ORDER BY rank, tag"#,
            &ids,
            TemplateTag::DEFAULT,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| Ok((Id::from_uuid(row.id), word("template_tags.tag", &row.tag)?)))
        .collect()
    }

    /// The tags of a team's name, `default` among them where it is held; newest first.
    pub async fn tags(&self, team: Id<Team>, name: &TemplateName) -> Result<Vec<TagRow>, StoreError> {
        sqlx::query!(
            r#"SELECT h.tag AS "tag!", h.template_id AS "template_id!", h.since AS "since!",
                      coalesce((SELECT b.id FROM template_builds b WHERE b.template_id = h.template_id LIMIT 1), h.template_id) AS "build_id!"
               FROM (SELECT g.tag, g.template_id, g.created_at AS since
                     FROM template_tags g JOIN templates t ON t.id = g.template_id
                     WHERE g.team_id = $1 AND g.name = $2 AND t.deleted_at IS NULL AND t.ready_at IS NOT NULL
                     UNION ALL
                     SELECT $3, t.id, t.ready_at FROM templates t
                     WHERE t.team_id = $1 AND t.name = $2 AND NOT t.draft AND t.deleted_at IS NULL AND t.ready_at IS NOT NULL) h
               ORDER BY h.since DESC, h.tag"#,
            team.uuid(),
            name.as_str(),
            TemplateTag::DEFAULT,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(TagRow {
                tag: word("template_tags.tag", &row.tag)?,
                template_id: Id::from_uuid(row.template_id),
                build_id: row.build_id,
                created_at: row.since,
            })
        })
        .collect()
    }
}

impl Tx {
    /// Holds a team, so that of several that change its templates' names and tags each sees what those before it did.
    pub(crate) async fn hold_team(&mut self, team: Uuid) -> Result<(), StoreError> {
        sqlx::query!("SELECT id FROM teams WHERE id = $1 FOR NO KEY UPDATE", team)
            .fetch_optional(self.connection())
            .await?;
        Ok(())
    }

    /// Gives tags to one of a team's templates, whoever had them before. False where it is gone; else who owes files of those that nothing
    /// names any more.
    pub async fn tags_assign(
        &mut self,
        team: Id<Team>,
        id: Id<Template>,
        tags: &[TemplateTag],
    ) -> Result<Option<Vec<Id<Host>>>, StoreError> {
        self.hold_team(team.uuid()).await?;
        // In the order in which everybody takes several templates.
        let name = sqlx::query!(
            "SELECT t.id, t.name, t.operation ->> 'action' AS action FROM templates t JOIN templates s ON s.team_id = t.team_id AND s.name = t.name
             WHERE s.id = $1 AND s.team_id = $2 AND t.deleted_at IS NULL AND t.ready_at IS NOT NULL
             ORDER BY t.id FOR NO KEY UPDATE OF t",
            id.uuid(),
            team.uuid(),
        )
        .fetch_all(self.connection())
        .await?;
        // One that is being deleted takes no new name.
        let own = name.into_iter().find(|row| row.id == id.uuid() && row.action.as_deref() != Some("delete"));
        let Some(own) = own else { return Ok(None) };
        self.name_and_tag(team.uuid(), &own.name, id, tags).await.map(Some)
    }

    /// Names a template that is ready and whose team is held.
    pub(crate) async fn name_and_tag(
        &mut self,
        team: Uuid,
        name: &str,
        id: Id<Template>,
        tags: &[TemplateTag],
    ) -> Result<Vec<Id<Host>>, StoreError> {
        if tags.iter().any(TemplateTag::is_default) {
            sqlx::query!(
                "UPDATE templates SET draft = TRUE, updated_at = now()
                 WHERE team_id = $1 AND name = $2 AND id <> $3 AND NOT draft AND deleted_at IS NULL AND ready_at IS NOT NULL",
                team,
                name,
                id.uuid(),
            )
            .execute(self.connection())
            .await?;
            sqlx::query!(
                "UPDATE templates SET draft = FALSE, updated_at = now() WHERE id = $1 AND draft",
                id.uuid()
            )
            .execute(self.connection())
            .await?;
        }
        let others: Vec<String> =
            tags.iter().filter(|tag| !tag.is_default()).map(ToString::to_string).collect();
        sqlx::query!(
            "INSERT INTO template_tags (team_id, name, tag, template_id) SELECT DISTINCT $1::uuid, $2, tag, $3::uuid FROM unnest($4::text[]) AS tag
             ON CONFLICT (team_id, name, tag) DO UPDATE SET template_id = EXCLUDED.template_id, created_at = now()",
            team,
            name,
            id.uuid(),
            &others,
        )
        .execute(self.connection())
        .await?;
        self.release_unnamed(team, name).await
    }

    /// Takes tags from a team's name. How many there were of them, and who owes files of what nothing names any more.
    pub async fn tags_remove(
        &mut self,
        team: Id<Team>,
        name: &TemplateName,
        tags: &[TemplateTag],
    ) -> Result<(u64, Vec<Id<Host>>), StoreError> {
        self.hold_team(team.uuid()).await?;
        let texts: Vec<String> = tags.iter().map(ToString::to_string).collect();
        let mut removed = sqlx::query!(
            "DELETE FROM template_tags WHERE team_id = $1 AND name = $2 AND tag = ANY($3)",
            team.uuid(),
            name.as_str(),
            &texts,
        )
        .execute(self.connection())
        .await?
        .rows_affected();
        if tags.iter().any(TemplateTag::is_default) {
            removed += sqlx::query!(
                "UPDATE templates SET draft = TRUE, updated_at = now()
                 WHERE team_id = $1 AND name = $2 AND NOT draft AND deleted_at IS NULL AND ready_at IS NOT NULL",
                team.uuid(),
                name.as_str(),
            )
            .execute(self.connection())
            .await?
            .rows_affected();
        }
        Ok((removed, self.release_unnamed(team.uuid(), name.as_str()).await?))
    }

    /// Whether a template that got these tags would leave another without any, which then goes.
    pub async fn tags_displace(
        &mut self,
        team: Id<Team>,
        name: &TemplateName,
        tags: &[TemplateTag],
    ) -> Result<bool, StoreError> {
        let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
        Ok(sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT 1 FROM templates t
                   WHERE t.team_id = $1 AND t.name = $2 AND t.deleted_at IS NULL AND t.ready_at IS NOT NULL
                     AND (t.draft OR $4 = ANY($3))
                     AND NOT EXISTS (SELECT 1 FROM template_tags g WHERE g.template_id = t.id AND g.tag <> ALL($3))) AS "displaced!""#,
            team.uuid(),
            name.as_str(),
            &tags,
            TemplateTag::DEFAULT,
        )
        .fetch_one(self.connection())
        .await?)
    }

    /// Takes all tags from a team's name but `default`.
    pub async fn tags_forget(
        &mut self,
        team: Id<Team>,
        name: &TemplateName,
    ) -> Result<(u64, Vec<Id<Host>>), StoreError> {
        self.hold_team(team.uuid()).await?;
        let removed = sqlx::query!(
            "DELETE FROM template_tags WHERE team_id = $1 AND name = $2",
            team.uuid(),
            name.as_str(),
        )
        .execute(self.connection())
        .await?
        .rows_affected();
        Ok((removed, self.release_unnamed(team.uuid(), name.as_str()).await?))
    }

    /// Deletes the templates of a name that hold neither it nor a tag. Who owes their files.
    async fn release_unnamed(&mut self, team: Uuid, name: &str) -> Result<Vec<Id<Host>>, StoreError> {
        let hosts = sqlx::query_scalar!(
            "WITH gone AS (
                 UPDATE templates t SET deleted_at = now(), updated_at = now()
                 WHERE team_id = $1 AND name = $2 AND draft AND ready_at IS NOT NULL AND deleted_at IS NULL
                   AND NOT EXISTS (SELECT 1 FROM template_tags g WHERE g.template_id = t.id)
                 RETURNING id)
             UPDATE template_locations SET state = 'deleting', fetcher = NULL, fetcher_until = NULL, updated_at = now()
             WHERE template_id IN (SELECT id FROM gone) RETURNING host_id",
            team,
            name,
        )
        .fetch_all(self.connection())
        .await?;
        Ok(hosts.into_iter().map(Id::from_uuid).collect())
    }
}
