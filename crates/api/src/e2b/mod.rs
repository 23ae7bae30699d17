//! E2B's control API, so that its SDKs work here as they are: the services beneath `/v1`, in another contract's words. Not in the OpenAPI
//! document, since the contract is not ours to write.
//!
//! - `sandboxes/`: a file for each verb or group of verbs; `view.rs` there has what answers say of a sandbox.
//! - `snapshots.rs`, `templates.rs`, `tags.rs`: what sandboxes start from. `builds.rs`: how it is made.
//! - `secrets.rs`: values that nobody reads again.
//! - `volumes/`: disks that outlive sandboxes, and their files.
//! - `errors.rs`, `names.rs`, `page.rs`: refusals, ids and names, pages.
//!
//! What is not here is told by a 404 in the same form.

mod builds;
mod errors;
mod names;
mod page;
mod sandboxes;
mod secrets;
mod snapshots;
mod tags;
mod templates;
mod volumes;

use axum::Router;
use axum::extract::Request;
use axum::http::{Response, Uri};
use axum::middleware::from_fn;
use axum::response::IntoResponse as _;
use axum::routing::{get, patch, post, put};

use crate::{AppState, request};

/// First segments of the paths that are E2B's. Those of ours begin with `/v1`.
const FAMILIES: [&str; 11] = [
    "v2",
    "v3",
    "sandboxes",
    "snapshots",
    "templates",
    "volumes",
    "volumecontent",
    "secrets",
    "teams",
    "events",
    "api-keys",
];

/// The routes, relative to the root.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v2/sandboxes", get(sandboxes::list::all).post(sandboxes::create::secured))
        .route("/sandboxes", get(sandboxes::list::running).post(sandboxes::create::first_version))
        .route("/sandboxes/metrics", get(sandboxes::metrics::of_many))
        .route("/sandboxes/{id}", get(sandboxes::one::get).delete(sandboxes::one::kill))
        .route("/v2/sandboxes/{id}/connect", post(sandboxes::connect::connect))
        .route("/sandboxes/{id}/connect", post(sandboxes::connect::connect))
        .route("/sandboxes/{id}/resume", post(sandboxes::connect::resume))
        .route("/sandboxes/{id}/timeout", post(sandboxes::timeout::set))
        .route("/sandboxes/{id}/refreshes", post(sandboxes::timeout::refresh))
        .route("/sandboxes/{id}/pause", post(sandboxes::pause::pause))
        .route("/sandboxes/{id}/fork", post(sandboxes::fork::fork))
        .route("/sandboxes/{id}/snapshots", post(sandboxes::snapshot::snapshot))
        .route("/sandboxes/{id}/network", put(sandboxes::network::replace))
        .route("/sandboxes/{id}/metrics", get(sandboxes::metrics::of_one))
        .route("/sandboxes/{id}/logs", get(sandboxes::logs::first_version))
        .route("/v2/sandboxes/{id}/logs", get(sandboxes::logs::second_version))
        .route("/snapshots", get(snapshots::list))
        .route("/secrets", get(secrets::list).post(secrets::create))
        .route("/secrets/{id}", get(secrets::one).post(secrets::update).delete(secrets::remove))
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/{id}", get(volumes::one).delete(volumes::remove))
        .merge(volumes::content::routes())
        .route("/templates", get(templates::list))
        .route("/templates/aliases/{alias}", get(templates::alias))
        .route("/v3/templates", post(builds::announce))
        .route("/v2/templates", get(templates::list).post(builds::announce))
        .route("/v2/templates/{id}/builds/{build}", post(builds::begin))
        .route("/templates/{id}/builds/{build}/status", get(builds::status))
        .route("/templates/{id}/builds/{build}/logs", get(builds::logs))
        .route("/templates/{id}/files/{hash}", get(builds::files))
        .route(&format!("{}/{{ticket}}", builds::FILES), put(builds::take_files))
        .route("/templates/tags", post(tags::assign).delete(tags::remove))
        .route("/templates/{id}/tags", get(tags::list))
        .route("/templates/{id}", get(templates::one).patch(templates::update).delete(templates::remove))
        .route("/v2/templates/{id}", patch(templates::update))
        .method_not_allowed_fallback(request::no_method)
        .layer(from_fn(errors::in_their_form))
}

/// No such route, told in the form of whoever the path belongs to.
pub(crate) async fn no_route(request: Request) -> Response<axum::body::Body> {
    let theirs = is_theirs(request.uri());
    let error = request::no_route(request).await;
    if theirs { errors::render(&error) } else { error.into_response() }
}

fn is_theirs(uri: &Uri) -> bool {
    uri.path().split('/').nth(1).is_some_and(|first| FAMILIES.contains(&first))
}
