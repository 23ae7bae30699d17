//! `/v1/auth`: signing up, in and out; `oauth`: the same at other providers.

mod login;
mod logout;
pub(crate) mod oauth;
mod signup;
mod switch_team;

use sandbar_control::people;
use sandbar_types::Id;
use sandbar_types::id::{Team, User};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(signup::sign_up))
        .routes(routes!(login::log_in))
        .routes(routes!(logout::log_out))
        .routes(routes!(switch_team::switch_team))
        .nest("/oauth", oauth::routes())
}

/// The one place where whoever signed in is told it.
fn shown<S: Serializer>(token: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    token.as_ref().map(|token| token.expose_secret()).serialize(serializer)
}

/// A sign-in that succeeded.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignIn {
    /// For `Authorization: Bearer`; 6 hours. Not there for the dashboard's pages, which get it in a cookie.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub(crate) token: Option<SecretString>,
    #[schema(value_type = String, example = "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    user_id: Id<User>,
    /// The team that the token acts for. Null for whoever belongs to none.
    #[schema(value_type = Option<String>, example = "team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    team_id: Option<Id<Team>>,
    email: String,
    name: String,
}

impl From<people::SignIn> for SignIn {
    fn from(signed_in: people::SignIn) -> Self {
        let people::SignIn { token, user_id, team_id, email, name } = signed_in;
        Self { token: Some(token), user_id, team_id, email, name }
    }
}
