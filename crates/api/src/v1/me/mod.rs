//! `/v1/me`: the person who asks, their sign-ins and their identities at other providers.

mod identities;
mod profile;
mod sessions;

use sandbar_control::people;
use sandbar_types::Id;
use sandbar_types::id;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::schema::Timestamp;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(profile::get_profile, profile::change_profile))
        .routes(routes!(sessions::list_sessions))
        .routes(routes!(sessions::end_session))
        .routes(routes!(identities::list_identities))
        .routes(routes!(identities::link_identity, identities::unlink_identity))
}

/// A person.
#[derive(Serialize, ToSchema)]
pub(crate) struct User {
    #[schema(value_type = String, example = "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::User>,
    email: String,
    name: String,
    /// Whether they can sign in by a password.
    has_password: bool,
    /// Whether they administer the platform.
    is_admin: bool,
    created_at: Timestamp,
}

/// The person who asks, and for whom.
#[derive(Serialize, ToSchema)]
pub(crate) struct Profile {
    #[serde(flatten)]
    user: User,
    /// The team that the sign-in acts for; null where there is none, or none any more.
    #[schema(value_type = Option<String>, example = "team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    team_id: Option<Id<id::Team>>,
}

impl From<people::User> for User {
    fn from(user: people::User) -> Self {
        let people::User { id, email, name, has_password, is_admin, created_at } = user;
        Self { id, email, name, has_password, is_admin, created_at: Timestamp(created_at) }
    }
}
