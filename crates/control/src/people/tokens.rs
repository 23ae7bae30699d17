//! The token of a sign-in: a JWT, signed with a key of the platform. It names the session and the team that is acted for; the rest
//! are hints for whoever shows them. What counts is read from the database at every decision.

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, get_current_timestamp};
use sandbar_store::Store;
use sandbar_types::Id;
use sandbar_types::id::{Session, Team, User};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::access::Role;
use crate::secrets::{MasterKey, SecretError, random};

const ISSUER: &str = "sandbar";
const AUDIENCE: &str = "user";

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Id<User>,
    sid: Id<Session>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    team: Option<Id<Team>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    name: String,
    is_admin: bool,
    iat: u64,
    exp: u64,
}

/// What a token is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenFor<'a> {
    pub(crate) user: Id<User>,
    pub(crate) session: Id<Session>,
    pub(crate) team: Option<(Id<Team>, Role)>,
    pub(crate) name: &'a str,
    pub(crate) is_admin: bool,
    pub(crate) expires_at: DateTime<Utc>,
}

/// Which sign-in a token is of, and which team it asks to act for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenSession {
    pub(crate) user: Id<User>,
    pub(crate) session: Id<Session>,
    pub(crate) team: Option<Id<Team>>,
}

/// Signs and checks tokens: signs with the newest key, takes those of the ones before until the last that they signed has expired.
pub(crate) struct UserTokens {
    master: MasterKey,
    ring: RwLock<Vec<Key>>,
    /// When the keys were last read because a token named one that is not known here.
    asked: Mutex<Instant>,
}

struct Key {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// The keys as they are kept, newest first.
#[derive(Serialize, Deserialize)]
struct Kept {
    keys: Vec<KeptKey>,
}

#[derive(Clone, Serialize, Deserialize)]
struct KeptKey {
    key_id: String,
    key: String,
    made_at: DateTime<Utc>,
}

impl KeptKey {
    fn new() -> Self {
        Self { key_id: hex::encode(random::<8>()), key: hex::encode(random::<32>()), made_at: Utc::now() }
    }
}

/// Whether a token is one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Valid(TokenSession),
    /// Signed with a key that is not known here: with a newer one, perhaps.
    UnknownKey,
    Invalid,
}

const DAMAGED: SecretError = SecretError::Damaged { name: UserTokens::NAME };

impl UserTokens {
    const NAME: &str = "user-token-keys";
    /// Time between two readings because of unknown keys: anybody can make up tokens that name some.
    const ASK_PAUSE: Duration = Duration::from_secs(1);

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let tokens =
            Self { master: master.clone(), ring: RwLock::new(Vec::new()), asked: Mutex::new(Instant::now()) };
        tokens.reload(store).await?;
        Ok(tokens)
    }

    /// Reads the keys, which another replica may have replaced.
    pub(crate) async fn reload(&self, store: &Store) -> Result<(), SecretError> {
        let first = serde_json::to_vec(&Kept { keys: vec![KeptKey::new()] }).map_err(|_| DAMAGED)?;
        let kept = self.master.secret(store, Self::NAME, || first).await?;
        let Kept { keys } = serde_json::from_slice(&kept).map_err(|_| DAMAGED)?;
        let ring = keys.iter().map(Key::read).collect::<Result<Vec<_>, _>>()?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(())
    }

    /// The same, because a token names a key that is not known here; not too often.
    pub(crate) async fn look_for_key(&self, store: &Store) -> Result<(), SecretError> {
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.elapsed() < Self::ASK_PAUSE {
                return Ok(());
            }
            *asked = Instant::now();
        }
        self.reload(store).await
    }

    /// Signs with a new key from now on. Of the ones before, those stay that may have signed a token that has not expired.
    pub(crate) async fn rotate(&self, store: &Store, token_life: Duration) -> Result<(), SecretError> {
        let next = |kept: &[u8]| {
            let Kept { keys } = serde_json::from_slice(kept).ok()?;
            let fresh = KeptKey::new();
            // A key is in use until the one after it is known to all replicas: an hour is more than enough.
            let needed = |successor: &KeptKey| {
                let idle =
                    fresh.made_at.signed_duration_since(successor.made_at).to_std().unwrap_or_default();
                idle < token_life + Duration::from_secs(3600)
            };
            let successors = std::iter::once(&fresh).chain(&keys);
            let kept = keys.iter().zip(successors).take_while(|(_, successor)| needed(successor));
            let keys: Vec<_> =
                std::iter::once(fresh.clone()).chain(kept.map(|(key, _)| key.clone())).collect();
            serde_json::to_vec(&Kept { keys }).ok()
        };
        self.master.replace_secret(store, Self::NAME, next).await?;
        self.reload(store).await
    }

    pub(crate) fn issue(&self, token: &TokenFor<'_>) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let TokenFor { user, session, team, name, is_admin, expires_at } = *token;
        self.sign(&Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            sid: session,
            team: team.map(|(team, _)| team),
            role: team.map(|(_, role)| role.as_str().to_owned()),
            name: name.to_owned(),
            is_admin,
            iat: get_current_timestamp(),
            exp: u64::try_from(expires_at.timestamp()).unwrap_or_default(),
        })
    }

    fn sign(&self, claims: &Claims) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let newest = ring.first().ok_or(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat)?;
        let header = Header { kid: Some(newest.id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &newest.encoding).map(SecretString::from)
    }

    /// Which sign-in this token is of, if it is one of ours and has not expired.
    pub(crate) fn check(&self, token: &str) -> Checked {
        let Ok(Header { kid: Some(key_id), .. }) = jsonwebtoken::decode_header(token) else {
            return Checked::Invalid;
        };
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = ring.iter().find(|key| key.id == key_id) else { return Checked::UnknownKey };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        match jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation) {
            Ok(decoded) => {
                let Claims { sub, sid, team, .. } = decoded.claims;
                Checked::Valid(TokenSession { user: sub, session: sid, team })
            }
            Err(_) => Checked::Invalid,
        }
    }
}

