//! Teams and who belongs to which. A deleted team is invisible to every statement here.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::{Team, User};
use uuid::Uuid;

use crate::convert::word;
use crate::{Position, Store, StoreError, Tx};

/// A person's place in a team; the greater may do all that the lesser may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Uses sandboxes.
    Member,
    /// Manages members, keys and hosts.
    Admin,
    /// Exactly one in each team.
    Owner,
}

impl Role {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }
}

/// Text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a role: expected owner, admin or member")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        [Self::Owner, Self::Admin, Self::Member]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct TeamRow {
    pub id: Id<Team>,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
}

/// A person in a team.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct MemberRow {
    pub user_id: Id<User>,
    pub name: String,
    pub email: String,
    pub role: Role,
    pub joined_at: DateTime<Utc>,
}

struct RawTeam {
    id: Uuid,
    name: String,
    slug: String,
    is_byoc: bool,
    created_at: DateTime<Utc>,
}

impl From<RawTeam> for TeamRow {
    fn from(raw: RawTeam) -> Self {
        let RawTeam { id, name, slug, is_byoc, created_at } = raw;
        Self { id: Id::from_uuid(id), name, slug, is_byoc, created_at }
    }
}

impl Store {
    /// A team that a person belongs to, and as what.
    pub async fn team_of(
        &self,
        team: Id<Team>,
        user: Id<User>,
    ) -> Result<Option<(TeamRow, Role)>, StoreError> {
        let row = sqlx::query!(
            "SELECT t.id, t.name, t.slug, t.is_byoc, t.created_at, m.role
             FROM teams t JOIN memberships m ON m.team_id = t.id
             WHERE t.id = $1 AND m.user_id = $2 AND t.deleted_at IS NULL",
            team.uuid(),
            user.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (id, name, slug) = (Id::from_uuid(row.id), row.name, row.slug);
        let team = TeamRow { id, name, slug, is_byoc: row.is_byoc, created_at: row.created_at };
        Ok(Some((team, word("memberships.role", &row.role)?)))
    }

    /// A living team's slug.
    pub async fn team_slug(&self, team: Id<Team>) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar!("SELECT slug FROM teams WHERE id = $1 AND deleted_at IS NULL", team.uuid())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// The teams that a person belongs to, newest first.
    pub async fn teams_of(
        &self,
        user: Id<User>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<(TeamRow, Role)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT t.id, t.name, t.slug, t.is_byoc, t.created_at, m.role
             FROM teams t JOIN memberships m ON m.team_id = t.id
             WHERE m.user_id = $1 AND t.deleted_at IS NULL
               AND ($2::timestamptz IS NULL OR (t.created_at, t.id) < ($2, $3))
             ORDER BY t.created_at DESC, t.id DESC LIMIT $4",
            user.uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let (id, name, slug) = (Id::from_uuid(row.id), row.name, row.slug);
                let team = TeamRow { id, name, slug, is_byoc: row.is_byoc, created_at: row.created_at };
                Ok((team, word("memberships.role", &row.role)?))
            })
            .collect()
    }

    /// A person's default team, or, where none is set, the first that they joined.
    pub async fn team_default(&self, user: Id<User>) -> Result<Option<(Id<Team>, Role)>, StoreError> {
        let row = sqlx::query!(
            "SELECT m.team_id, m.role FROM memberships m JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL
             WHERE m.user_id = $1 ORDER BY m.is_default DESC, m.joined_at, m.team_id LIMIT 1",
            user.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((Id::from_uuid(row.team_id), word("memberships.role", &row.role)?))).transpose()
    }

    /// A team's members: the owner, then the others as they joined.
    pub async fn team_members(&self, team: Id<Team>) -> Result<Vec<MemberRow>, StoreError> {
        let rows = sqlx::query!(
            "SELECT u.id, u.name, u.email, m.role, m.joined_at
             FROM memberships m JOIN users u ON u.id = m.user_id
             JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL
             WHERE m.team_id = $1 ORDER BY (m.role = 'owner') DESC, m.joined_at, u.id",
            team.uuid(),
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(MemberRow {
                    user_id: Id::from_uuid(row.id),
                    name: row.name,
                    email: row.email,
                    role: word("memberships.role", &row.role)?,
                    joined_at: row.joined_at,
                })
            })
            .collect()
    }

    /// All teams but the platform's own, newest first.
    pub async fn team_list(&self, after: Option<Position>, limit: i64) -> Result<Vec<TeamRow>, StoreError> {
        let rows = sqlx::query_as!(
            RawTeam,
            "SELECT id, name, slug, is_byoc, created_at FROM teams
             WHERE deleted_at IS NULL AND id <> $1
               AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
             ORDER BY created_at DESC, id DESC LIMIT $4",
            Id::PLATFORM.uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        );
        Ok(rows.fetch_all(&self.pool).await?.into_iter().map(TeamRow::from).collect())
    }
}

