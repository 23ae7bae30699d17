//! `GET /v1/sandboxes`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use sandbar_control::sandboxes::SandboxFilter;

use super::Sandbox;
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::QueryPairs;
use crate::page::{self, PageParams};
use crate::schema::ReadRefusals;

/// The team's sandboxes, newest first. Those that have ended are shown only where `status` asks for them.
#[utoipa::path(
    get,
    path = "",
    operation_id = "list_sandboxes",
    tag = "sandboxes",
    params(
        ("status" = Option<String>, Query, description = "Only these states; comma separated or repeated"),
        ("template" = Option<String>, Query, description = "Only those that started from this template"),
        ("metadata" = Option<Vec<String>>, Query, explode = true,
            description = "Only those whose metadata has this entry, written `key=value`; may be repeated"),
        PageParams,
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Sandbox>,
            headers(("X-Next-Cursor" = String, description = "Names the next page; absent on the last one"))),
        ReadRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn list_sandboxes(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<Sandbox>>), ApiError> {
    let filter = SandboxFilter {
        status: query.list("status")?,
        template: query.one("template")?.map(str::to_owned),
        metadata: metadata(&query)?,
    };
    let page = app.control.sandbox_list(&ctx, &filter, &page::request(&query)?).await?;
    Ok(page::answer(page, Sandbox::from))
}

fn metadata(query: &QueryPairs) -> Result<BTreeMap<String, String>, ApiError> {
    query
        .all("metadata")
        .map(|entry| {
            let (key, value) = entry
                .split_once('=')
                .ok_or_else(|| ApiError::invalid("metadata: write key=value (percent-encoded)"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}
