//! People, teams and who belongs to which.

use sandbar_types::Id;
use sandbar_types::id::{Team, User};

use crate::{Store, StoreError, Tx};

/// A person's place in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Exactly one in each team.
    Owner,
    /// Manages members, keys and hosts.
    Admin,
    /// Uses sandboxes.
    Member,
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

/// A person to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewUserRow<'a> {
    pub id: Id<User>,
    pub email: &'a str,
    pub name: &'a str,
    pub password_hash: Option<&'a str>,
    pub is_admin: bool,
}

impl Store {
    /// Whether anybody has an account.
    pub async fn users_exist(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM users) AS "exist!""#)
            .fetch_one(&self.pool)
            .await?)
    }
}

impl Tx {
    /// As [`Store::users_exist`], and nobody else can make the first account until this transaction ends.
    pub async fn users_exist_locked(&mut self) -> Result<bool, StoreError> {
        sqlx::query("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE").execute(self.connection()).await?;
        Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM users) AS "exist!""#)
            .fetch_one(self.connection())
            .await?)
    }

    /// Adds a person.
    pub async fn user_insert(&mut self, new: &NewUserRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO users (id, email, name, password_hash, is_admin) VALUES ($1, $2, $3, $4, $5)",
            new.id.uuid(),
            new.email,
            new.name,
            new.password_hash,
            new.is_admin,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Adds a team. `slug` is `xxxxxx-xxxxxx` in hexadecimal digits.
    pub async fn team_insert(&mut self, id: Id<Team>, name: &str, slug: &str) -> Result<(), StoreError> {
        sqlx::query!("INSERT INTO teams (id, name, slug) VALUES ($1, $2, $3)", id.uuid(), name, slug)
            .execute(self.connection())
            .await?;
        Ok(())
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
}