impl Tx {
    /// Adds a team. `slug` is `xxxxxx-xxxxxx` in hexadecimal digits.
    pub async fn team_insert(&mut self, id: Id<Team>, name: &str, slug: &str) -> Result<TeamRow, StoreError> {
        let row = sqlx::query_as!(
            RawTeam,
            "INSERT INTO teams (id, name, slug) VALUES ($1, $2, $3)
             RETURNING id, name, slug, is_byoc, created_at",
            id.uuid(),
            name,
            slug,
        );
        Ok(row.fetch_one(self.connection()).await?.into())
    }

    /// A team, held until the transaction ends: nobody else changes it or its members, and nothing is made that belongs to it.
    pub async fn team_lock(&mut self, id: Id<Team>) -> Result<Option<TeamRow>, StoreError> {
        let row = sqlx::query_as!(
            RawTeam,
            "SELECT id, name, slug, is_byoc, created_at FROM teams
             WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE",
            id.uuid(),
        );
        Ok(row.fetch_optional(self.connection()).await?.map(TeamRow::from))
    }

    /// Gives a team another name.
    pub async fn team_rename(&mut self, id: Id<Team>, name: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE teams SET name = $2, updated_at = now() WHERE id = $1", id.uuid(), name)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Lets a team bring hosts of its own, or not.
    pub async fn team_set_byoc(&mut self, id: Id<Team>, is_byoc: bool) -> Result<(), StoreError> {
        sqlx::query!("UPDATE teams SET is_byoc = $2, updated_at = now() WHERE id = $1", id.uuid(), is_byoc)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Whether a team has hosts of its own.
    pub async fn team_has_hosts(&mut self, id: Id<Team>) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM hosts WHERE team_id = $1 AND deleted_at IS NULL) AS "has!""#,
            id.uuid(),
        )
        .fetch_one(self.connection())
        .await?)
    }

    /// Makes a team invisible, for good. Its row and slug stay.
    pub async fn team_delete(&mut self, id: Id<Team>) -> Result<(), StoreError> {
        sqlx::query!("UPDATE teams SET deleted_at = now(), updated_at = now() WHERE id = $1", id.uuid())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// What a person is in a team.
    pub async fn membership_role(
        &mut self,
        team: Id<Team>,
        user: Id<User>,
    ) -> Result<Option<Role>, StoreError> {
        let role = sqlx::query_scalar!(
            "SELECT role FROM memberships WHERE team_id = $1 AND user_id = $2",
            team.uuid(),
            user.uuid(),
        );
        let role = role.fetch_optional(self.connection()).await?;
        role.map(|role| word("memberships.role", &role)).transpose()
    }

    /// Adds a person to a team.
    pub async fn membership_insert(
        &mut self,
        team: Id<Team>,
        user: Id<User>,
        role: Role,
        is_default: bool,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO memberships (team_id, user_id, role, is_default) VALUES ($1, $2, $3, $4)",
            team.uuid(),
            user.uuid(),
            role.as_str(),
            is_default,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Gives a member another role.
    pub async fn membership_set_role(
        &mut self,
        team: Id<Team>,
        user: Id<User>,
        role: Role,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE memberships SET role = $3 WHERE team_id = $1 AND user_id = $2",
            team.uuid(),
            user.uuid(),
            role.as_str(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes a member out of a team.
    pub async fn membership_delete(&mut self, team: Id<Team>, user: Id<User>) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM memberships WHERE team_id = $1 AND user_id = $2",
            team.uuid(),
            user.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// In how many teams a person is. The person must be locked for the answer to stay true.
    pub async fn membership_count(&mut self, user: Id<User>) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM memberships m
               JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL WHERE m.user_id = $1"#,
            user.uuid(),
        )
        .fetch_one(self.connection())
        .await?)
    }

    /// Locks all members of a team, in one order for everybody, so that two who do so do not wait for each other.
    pub async fn members_lock(&mut self, team: Id<Team>) -> Result<(), StoreError> {
        sqlx::query!(
            "SELECT id FROM users WHERE id IN (SELECT user_id FROM memberships WHERE team_id = $1)
             ORDER BY id FOR NO KEY UPDATE",
            team.uuid(),
        )
        .fetch_all(self.connection())
        .await?;
        Ok(())
    }

    /// Gives those whose default team this is another one, the first that they joined. `only` = one member, else all.
    pub async fn defaults_move_away(
        &mut self,
        team: Id<Team>,
        only: Option<Id<User>>,
    ) -> Result<(), StoreError> {
        let moved = sqlx::query_scalar!(
            "UPDATE memberships SET is_default = FALSE
             WHERE team_id = $1 AND is_default AND ($2::uuid IS NULL OR user_id = $2) RETURNING user_id",
            team.uuid(),
            only.map(Id::uuid),
        )
        .fetch_all(self.connection())
        .await?;
        sqlx::query!(
            "UPDATE memberships m SET is_default = TRUE
             FROM (SELECT DISTINCT ON (o.user_id) o.user_id, o.team_id
                   FROM memberships o JOIN teams t ON t.id = o.team_id AND t.deleted_at IS NULL
                   WHERE o.user_id = ANY($1) AND o.team_id <> $2
                   ORDER BY o.user_id, o.joined_at, o.team_id) AS first
             WHERE m.user_id = first.user_id AND m.team_id = first.team_id",
            &moved,
            team.uuid(),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }
}
