//! Sign-ins.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::{Session, Team, User};
use uuid::Uuid;

use crate::convert::{word, word_opt};
use crate::teams::Role;
use crate::{Position, Store, StoreError, Tx};

/// A sign-in to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewSessionRow<'a> {
    pub id: Id<Session>,
    pub user_id: Id<User>,
    pub user_agent: &'a str,
    pub address: Option<IpAddr>,
    pub expires_at: DateTime<Utc>,
}

/// A sign-in that counts now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct SessionRow {
    pub id: Id<Session>,
    pub user_agent: String,
    pub address: Option<IpAddr>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Who a sign-in is, as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct SignedInRow {
    pub name: String,
    pub is_admin: bool,
    pub expires_at: DateTime<Utc>,
    /// In the team that was asked for. None: not a member (any more), or the team is gone.
    pub role: Option<Role>,
}

impl Store {
    /// Who a sign-in is, if it counts now, and what they are in a team.
    pub async fn session_find(
        &self,
        id: Id<Session>,
        user: Id<User>,
        team: Option<Id<Team>>,
    ) -> Result<Option<SignedInRow>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT u.name, u.is_admin, s.expires_at, m.role AS "role?"
               FROM sessions s
               JOIN users u ON u.id = s.user_id
               LEFT JOIN (memberships m JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL)
                      ON m.user_id = u.id AND m.team_id = $3
               WHERE s.id = $1 AND s.user_id = $2 AND s.revoked_at IS NULL AND s.expires_at > now()"#,
            id.uuid(),
            user.uuid(),
            team.map(Id::uuid),
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SignedInRow {
            name: row.name,
            is_admin: row.is_admin,
            expires_at: row.expires_at,
            role: word_opt("memberships.role", row.role.as_deref())?,
        }))
    }

    /// A person's sign-ins that count now, newest first.
    pub async fn session_list(
        &self,
        user: Id<User>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<SessionRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, user_agent, host(address) AS address, created_at, last_used_at, expires_at
               FROM sessions
               WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()
                 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
               ORDER BY created_at DESC, id DESC LIMIT $4"#,
            user.uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(SessionRow {
                    id: Id::from_uuid(row.id),
                    user_agent: row.user_agent,
                    address: row.address.map(|text| word("sessions.address", &text)).transpose()?,
                    created_at: row.created_at,
                    last_used_at: row.last_used_at,
                    expires_at: row.expires_at,
                })
            })
            .collect()
    }

    /// Writes down when sign-ins were last used. Nothing is decided by that, so it waits for nobody: a row that another transaction is
    /// at keeps what it has.
    pub async fn sessions_used(&self, uses: &[(Id<Session>, DateTime<Utc>)]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = uses.iter().map(|(id, _)| id.uuid()).collect();
        let at: Vec<DateTime<Utc>> = uses.iter().map(|(_, at)| *at).collect();
        sqlx::query!(
            "UPDATE sessions s SET last_used_at = l.at
             FROM (SELECT s.id, u.at FROM UNNEST($1::uuid[], $2::timestamptz[]) AS u (id, at)
                   JOIN sessions s ON s.id = u.id
                   WHERE s.last_used_at < u.at FOR NO KEY UPDATE OF s SKIP LOCKED) AS l
             WHERE s.id = l.id",
            &ids,
            &at,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets sign-ins that ended before `before`.
    pub async fn sessions_prune(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let done = sqlx::query!("DELETE FROM sessions WHERE expires_at < $1", before);
        Ok(done.execute(&self.pool).await?.rows_affected())
    }
}

impl Tx {
    /// Adds a sign-in.
    pub async fn session_insert(&mut self, new: &NewSessionRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO sessions (id, user_id, user_agent, address, expires_at) VALUES ($1, $2, $3, $4::text::inet, $5)",
            new.id.uuid(),
            new.user_id.uuid(),
            new.user_agent,
            new.address.map(|address| address.to_string()),
            new.expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Ends a person's sign-in, from the next request on. Whether there was one to end.
    pub async fn session_revoke(&mut self, user: Id<User>, id: Id<Session>) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE sessions SET revoked_at = now()
             WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL AND expires_at > now()",
            id.uuid(),
            user.uuid(),
        );
        Ok(done.execute(self.connection()).await?.rows_affected() > 0)
    }

    /// Ends all of a person's sign-ins but one, and those that are being handed over. How many there were.
    pub async fn sessions_revoke(
        &mut self,
        user: Id<User>,
        except: Option<Id<Session>>,
    ) -> Result<u64, StoreError> {
        sqlx::query!("DELETE FROM sign_in_codes WHERE user_id = $1", user.uuid())
            .execute(self.connection())
            .await?;
        let done = sqlx::query!(
            "UPDATE sessions SET revoked_at = now()
             WHERE user_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $2",
            user.uuid(),
            except.map(Id::uuid),
        );
        Ok(done.execute(self.connection()).await?.rows_affected())
    }
}