impl Key {
    fn read(kept: &KeptKey) -> Result<Self, SecretError> {
        let key = hex::decode(&kept.key).map_err(|_| DAMAGED)?;
        Ok(Self {
            id: kept.key_id.clone(),
            encoding: EncodingKey::from_secret(&key),
            decoding: DecodingKey::from_secret(&key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn named(id: &str, key: u8) -> UserTokens {
        let key_id = id.to_owned();
        let kept = KeptKey { key_id, key: hex::encode([key; 32]), made_at: Utc::now() };
        UserTokens {
            master: MasterKey::from_hex(&"00".repeat(32)).unwrap(),
            ring: RwLock::new(vec![Key::read(&kept).unwrap()]),
            asked: Mutex::new(Instant::now()),
        }
    }

    fn tokens(key: u8) -> UserTokens {
        named("k1", key)
    }

    fn claims() -> Claims {
        let now = get_current_timestamp();
        Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: Id::new(),
            sid: Id::new(),
            team: None,
            role: None,
            name: "Ann".to_owned(),
            is_admin: true,
            iat: now,
            exp: now + 60,
        }
    }

    #[test]
    fn a_token_names_its_sign_in_and_team() {
        let (user, session, team) = (Id::new(), Id::new(), Id::new());
        let expires_at = Utc::now() + Duration::from_secs(60);
        let token = TokenFor {
            user,
            session,
            team: Some((team, Role::Member)),
            name: "Ann",
            is_admin: false,
            expires_at,
        };
        let token = tokens(1).issue(&token).unwrap();
        let told = TokenSession { user, session, team: Some(team) };
        assert_eq!(tokens(1).check(token.expose_secret()), Checked::Valid(told));
        assert_eq!(tokens(2).check(token.expose_secret()), Checked::Invalid);
        assert_eq!(named("k2", 1).check(token.expose_secret()), Checked::UnknownKey);
    }

    #[test]
    fn tokens_of_another_audience_issuer_or_time_and_unsigned_ones_are_refused() {
        let check = |claims: &Claims| tokens(1).check(tokens(1).sign(claims).unwrap().expose_secret());
        let good = claims();
        assert!(matches!(check(&good), Checked::Valid(_)));
        assert_eq!(check(&Claims { exp: good.iat - 3600, ..good.clone() }), Checked::Invalid);
        assert_eq!(check(&Claims { aud: "host".to_owned(), ..good.clone() }), Checked::Invalid);
        assert_eq!(check(&Claims { iss: "elsewhere".to_owned(), ..good.clone() }), Checked::Invalid);
        let token = tokens(1).sign(&good).unwrap();
        let (head, _) = token.expose_secret().rsplit_once('.').unwrap();
        // {"alg":"none","kid":"k1"}
        let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{}.", head.split_once('.').unwrap().1);
        for bad in ["", "a.b.c", head, &format!("{head}."), &unsigned] {
            assert_eq!(tokens(1).check(bad), Checked::Invalid, "{bad}");
        }
    }
}
