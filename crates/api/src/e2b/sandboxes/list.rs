//! `GET /v2/sandboxes`, and `GET /sandboxes` as older clients call it.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use sandbar_control::sandboxes::{StartOrder, StartedFilter};
use sandbar_control::templates::TemplateError;
use sandbar_control::{OpContext, PageRequest, page::MAX_LIMIT};

use super::metadata;
use super::view::{ListedSandbox, State as SandboxState};
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::page;
use crate::error::ApiError;
use crate::extract::QueryPairs;

/// The team's sandboxes by when they first ran, those that are paused among them.
pub(in crate::e2b) async fn all(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<(HeaderMap, Json<Vec<ListedSandbox>>), ApiError> {
    let states: Vec<SandboxState> = match query.one("state")? {
        None | Some("") => vec![SandboxState::Running, SandboxState::Paused],
        Some(_) => query.list("state")?,
    };
    let template = match query.one("template")?.filter(|text| !text.is_empty()) {
        None => None,
        Some(reference) => match app.control.template_resolve(&ctx, reference).await {
            Ok(template) => Some(template.id),
            Err(TemplateError::NotFound { .. }) => return Ok((HeaderMap::new(), Json(Vec::new()))),
            Err(error) => return Err(error.into()),
        },
    };
    let filter = StartedFilter {
        status: states.into_iter().flat_map(SandboxState::statuses).collect(),
        template,
        metadata: metadata::filter(&query)?,
        started_after: query.parse::<DateTime<Utc>>("startedAfter")?,
        order: match query.one("order")? {
            None | Some("desc") => StartOrder::Newest,
            Some("asc") => StartOrder::Oldest,
            Some(_) => return Err(ApiError::invalid("order: it is asc or desc")),
        },
    };
    let page = app.control.sandbox_list_started(&ctx, &filter, &page::request(&query)?).await?;
    let (headers, Json(listed)) = page::answer(page, |sandbox| ListedSandbox::new(&sandbox));
    Ok((headers, Json(listed.into_iter().flatten().collect())))
}

/// All that run, in one answer: this version knows no pages.
pub(in crate::e2b) async fn running(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> Result<Json<Vec<ListedSandbox>>, ApiError> {
    let filter = StartedFilter {
        status: SandboxState::Running.statuses().collect(),
        metadata: metadata::filter(&query)?,
        ..StartedFilter::default()
    };
    Ok(Json(every(&app, &ctx, &filter).await?))
}

async fn every(
    app: &AppState,
    ctx: &OpContext,
    filter: &StartedFilter,
) -> Result<Vec<ListedSandbox>, ApiError> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page =
            PageRequest::new(Some(MAX_LIMIT), after).map_err(|error| ApiError::invalid(error.to_string()))?;
        let page = app.control.sandbox_list_started(ctx, filter, &page).await?;
        listed.extend(page.items.iter().filter_map(ListedSandbox::new));
        after = page.next;
        if after.is_none() {
            return Ok(listed);
        }
    }
}
