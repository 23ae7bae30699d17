//! From a credential to an [`Actor`].

use sandbar_store::StoreError;
use sandbar_types::ErrorCode;
use secrecy::SecretString;

use crate::access::store_code;
use crate::people::tokens::Checked;
use crate::secrets::{SecretError, random_token, token_hash};
use crate::{Actor, Control};

/// What every API key begins with; E2B's clients insist on it.
const KEY_PREFIX: &str = "e2b_";
/// Random bytes of a key: 40 hexadecimal digits.
const KEY_BYTES: usize = 20;
/// Characters of a key that lists show.
const SHOWN: usize = 12;

/// Why a credential is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It is malformed, unknown, revoked or expired: the caller is not told which.
    #[error("the credential is not valid")]
    Invalid,
    /// The platform's keys cannot be read.
    #[error("the platform's keys cannot be read")]
    Secret(#[from] SecretError),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl AuthError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid => ErrorCode::Unauthorized,
            Self::Secret(_) => ErrorCode::InternalError,
            Self::Store(error) => store_code(error),
        }
    }
}

/// A new API key.
pub(crate) fn new_api_key() -> SecretString {
    random_token::<KEY_BYTES>(KEY_PREFIX)
}

/// Whether text has the form of a key. Anything else is refused without asking the database.
#[must_use]
pub fn is_api_key(text: &str) -> bool {
    text.strip_prefix(KEY_PREFIX).is_some_and(|rest| {
        rest.len() == 2 * KEY_BYTES && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The part of a key that lists show.
pub(crate) fn shown_prefix(key: &str) -> &str {
    key.get(..SHOWN).unwrap_or(key)
}

impl Control {
    /// Who an API key acts for.
    pub async fn authenticate_api_key(&self, presented: &str) -> Result<Actor, AuthError> {
        if !is_api_key(presented) {
            return Err(AuthError::Invalid);
        }
        let hash = token_hash(&presented.into());
        let key = self.store().api_key_find(&hash).await?.ok_or(AuthError::Invalid)?;
        self.last_use().key(key.id);
        Ok(Actor::ApiKey { id: key.id, name: key.name, team: key.team_id })
    }

    /// Who a sign-in's token is of, and what the database says of them now.
    pub async fn authenticate_user(&self, presented: &str) -> Result<Actor, AuthError> {
        let token = match self.user_tokens().check(presented) {
            Checked::UnknownKey => {
                // Another replica may sign with a new one.
                self.user_tokens().look_for_key(self.store()).await?;
                self.user_tokens().check(presented)
            }
            known => known,
        };
        let Checked::Valid(token) = token else { return Err(AuthError::Invalid) };
        let found = self.store().session_find(token.session, token.user, token.team).await?;
        let person = found.ok_or(AuthError::Invalid)?;
        self.last_use().session(token.session);
        Ok(Actor::User {
            id: token.user,
            session: token.session,
            name: person.name,
            team: person.role.and(token.team),
            is_admin: person.is_admin,
        })
    }

    /// Which host a host token belongs to. A host that was deleted is still told who it is: what it asks for is then not found.
    pub async fn authenticate_host(&self, presented: &str) -> Result<Actor, AuthError> {
        let token = self.host_tokens().check(presented).ok_or(AuthError::Invalid)?;
        match self.store().host_find(token.id).await? {
            Some(host) if host.credential_epoch != token.epoch => Err(AuthError::Invalid),
            _ => Ok(Actor::Host { id: token.id }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn new_keys_have_the_form_of_one_and_others_do_not() {
        let key = new_api_key();
        let key = key.expose_secret();
        assert!(is_api_key(key), "{key}");
        assert_eq!(key.len(), 44);
        assert_eq!(shown_prefix(key), &key[..12]);
        for bad in
            ["", "e2b_", &key[..43], &format!("{key}0"), &key.to_uppercase(), &key.replace("e2b_", "e2c_")]
        {
            assert!(!is_api_key(bad), "{bad}");
        }
    }
}
