//! The token that a host shows with its heartbeats: a JWT, signed with a key of the platform.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, get_current_timestamp};
use sandbar_store::Store;
use sandbar_types::Id;
use sandbar_types::id::Host;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::secrets::{MasterKey, SecretError, random};

const ISSUER: &str = "sandbar";
const AUDIENCE: &str = "host";

/// What a host token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Id<Host>,
    /// The epoch of the host's credentials: a new registration ends the tokens of the one before.
    epoch: i32,
    iat: u64,
    exp: u64,
    jti: Uuid,
}

/// A host, as its token names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenHost {
    pub(crate) id: Id<Host>,
    pub(crate) epoch: i32,
}

/// Signs and checks host tokens.
pub(crate) struct HostTokens {
    key_id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key_id: String,
    key: String,
}

impl HostTokens {
    const NAME: &str = "host-token-key";
    /// How long a token lasts.
    pub(super) const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let damaged = || SecretError::Damaged { name: Self::NAME };
        let fresh = Kept { key_id: hex::encode(random::<8>()), key: hex::encode(random::<32>()) };
        let fresh = serde_json::to_vec(&fresh).map_err(|_| damaged())?;
        let kept = master.secret(store, Self::NAME, || fresh).await?;
        let Kept { key_id, key } = serde_json::from_slice(&kept).map_err(|_| damaged())?;
        Ok(Self::new(key_id, &hex::decode(key).map_err(|_| damaged())?))
    }

    fn new(key_id: String, key: &[u8]) -> Self {
        Self { key_id, encoding: EncodingKey::from_secret(key), decoding: DecodingKey::from_secret(key) }
    }

    /// A token for a host.
    pub(crate) fn issue(&self, host: TokenHost) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let now = get_current_timestamp();
        self.sign(&Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: host.id,
            epoch: host.epoch,
            iat: now,
            exp: now + Self::LIFE.as_secs(),
            jti: Uuid::new_v4(),
        })
    }

    fn sign(&self, claims: &Claims) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map(SecretString::from)
    }

    /// Whose token this is. None when it is not one of ours, or expired.
    pub(crate) fn check(&self, token: &str) -> Option<TokenHost> {
        if jsonwebtoken::decode_header(token).ok()?.kid.as_deref() != Some(&self.key_id) {
            return None;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
        Some(TokenHost { id: claims.sub, epoch: claims.epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn tokens(key: u8) -> HostTokens {
        HostTokens::new("k1".to_owned(), &[key; 32])
    }

    #[test]
    fn a_token_names_its_host_and_epoch() {
        let host = TokenHost { id: Id::new(), epoch: 3 };
        let token = tokens(1).issue(host).unwrap();
        assert_eq!(tokens(1).check(token.expose_secret()), Some(host));
    }

    #[test]
    fn tokens_of_another_key_audience_or_time_are_refused() {
        let host = TokenHost { id: Id::new(), epoch: 1 };
        let token = tokens(1).issue(host).unwrap();
        assert_eq!(tokens(2).check(token.expose_secret()), None);
        let other_key = HostTokens::new("k2".to_owned(), &[1; 32]);
        assert_eq!(other_key.check(token.expose_secret()), None);

        let now = get_current_timestamp();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: host.id,
            epoch: 1,
            iat: now,
            exp: now + 60,
            jti: Uuid::nil(),
        };
        let check = |claims: &Claims| tokens(1).check(tokens(1).sign(claims).unwrap().expose_secret());
        assert_eq!(check(&claims), Some(host));
        assert_eq!(check(&Claims { exp: now - 3600, ..claims.clone() }), None);
        assert_eq!(check(&Claims { aud: "user".to_owned(), ..claims.clone() }), None);
        assert_eq!(check(&Claims { iss: "elsewhere".to_owned(), ..claims }), None);
    }

    #[test]
    fn unsigned_and_broken_tokens_are_refused() {
        let token = tokens(1).issue(TokenHost { id: Id::new(), epoch: 1 }).unwrap();
        let (head, _) = token.expose_secret().rsplit_once('.').unwrap();
        // {"alg":"none","kid":"k1"}
        let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{}.", head.split_once('.').unwrap().1);
        for bad in ["", "a.b.c", head, &format!("{head}."), &unsigned] {
            assert_eq!(tokens(1).check(bad), None, "{bad}");
        }
    }
}
