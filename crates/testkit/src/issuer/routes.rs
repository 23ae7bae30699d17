//! What the issuer answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Form, Query, State as WithState};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::keys::SigningKey;
use super::{Account, CLIENT_ID, CLIENT_SECRET, Fault, Grant, Shared};

type Params = HashMap<String, String>;
type Known = WithState<Arc<Shared>>;

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(published_keys))
        .route("/authorize", get(authorize))
        .route("/token", post(token))
        .route("/login/oauth/authorize", get(authorize))
        .route("/login/oauth/access_token", post(github_token))
        .route("/api/v3/user", get(github_user))
        .route("/api/v3/user/emails", get(github_emails))
        .with_state(shared)
}

async fn discovery(WithState(issuer): Known) -> Json<Value> {
    let url = &issuer.url;
    let foreign = issuer.state().fault == Some(Fault::DiscoveryIssuer);
    Json(json!({
        "issuer": if foreign { "https://elsewhere.example" } else { url },
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
    }))
}

async fn published_keys(WithState(issuer): Known) -> Json<Value> {
    Json(json!({"keys": [issuer.state().key.jwk()]}))
}

/// A browser comes. The client is held to what the protocol asks: a redirect, a state, a challenge.
async fn authorize(WithState(issuer): Known, Query(query): Query<Params>) -> Response {
    let given = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (redirect_uri, state, challenge) = (given("redirect_uri"), given("state"), given("code_challenge"));
    let pkce = given("code_challenge_method") == "S256" && challenge.len() == 43;
    if given("client_id") != CLIENT_ID || redirect_uri.is_empty() || state.len() < 32 || !pkce {
        return (StatusCode::BAD_REQUEST, "not a request that this issuer takes").into_response();
    }
    let mut known = issuer.state();
    let answer = match known.account.clone() {
        None => "error=access_denied".to_owned(),
        Some(account) => {
            let code = Uuid::new_v4().simple().to_string();
            let nonce = query.get("nonce").cloned();
            known.codes.insert(
                code.clone(),
                Grant { account, redirect_uri: redirect_uri.clone(), challenge, nonce },
            );
            format!("code={code}")
        }
    };
    let location = format!("{redirect_uri}?{answer}&state={state}");
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

/// What a code stands for, if whoever brings it is who asked for it. A code is used up, right or wrong.
fn redeem(issuer: &Shared, form: &Params) -> Option<Grant> {
    let given = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let grant = issuer.state().codes.remove(given("code"))?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(given("code_verifier")));
    let client = given("client_id") == CLIENT_ID && given("client_secret") == CLIENT_SECRET;
    let proven = challenge == grant.challenge && given("redirect_uri") == grant.redirect_uri;
    (client && proven).then_some(grant)
}

async fn token(WithState(issuer): Known, Form(form): Form<Params>) -> Response {
    let is_code = form.get("grant_type").is_some_and(|grant| grant == "authorization_code");
    let Some(grant) = redeem(&issuer, &form).filter(|_| is_code) else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"}))).into_response();
    };
    let known = issuer.state();
    if known.fault == Some(Fault::TokenEndpoint) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let id_token = id_token(&issuer.url, &grant, known.fault, &known.key);
    Json(json!({"access_token": "unused", "token_type": "Bearer", "id_token": id_token})).into_response()
}

fn id_token(url: &str, grant: &Grant, fault: Option<Fault>, key: &SigningKey) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = |wanted| fault == Some(wanted);
    let Account { subject, email, email_verified, name } = &grant.account;
    let claims = json!({
        "iss": if at(Fault::TokenIssuer) { "https://elsewhere.example" } else { url },
        "aud": if at(Fault::Audience) { "another-client" } else { CLIENT_ID },
        "sub": subject.to_string(),
        "nonce": if at(Fault::Nonce) { Some("another") } else { grant.nonce.as_deref() },
        "iat": now,
        "exp": if at(Fault::Expired) { now - 3600 } else { now + 300 },
        "email": email,
        "email_verified": email_verified,
        "name": name,
    });
    match fault {
        Some(Fault::ForeignKey) => {
            let id = key.jwk()["kid"].as_str().unwrap_or_default().to_owned();
            SigningKey::new(key.algorithm(), id).sign(&claims)
        }
        Some(Fault::Unsigned) => key.unsigned(&claims),
        Some(Fault::SharedSecret) => key.signed_with_the_published_key(&claims),
        Some(Fault::Tampered) => {
            let token = key.sign(&claims);
            let mut parts: Vec<&str> = token.split('.').collect();
            let mut other = claims;
            other["sub"] = json!("1");
            let other = URL_SAFE_NO_PAD.encode(other.to_string());
            parts[1] = &other;
            parts.join(".")
        }
        _ => key.sign(&claims),
    }
}

async fn github_token(WithState(issuer): Known, Form(form): Form<Params>) -> Response {
    let Some(grant) = redeem(&issuer, &form) else {
        // As GitHub does it: with 200.
        return Json(json!({"error": "bad_verification_code"})).into_response();
    };
    let token = format!("gho_{}", Uuid::new_v4().simple());
    issuer.state().tokens.insert(token.clone(), grant.account);
    Json(json!({"access_token": token, "token_type": "bearer", "scope": "read:user,user:email"}))
        .into_response()
}

/// Whose token a request carries. A caller without a user agent is refused, as GitHub does.
fn bearer(issuer: &Shared, headers: &HeaderMap) -> Option<Account> {
    headers.get(header::USER_AGENT)?;
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    issuer.state().tokens.get(value.strip_prefix("Bearer ")?).cloned()
}

async fn github_user(WithState(issuer): Known, headers: HeaderMap) -> Response {
    match bearer(&issuer, &headers) {
        None => StatusCode::UNAUTHORIZED.into_response(),
        Some(account) => {
            Json(json!({"id": account.subject, "login": "octo", "name": account.name, "email": null}))
                .into_response()
        }
    }
}

async fn github_emails(WithState(issuer): Known, headers: HeaderMap) -> Response {
    match bearer(&issuer, &headers) {
        None => StatusCode::UNAUTHORIZED.into_response(),
        Some(account) => Json(json!([
            {"email": "old@example.org", "primary": false, "verified": true},
            {"email": account.email, "primary": true, "verified": account.email_verified},
        ]))
        .into_response(),
    }
}
