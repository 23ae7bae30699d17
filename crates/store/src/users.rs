//! People.

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::{Team, User};

use crate::{Position, Store, StoreError, Tx};

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

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct UserRow {
    pub id: Id<User>,
    pub email: String,
    pub name: String,
    pub has_password: bool,
    pub is_admin: bool,
    pub created_at: DateTime<Utc>,
}

/// What a sign-in by password is held against.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct CredentialsRow {
    pub id: Id<User>,
    pub password_hash: Option<String>,
    /// Their default team, for the audit trail.
    pub team_id: Option<Id<Team>>,
}

struct Raw {
    id: uuid::Uuid,
    email: String,
    name: String,
    has_password: bool,
    is_admin: bool,
    created_at: DateTime<Utc>,
}

impl From<Raw> for UserRow {
    fn from(raw: Raw) -> Self {
        let Raw { id, email, name, has_password, is_admin, created_at } = raw;
        Self { id: Id::from_uuid(id), email, name, has_password, is_admin, created_at }
    }
}

/// A statement that yields people.
macro_rules! users {
    ($rest:literal $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Raw,
            r#"SELECT u.id, u.email, u.name, (u.password_hash IS NOT NULL) AS "has_password!", u.is_admin, u.created_at
               FROM users u "# + $rest
            $(, $arg)*
        )
    };
}

impl Store {
    /// Whether anybody has an account.
    pub async fn users_exist(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM users) AS "exist!""#)
            .fetch_one(&self.pool)
            .await?)
    }

    /// A person.
    pub async fn user_find(&self, id: Id<User>) -> Result<Option<UserRow>, StoreError> {
        let found = users!("WHERE u.id = $1", id.uuid()).fetch_optional(&self.pool).await?;
        Ok(found.map(UserRow::from))
    }

    /// The person with this address, however it is spelt.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<UserRow>, StoreError> {
        let found = users!("WHERE lower(u.email) = lower($1)", email).fetch_optional(&self.pool).await?;
        Ok(found.map(UserRow::from))
    }

    /// What the sign-in of whoever has this address is held against.
    pub async fn user_credentials(&self, email: &str) -> Result<Option<CredentialsRow>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT u.id, u.password_hash, d.team_id AS "team_id?"
               FROM users u LEFT JOIN memberships d ON d.user_id = u.id AND d.is_default
               WHERE lower(u.email) = lower($1)"#,
            email,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| CredentialsRow {
            id: Id::from_uuid(row.id),
            password_hash: row.password_hash,
            team_id: row.team_id.map(Id::from_uuid),
        }))
    }

    /// A person's password, as it is kept.
    pub async fn user_password_hash(&self, id: Id<User>) -> Result<Option<String>, StoreError> {
        let hash = sqlx::query_scalar!("SELECT password_hash FROM users WHERE id = $1", id.uuid());
        Ok(hash.fetch_optional(&self.pool).await?.flatten())
    }

    /// People whose address begins with this text, in any spelling.
    pub async fn users_by_email_prefix(&self, prefix: &str, limit: i64) -> Result<Vec<UserRow>, StoreError> {
        // LIKE's own characters stand for themselves here.
        let literal: String = prefix
            .chars()
            .flat_map(|c| matches!(c, '\\' | '%' | '_').then_some('\\').into_iter().chain([c]))
            .chain(['%'])
            .collect();
        let found =
            users!("WHERE lower(u.email) LIKE lower($1) ORDER BY lower(u.email) LIMIT $2", literal, limit);
        Ok(found.fetch_all(&self.pool).await?.into_iter().map(UserRow::from).collect())
    }

    /// Everybody, newest first.
    pub async fn user_list(&self, after: Option<Position>, limit: i64) -> Result<Vec<UserRow>, StoreError> {
        let found = users!(
            "WHERE $1::timestamptz IS NULL OR (u.created_at, u.id) < ($1, $2)
             ORDER BY u.created_at DESC, u.id DESC LIMIT $3",
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        );
        Ok(found.fetch_all(&self.pool).await?.into_iter().map(UserRow::from).collect())
    }
}

impl Tx {
    /// A person's password, as it is kept; it stays that until the transaction ends.
    pub async fn user_password_hash_held(&mut self, id: Id<User>) -> Result<Option<String>, StoreError> {
        let hash = sqlx::query_scalar!("SELECT password_hash FROM users WHERE id = $1 FOR SHARE", id.uuid());
        Ok(hash.fetch_optional(self.connection()).await?.flatten())
    }

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

    /// Holds a person until the transaction ends: changes of which teams they belong to come one after the other. Whether there is one.
    pub async fn user_lock(&mut self, id: Id<User>) -> Result<bool, StoreError> {
        let found = sqlx::query!("SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE", id.uuid());
        Ok(found.fetch_optional(self.connection()).await?.is_some())
    }

    /// Gives a person another name.
    pub async fn user_rename(&mut self, id: Id<User>, name: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE users SET name = $2, updated_at = now() WHERE id = $1", id.uuid(), name)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Gives a person another password, if the one that they have is still `before`.
    pub async fn user_set_password(
        &mut self,
        id: Id<User>,
        before: Option<&str>,
        hash: &str,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE users SET password_hash = $3, updated_at = now()
             WHERE id = $1 AND password_hash IS NOT DISTINCT FROM $2",
            id.uuid(),
            before,
            hash,
        )
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Makes a person an administrator of the platform, or ends that. Whether it changed anything.
    pub async fn user_set_admin(&mut self, id: Id<User>, is_admin: bool) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE users SET is_admin = $2, updated_at = now() WHERE id = $1 AND is_admin <> $2",
            id.uuid(),
            is_admin,
        )
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// How many administrators the platform has, all of them held until the transaction ends.
    pub async fn admins_locked(&mut self) -> Result<usize, StoreError> {
        let admins = sqlx::query!("SELECT id FROM users WHERE is_admin ORDER BY id FOR NO KEY UPDATE");
        Ok(admins.fetch_all(self.connection()).await?.len())
    }
}
