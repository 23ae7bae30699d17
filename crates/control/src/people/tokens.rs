//! The token of a sign-in: a JWT, signed with a key of the platform. It names the session and the team that is acted for; the rest
//! are hints for whoever shows them. What counts is read from the database at every decision.

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

/// Signs and checks tokens.
pub(crate) struct UserTokens {
    key_id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key_id: String,
    key: String,
}

impl UserTokens {
    const NAME: &str = "user-token-key";

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
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map(SecretString::from)
    }

    /// Which sign-in this token is of. None when it is not one of ours, or expired.
    pub(crate) fn check(&self, token: &str) -> Option<TokenSession> {
        if jsonwebtoken::decode_header(token).ok()?.kid.as_deref() != Some(&self.key_id) {
            return None;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
        Some(TokenSession { user: claims.sub, session: claims.sid, team: claims.team })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use secrecy::ExposeSecret as _;

    fn tokens(key: u8) -> UserTokens {
        UserTokens::new("k1".to_owned(), &[key; 32])
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
        let named = TokenSession { user, session, team: Some(team) };
        assert_eq!(tokens(1).check(token.expose_secret()), Some(named));
        assert_eq!(tokens(2).check(token.expose_secret()), None);
        assert_eq!(UserTokens::new("k2".to_owned(), &[1; 32]).check(token.expose_secret()), None);
    }

    #[test]
    fn tokens_of_another_audience_issuer_or_time_and_unsigned_ones_are_refused() {
        let check = |claims: &Claims| tokens(1).check(tokens(1).sign(claims).unwrap().expose_secret());
        let good = claims();
        assert!(check(&good).is_some());
        assert_eq!(check(&Claims { exp: good.iat - 3600, ..good.clone() }), None);
        assert_eq!(check(&Claims { aud: "host".to_owned(), ..good.clone() }), None);
        assert_eq!(check(&Claims { iss: "elsewhere".to_owned(), ..good.clone() }), None);
        let token = tokens(1).sign(&good).unwrap();
        let (head, _) = token.expose_secret().rsplit_once('.').unwrap();
        // {"alg":"none","kid":"k1"}
        let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{}.", head.split_once('.').unwrap().1);
        for bad in ["", "a.b.c", head, &format!("{head}."), &unsigned] {
            assert_eq!(tokens(1).check(bad), None, "{bad}");
        }
    }
}
