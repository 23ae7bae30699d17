//! What signing in needs besides the person: how often it was tried, identities at other providers, one-time codes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::User;

use crate::{Store, StoreError, Tx};

/// How often something may be tried: `burst` times at once, and once more each `refill`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Attempts in a row.
    pub burst: u32,
    /// Time in which one is given back.
    pub refill: Duration,
}

/// An identity at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct IdentityRow {
    pub provider: String,
    pub email: String,
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Counts an attempt. None: it is within the allowance; else how long to wait for the next.
    pub async fn attempt(
        &self,
        bucket: &[u8; 32],
        allowance: Allowance,
    ) -> Result<Option<Duration>, StoreError> {
        let (burst, refill) = (f64::from(allowance.burst), allowance.refill.as_secs_f64());
        // Refused attempts do not fill it further: whoever stops is let in again after one refill.
        let level = sqlx::query_scalar!(
            r#"INSERT INTO sign_in_attempts AS a (bucket, level, updated_at) VALUES ($1, 1, clock_timestamp())
               ON CONFLICT (bucket) DO UPDATE SET
                   level = LEAST($2::float8 + 1, 1 + GREATEST(0,
                       LEAST(a.level, $2) - EXTRACT(EPOCH FROM clock_timestamp() - a.updated_at)::float8 / $3::float8)),
                   updated_at = clock_timestamp()
               RETURNING level"#,
            bucket,
            burst,
            refill,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((level > burst).then(|| Duration::from_secs_f64(((level - burst) * refill).max(1.0))))
    }

    /// Forgets buckets that nobody filled since `before`.
    pub async fn attempts_prune(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let done = sqlx::query!("DELETE FROM sign_in_attempts WHERE updated_at < $1", before);
        Ok(done.execute(&self.pool).await?.rows_affected())
    }

    /// Forgets codes that expired.
    pub async fn sign_in_codes_prune(&self) -> Result<u64, StoreError> {
        let done = sqlx::query!("DELETE FROM sign_in_codes WHERE expires_at < now()");
        Ok(done.execute(&self.pool).await?.rows_affected())
    }

    /// Who an identity belongs to.
    pub async fn identity_find(&self, provider: &str, subject: &str) -> Result<Option<Id<User>>, StoreError> {
        let user = sqlx::query_scalar!(
            "SELECT user_id FROM oauth_identities WHERE provider = $1 AND subject = $2",
            provider,
            subject,
        );
        Ok(user.fetch_optional(&self.pool).await?.map(Id::from_uuid))
    }

    /// A person's identities, by provider.
    pub async fn identity_list(&self, user: Id<User>) -> Result<Vec<IdentityRow>, StoreError> {
        Ok(sqlx::query_as!(
            IdentityRow,
            "SELECT provider, email, created_at FROM oauth_identities WHERE user_id = $1 ORDER BY provider",
            user.uuid(),
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

impl Tx {
    /// Empties a bucket.
    pub async fn attempts_forget(&mut self, bucket: &[u8; 32]) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM sign_in_attempts WHERE bucket = $1", bucket)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Lets a person sign in by an identity.
    pub async fn identity_insert(
        &mut self,
        provider: &str,
        subject: &str,
        user: Id<User>,
        email: &str,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO oauth_identities (provider, subject, user_id, email) VALUES ($1, $2, $3, $4)",
            provider,
            subject,
            user.uuid(),
            email,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Ends a person's sign-in by a provider. Whether there was one.
    pub async fn identity_delete(&mut self, user: Id<User>, provider: &str) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "DELETE FROM oauth_identities WHERE user_id = $1 AND provider = $2",
            user.uuid(),
            provider,
        );
        Ok(done.execute(self.connection()).await?.rows_affected() > 0)
    }

    /// How many ways a person has to sign in: a password, and each identity. The person must be locked.
    pub async fn ways_in(&mut self, user: Id<User>) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT (u.password_hash IS NOT NULL)::int
                    + (SELECT count(*) FROM oauth_identities i WHERE i.user_id = u.id) AS "ways!"
               FROM users u WHERE u.id = $1"#,
            user.uuid(),
        )
        .fetch_one(self.connection())
        .await?)
    }

    /// Keeps a one-time code.
    pub async fn sign_in_code_insert(
        &mut self,
        code_hash: &[u8; 32],
        user: Id<User>,
        expires_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO sign_in_codes (code_hash, user_id, expires_at) VALUES ($1, $2, $3)",
            code_hash,
            user.uuid(),
            expires_at,
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Uses a one-time code up: who it is for, if it still counted.
    pub async fn sign_in_code_take(&mut self, code_hash: &[u8; 32]) -> Result<Option<Id<User>>, StoreError> {
        let user = sqlx::query_scalar!(
            "DELETE FROM sign_in_codes WHERE code_hash = $1 AND expires_at > now() RETURNING user_id",
            code_hash,
        );
        Ok(user.fetch_optional(self.connection()).await?.map(Id::from_uuid))
    }
}
