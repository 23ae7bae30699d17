//! `/v1/teams`: teams (`team`), who belongs to them (`members`) and what they may have (`quotas`).

mod members;
mod quotas;
mod team;

use sandbar_control::access::Role;
use sandbar_control::teams;
use sandbar_types::{Id, id};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::schema::Timestamp;

pub(crate) use quotas::TeamQuotas;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(team::list_teams, team::create_team))
        .routes(routes!(team::get_team, team::rename_team, team::delete_team))
        .routes(routes!(quotas::get_team_quotas))
        .routes(routes!(members::add_member))
        .routes(routes!(members::change_member, members::remove_member))
        .routes(routes!(members::leave_team))
        .routes(routes!(members::transfer_team))
}

/// A team.
#[derive(Serialize, ToSchema)]
pub(crate) struct Team {
    #[schema(value_type = String, example = "team-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    id: Id<id::Team>,
    name: String,
    /// Never changes, and is never given to another team.
    #[schema(example = "0a1b2c-3d4e5f")]
    slug: String,
    /// Whether it may bring hosts of its own.
    is_byoc: bool,
    created_at: Timestamp,
    /// What the caller is in it; absent where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::role, required = false)]
    role: Option<&'static str>,
}

/// Somebody in a team.
#[derive(Serialize, ToSchema)]
pub(crate) struct Member {
    #[schema(value_type = String, example = "usr-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e")]
    user_id: Id<id::User>,
    name: String,
    email: String,
    #[schema(schema_with = crate::schema::role)]
    role: &'static str,
    joined_at: Timestamp,
}

impl From<teams::Team> for Team {
    fn from(team: teams::Team) -> Self {
        let teams::Team { id, name, slug, is_byoc, created_at, role } = team;
        let role = role.map(Role::as_str);
        Self { id, name, slug, is_byoc, created_at: Timestamp(created_at), role }
    }
}

impl From<teams::Member> for Member {
    fn from(member: teams::Member) -> Self {
        let teams::Member { user_id, name, email, role, joined_at } = member;
        Self { user_id, name, email, role: role.as_str(), joined_at: Timestamp(joined_at) }
    }
}
