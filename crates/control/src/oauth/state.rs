//! What a browser keeps between the way out and the way back: a cookie that only the platform can make. It is authenticated, not
//! secret: what is in it is the browser's own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sandbar_store::Store;
use sandbar_types::Id;
use sandbar_types::id::{Session, User};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::secrets::{MasterKey, SecretError, random};

/// What a person set out for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    SignIn,
    SignUp,
    /// To let an account that they are signed in to know the identity.
    Link {
        user: Id<User>,
        session: Id<Session>,
    },
}

/// What the cookie says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) provider: String,
    /// Goes to the provider and comes back.
    pub(super) state: String,
    /// Comes back inside the id token.
    pub(super) nonce: String,
    /// PKCE: its hash went to the provider.
    pub(super) verifier: String,
    pub(super) purpose: Purpose,
    /// Unix time, in seconds.
    pub(super) expires_at: i64,
}

impl State {
    pub(super) fn new(provider: &str, purpose: Purpose, expires_at: i64) -> Self {
        let word = || URL_SAFE_NO_PAD.encode(random::<32>());
        Self {
            provider: provider.to_owned(),
            state: word(),
            nonce: word(),
            verifier: word(),
            purpose,
            expires_at,
        }
    }

    /// PKCE's S256.
    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.verifier))
    }
}

/// Signs cookies.
#[derive(Clone)]
pub(crate) struct StateKey([u8; 32]);

impl StateKey {
    const NAME: &str = "oauth-state-key";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let bytes = master.secret(store, Self::NAME, || random::<32>().to_vec()).await?;
        Ok(Self(bytes.try_into().map_err(|_| SecretError::Damaged { name: Self::NAME })?))
    }

    fn mac(&self, body: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(body.as_bytes());
        mac
    }

    pub(super) fn seal(&self, state: &State) -> Option<String> {
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(state).ok()?);
        let tag = URL_SAFE_NO_PAD.encode(self.mac(&body).finalize().into_bytes());
        Some(format!("{body}.{tag}"))
    }

    /// What a cookie says, if it is ours and in time.
    pub(super) fn open(&self, cookie: &str, now: i64) -> Option<State> {
        let (body, tag) = cookie.split_once('.')?;
        self.mac(body).verify_slice(&URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
        let state: State = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        (now < state.expires_at).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_opens_as_it_was_made_and_in_time_only() {
        let key = StateKey(random());
        let state = State::new("github", Purpose::SignIn, 100);
        let cookie = key.seal(&state).unwrap();
        assert_eq!(key.open(&cookie, 99), Some(state));
        assert_eq!(key.open(&cookie, 100), None);
        assert_eq!(StateKey(random()).open(&cookie, 99), None);
        let (body, tag) = cookie.split_once('.').unwrap();
        for bad in [
            "",
            ".",
            body,
            &format!("{body}."),
            &format!(".{tag}"),
            &format!("x{cookie}"),
            &format!("{cookie}A"),
        ] {
            assert_eq!(key.open(bad, 99), None, "{bad}");
        }
    }

    #[test]
    fn the_challenge_is_the_one_of_the_standard() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        let state = State { verifier, ..State::new("x", Purpose::SignUp, 0) };
        assert_eq!(state.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
