//! `/v1/snapshots`: what sandboxes can start from.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::templates;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::page;
use crate::schema::{ReadRefusals, Timestamp};

/// The routes, relative to where they are mounted.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_snapshots))
}

/// What a sandbox can start from: a disk image, with or without a running machine's memory.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    #[schema(example = "base")]
    name: String,
    /// `base` = a disk image only; `snapshot` = with memory.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::template_kind)]
    kind: &'static str,
    vcpus: u32,
    memory_mb: u32,
    size_bytes: u64,
    created_at: Timestamp,
    /// Whether it is the platform's, and so everybody's.
    platform: bool,
    /// Whether a copy exists beyond the host that holds it.
    durable: bool,
}

impl From<templates::Template> for Snapshot {
    fn from(template: templates::Template) -> Self {
        Self {
            platform: template.is_platform(),
            kind: template.kind.as_str(),
            name: template.name.into(),
            vcpus: template.vcpus,
            memory_mb: template.memory_mb,
            size_bytes: template.size_bytes,
            created_at: Timestamp(template.created_at),
            // Nothing is copied to object storage yet.
            durable: false,
        }
    }
}

/// The team's and the platform's snapshots, newest first.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_snapshots",
    tag = "snapshots",
    params(
        ("type" = Option<String>, Query, description = "Only `base` or only `snapshot`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Most items of the page; 50 by default"),
        ("cursor" = Option<String>, Query, description = "The next page, as `X-Next-Cursor` named it"),
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Snapshot>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ReadRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn list_snapshots(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Snapshot>>), ApiError> {
    let page = app.control.template_list(&ctx, query.parse("type")?, &page::request(&query)?).await?;
    Ok(page::answer(page, Snapshot::from))
}
