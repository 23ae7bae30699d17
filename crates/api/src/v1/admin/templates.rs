//! `/v1/admin/templates`: the platform's templates, which are everybody's.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use crate::AppState;
use crate::auth::PersonCaller;
use crate::error::ApiError;
use crate::extract::{PathSnapshot, QueryPairs};
use crate::page::{self, PageParams};
use crate::schema::{ActRefusals, ReadRefusals};
use crate::v1::snapshots::Snapshot;

/// The platform's templates, newest first.
#[utoipa::path(
    get,
    path = "/templates",
    operation_id = "admin_list_templates",
    tag = "admin",
    params(PageParams),
    responses(
        (status = 200, description = "One page", body = Vec<Snapshot>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ReadRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_list_templates(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Snapshot>>), ApiError> {
    let page = app.control.admin_template_list(&ctx, &page::request(&query)?).await?;
    Ok(page::answer(page, Snapshot::from))
}

/// Deletes a template of the platform, but not `base`. Sandboxes that were made from it go on.
#[utoipa::path(
    delete,
    path = "/templates/{name}",
    operation_id = "admin_delete_template",
    tag = "admin",
    params(("name" = String, Path, description = "The template's name")),
    responses((status = 204, description = "It is gone"), ActRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_delete_template(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathSnapshot(name): PathSnapshot,
) -> Result<StatusCode, ApiError> {
    app.control.admin_template_delete(&ctx, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
