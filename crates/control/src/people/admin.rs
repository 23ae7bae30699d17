//! What the platform's administrators, and its operator on the command line, may do to people.

use sandbar_store::Position;
use sandbar_store::audit::{Event, Outcome};
use sandbar_store::users::UserRow;
use sandbar_types::{Id, id};
use secrecy::SecretString;
use serde_json::json;

use super::{PeopleError, User, passwords};
use crate::{Control, OpContext, Page, PageRequest, audit};

/// Whether somebody administers the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformRole {
    /// They do.
    Admin,
    /// They do not.
    None,
}

impl Control {
    /// Everybody, newest first.
    pub async fn user_list(&self, ctx: &OpContext, page: &PageRequest) -> Result<Page<User>, PeopleError> {
        ctx.platform_admin()?;
        let rows = self.store().user_list(page.after(), page.fetch()).await?;
        let position = |row: &UserRow| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, User::from))
    }

    /// The person with this address.
    pub async fn user_by_email(&self, ctx: &OpContext, email: &str) -> Result<User, PeopleError> {
        ctx.platform_admin()?;
        let found = self.store().user_by_email(email).await?;
        Ok(found.ok_or(PeopleError::NoSuchUser)?.into())
    }

    /// Makes somebody an administrator of the platform, or ends that. One is always left.
    pub async fn user_set_platform_role(
        &self,
        ctx: &OpContext,
        user: Id<id::User>,
        role: PlatformRole,
    ) -> Result<User, PeopleError> {
        ctx.platform_admin()?;
        let found = self.store().user_find(user).await?.ok_or(PeopleError::NoSuchUser)?;
        let mut tx = self.store().begin().await?;
        let admins = tx.admins_locked().await?;
        if !tx.user_lock(user).await? {
            return Err(PeopleError::NoSuchUser);
        }
        let is_admin = role == PlatformRole::Admin;
        if tx.user_set_admin(user, is_admin).await? {
            if !is_admin && admins <= 1 {
                return Err(PeopleError::LastAdmin);
            }
            let action = if is_admin { "admin_grant" } else { "admin_revoke" };
            let event = audit::user(ctx, None, user, action, Outcome::Success);
            tx.audit(&Event { metadata: json!({ "name": found.name }), ..event }).await?;
        }
        tx.commit().await?;
        let found = self.store().user_find(user).await?;
        Ok(found.ok_or(PeopleError::NoSuchUser)?.into())
    }

    /// Gives somebody who lost theirs another password, and ends all their sign-ins. For the operator.
    pub async fn user_reset_password(
        &self,
        ctx: &OpContext,
        user: Id<id::User>,
        password: &SecretString,
    ) -> Result<(), PeopleError> {
        ctx.platform_admin()?;
        passwords::check(password)?;
        let before = self.store().user_password_hash(user).await?;
        let hash = self.passwords().hash(password.clone()).await?;
        let mut tx = self.store().begin().await?;
        if !tx.user_lock(user).await? {
            return Err(PeopleError::NoSuchUser);
        }
        if !tx.user_set_password(user, before.as_deref(), &hash).await? {
            return Err(PeopleError::ChangedMeanwhile);
        }
        tx.sessions_revoke(user, None).await?;
        tx.audit(&audit::user(ctx, None, user, "password_reset", Outcome::Success)).await?;
        Ok(tx.commit().await?)
    }

    /// Signs tokens with a new key from now on. Nobody is signed out: those that are signed with the one before count until they expire.
    pub async fn rotate_token_key(&self, ctx: &OpContext) -> Result<(), PeopleError> {
        ctx.platform_admin()?;
        Ok(self.user_tokens().rotate(self.store(), self.config().session_life).await?)
    }
}
