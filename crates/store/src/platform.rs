//! Keys of the platform, sealed by the caller.

use crate::{Store, StoreError};

impl Store {
    /// A sealed secret.
    pub async fn secret_find(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(sqlx::query_scalar!("SELECT sealed FROM platform_secrets WHERE name = $1", name)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Keeps a sealed secret unless there is one, and returns the one that is kept: of several replicas that start at once, all use
    /// the first one's.
    pub async fn secret_keep(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        sqlx::query!(
            "INSERT INTO platform_secrets (name, sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            name,
            sealed,
        )
        .execute(&self.pool)
        .await?;
        Ok(sqlx::query_scalar!("SELECT sealed FROM platform_secrets WHERE name = $1", name)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Replaces a sealed secret, if it is still `before`.
    pub async fn secret_replace(&self, name: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE platform_secrets SET sealed = $3 WHERE name = $1 AND sealed = $2",
            name,
            before,
            after,
        );
        Ok(done.execute(&self.pool).await?.rows_affected() > 0)
    }
}
