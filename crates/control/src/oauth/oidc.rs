//! OpenID Connect: discovery, the code for an id token, and what makes that token believable: signed with a key of the issuer's
//! that it publishes now, by a method with two keys, for us, for this sign-in, in time.

use jsonwebtoken::jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::ProvenIdentity;
use super::config::Provider;
use super::http::{Http, ProviderError, with_query};
use super::state::State;

/// Signatures that are taken. None of one shared key: who can check it could make it.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What an issuer says of itself.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: SecretString,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: Verified,
    #[serde(default)]
    name: Option<String>,
}

/// Some issuers write it as text.
#[derive(Default, Deserialize)]
#[serde(from = "serde_json::Value")]
enum Verified {
    Yes,
    #[default]
    No,
}

impl From<serde_json::Value> for Verified {
    fn from(value: serde_json::Value) -> Self {
        if value == true || value == "true" { Self::Yes } else { Self::No }
    }
}

/// An issuer that was asked what it is.
pub(super) struct Issuer<'a> {
    provider: &'a Provider,
    http: &'a Http,
    discovered: Discovered,
}

impl<'a> Issuer<'a> {
    pub(super) async fn discover(
        provider: &'a Provider,
        issuer: &str,
        http: &'a Http,
    ) -> Result<Self, ProviderError> {
        let discovered: Discovered = http.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if discovered.issuer.trim_end_matches('/') != issuer {
            return Err(ProviderError::OtherIssuer { said: discovered.issuer });
        }
        let endpoints =
            [&discovered.authorization_endpoint, &discovered.token_endpoint, &discovered.jwks_uri];
        if issuer.starts_with("https://") && !endpoints.iter().all(|url| url.starts_with("https://")) {
            return Err(ProviderError::Insecure);
        }
        Ok(Self { provider, http, discovered })
    }

    /// Where people are sent to.
    pub(super) fn way_out(&self, state: &State, redirect_uri: &str) -> String {
        with_query(
            &self.discovered.authorization_endpoint,
            &[
                ("response_type", "code"),
                ("client_id", &self.provider.client_id),
                ("redirect_uri", redirect_uri),
                ("scope", "openid email profile"),
                ("state", &state.state),
                ("nonce", &state.nonce),
                ("code_challenge", &state.challenge()),
                ("code_challenge_method", "S256"),
            ],
        )
    }

    /// Who came back.
    pub(super) async fn identity(
        &self,
        state: &State,
        code: &str,
        redirect_uri: &str,
    ) -> Result<ProvenIdentity, ProviderError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("client_id", &self.provider.client_id),
            ("client_secret", self.provider.client_secret.expose_secret()),
            ("code_verifier", &state.verifier),
        ];
        let tokens: Tokens = self.http.post_form(&self.discovered.token_endpoint, &form).await?;
        let keys: JwkSet = self.http.get(&self.discovered.jwks_uri).await?;
        let claims = self.check(tokens.id_token.expose_secret(), &keys, &state.nonce)?;
        Ok(ProvenIdentity {
            subject: claims.sub,
            verified_email: claims.email.filter(|_| matches!(claims.email_verified, Verified::Yes)),
            name: claims.name,
        })
    }

    fn check(&self, token: &str, keys: &JwkSet, nonce: &str) -> Result<Claims, ProviderError> {
        let header = jsonwebtoken::decode_header(token).map_err(ProviderError::Token)?;
        let mut fitting = keys.keys.iter().filter(|key| is_for(key, header.kid.as_deref(), header.alg));
        // Without a key id there must be no doubt which key is meant.
        let (Some(key), None) = (fitting.next(), fitting.next()) else { return Err(ProviderError::Key) };
        let key = DecodingKey::from_jwk(key).map_err(ProviderError::Token)?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.discovered.issuer]);
        validation.set_audience(&[&self.provider.client_id]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        let decoded = jsonwebtoken::decode::<Claims>(token, &key, &validation);
        let claims = decoded.map_err(ProviderError::Token)?.claims;
        let for_us = claims.azp.as_deref().is_none_or(|azp| azp == self.provider.client_id);
        if claims.nonce.as_deref() != Some(nonce) || !for_us {
            return Err(ProviderError::Nonce);
        }
        Ok(claims)
    }
}

/// Whether a key may have made a signature.
fn is_for(key: &Jwk, id: Option<&str>, algorithm: Algorithm) -> bool {
    let common = &key.common;
    let names = id.is_none_or(|id| common.key_id.as_deref() == Some(id));
    let signs = common.public_key_use.as_ref().is_none_or(|to| *to == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|to| to.contains(&KeyOperations::Verify));
    let by = common.key_algorithm.is_none_or(|given| given.to_string() == format!("{algorithm:?}"));
    // Before all else: a published key must never serve as a shared one.
    ALGORITHMS.contains(&algorithm) && names && signs && by
}
