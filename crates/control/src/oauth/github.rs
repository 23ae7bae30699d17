//! GitHub: OAuth without OpenID Connect. Who somebody is, is asked with the token that the code gives.

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::ProvenIdentity;
use super::config::Provider;
use super::http::{Http, ProviderError, with_query};
use super::state::State;

#[derive(Deserialize)]
struct Token {
    access_token: SecretString,
}

#[derive(Deserialize)]
struct Account {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Email {
    email: String,
    primary: bool,
    verified: bool,
}

/// Where people are sent to.
pub(super) fn way_out(provider: &Provider, web: &str, state: &State, redirect_uri: &str) -> String {
    with_query(
        &format!("{web}/login/oauth/authorize"),
        &[
            ("client_id", &provider.client_id),
            ("redirect_uri", redirect_uri),
            ("scope", "read:user user:email"),
            ("state", &state.state),
            ("code_challenge", &state.challenge()),
            ("code_challenge_method", "S256"),
        ],
    )
}

/// Who came back.
pub(super) async fn identity(
    provider: &Provider,
    (web, api): (&str, &str),
    http: &Http,
    state: &State,
    code: &str,
    redirect_uri: &str,
) -> Result<ProvenIdentity, ProviderError> {
    let form = [
        ("client_id", provider.client_id.as_str()),
        ("client_secret", provider.client_secret.expose_secret()),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("code_verifier", &state.verifier),
    ];
    let Token { access_token } = http.post_form(&format!("{web}/login/oauth/access_token"), &form).await?;
    let Account { id, login, name } = http.get_as(&format!("{api}/user"), &access_token).await?;
    let emails: Vec<Email> = http.get_as(&format!("{api}/user/emails"), &access_token).await?;
    let primary = emails.into_iter().find(|email| email.primary && email.verified);
    Ok(ProvenIdentity {
        subject: id.to_string(),
        verified_email: primary.map(|email| email.email),
        name: name.filter(|name| !name.trim().is_empty()).or(Some(login)),
    })
}
