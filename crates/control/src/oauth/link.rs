//! The identities that an account knows.

use chrono::{DateTime, Utc};
use sandbar_store::audit::Outcome;
use sandbar_store::sign_in::IdentityRow;

use super::OAuthError;
use crate::{Control, OpContext, audit};

/// An identity at a provider.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Identity {
    pub provider: String,
    pub email: String,
    pub created_at: DateTime<Utc>,
}

impl From<IdentityRow> for Identity {
    fn from(row: IdentityRow) -> Self {
        let IdentityRow { provider, email, created_at } = row;
        Self { provider, email, created_at }
    }
}

impl Control {
    /// The caller's identities.
    pub async fn identity_list(&self, ctx: &OpContext) -> Result<Vec<Identity>, OAuthError> {
        let rows = self.store().identity_list(ctx.person()?.id).await?;
        Ok(rows.into_iter().map(Identity::from).collect())
    }

    /// Ends the caller's sign-in by a provider, unless it is their only way in.
    pub async fn identity_unlink(&self, ctx: &OpContext, provider: &str) -> Result<(), OAuthError> {
        let user = ctx.person()?.id;
        let mut tx = self.store().begin().await?;
        tx.user_lock(user).await?;
        if provider.contains('\0') || !tx.identity_delete(user, provider).await? {
            return Err(OAuthError::NotLinked { name: provider.to_owned() });
        }
        if tx.ways_in(user).await? == 0 {
            return Err(OAuthError::LastWayIn);
        }
        tx.audit(&audit::user(ctx, None, user, "identity_unlink", Outcome::Success)).await?;
        Ok(tx.commit().await?)
    }
}
