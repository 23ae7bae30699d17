//! What a person says of themselves.

use sandbar_store::audit::Outcome;
use secrecy::SecretString;

use super::signup::check_name;
use super::throttle::Counted;
use super::{PeopleError, User, passwords};
use crate::{Control, OpContext, audit};

/// What a person wants to change of themselves.
#[derive(Debug, Clone, Default)]
pub struct ProfileChange {
    /// Another name.
    pub name: Option<String>,
    /// Another password.
    pub password: Option<PasswordChange>,
}

/// Another password.
#[derive(Debug, Clone)]
pub struct PasswordChange {
    /// The one that they have; none for who has none yet.
    pub old: Option<SecretString>,
    /// The one that they want.
    pub new: SecretString,
}

impl Control {
    /// The caller.
    pub async fn profile(&self, ctx: &OpContext) -> Result<User, PeopleError> {
        let person = ctx.person()?;
        let found = self.store().user_find(person.id).await?;
        Ok(found.ok_or(PeopleError::NoSuchUser)?.into())
    }

    /// Changes what the caller is called or signs in with. Another password ends all their other sign-ins.
    pub async fn profile_change(&self, ctx: &OpContext, change: &ProfileChange) -> Result<User, PeopleError> {
        let person = ctx.person()?;
        let ProfileChange { name, password } = change;
        let name = name.as_deref().map(check_name).transpose()?;
        let password = match password {
            None => None,
            Some(change) => {
                passwords::check(&change.new)?;
                let before = self.checked_password(ctx, change.old.as_ref()).await?;
                Some((before, self.passwords().hash(change.new.clone()).await?))
            }
        };
        let mut tx = self.store().begin().await?;
        if let Some(name) = name {
            tx.user_rename(person.id, name).await?;
            tx.audit(&audit::user(ctx, None, person.id, "rename", Outcome::Success)).await?;
        }
        if let Some((before, hash)) = &password {
            if !tx.user_set_password(person.id, before.as_deref(), hash).await? {
                return Err(PeopleError::ChangedMeanwhile);
            }
            tx.sessions_revoke(person.id, Some(person.session)).await?;
            tx.audit(&audit::user(ctx, None, person.id, "password_change", Outcome::Success)).await?;
        }
        tx.commit().await?;
        self.profile(ctx).await
    }

    /// The caller's password as it is kept, if they know it. A stolen token must not be enough to guess it, so attempts are counted.
    async fn checked_password(
        &self,
        ctx: &OpContext,
        old: Option<&SecretString>,
    ) -> Result<Option<String>, PeopleError> {
        let person = ctx.person()?;
        let Some(hash) = self.store().user_password_hash(person.id).await? else { return Ok(None) };
        self.throttle(Counted::Person(person.id)).await?;
        let old = old.ok_or(PeopleError::WrongPassword)?;
        match self.passwords().verify(old.clone(), Some(hash.clone())).await? {
            true => Ok(Some(hash)),
            false => Err(PeopleError::WrongPassword),
        }
    }
}
