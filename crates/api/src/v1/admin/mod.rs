//! `/v1/admin`: for the platform's administrators, which the database says who they are.

mod quotas;
mod sandboxes;
mod teams;
mod templates;
mod users;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(teams::admin_list_teams))
        .routes(routes!(teams::admin_set_byoc))
        .routes(routes!(quotas::admin_get_quotas, quotas::admin_set_quotas))
        .routes(routes!(users::admin_list_users))
        .routes(routes!(users::admin_set_admin))
        .routes(routes!(sandboxes::admin_list_sandboxes))
        .routes(routes!(templates::admin_list_templates))
        .routes(routes!(templates::admin_delete_template))
        .routes(routes!(crate::v1::audit_logs::admin_list_audit_logs))
        .nest("/builds", crate::v1::builds::admin_routes())
}
