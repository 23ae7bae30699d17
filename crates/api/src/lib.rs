//! The HTTP face of the control plane: extract, authorize, call `control`, map the answer. No decision is made here, and no SQL.
//!
//! - `v1/`: the native REST API, a folder per resource and a file per verb.
//! - `auth.rs`, `extract.rs`: credentials and inputs; `error.rs`: the one place where a failure becomes an answer.
//! - `request.rs`: what surrounds every request (id, log, metrics, headers).
//! - `openapi.rs`, `schema.rs`, `page.rs`, `health.rs`: the document, its shared pieces, lists, liveness and readiness.
//! - `serve.rs`, `first_bytes.rs`: the listener, with the time limits that a public port needs.

mod auth;
mod error;
mod extract;
mod first_bytes;
mod health;
mod openapi;
mod page;
mod request;
mod schema;
mod serve;
mod v1;

use axum::middleware::from_fn;
use axum::routing::get;
use axum::{Extension, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use sandbar_control::Control;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::extract::JsonLimit;

pub use serve::serve;

/// What every handler is given.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) control: Control,
}

/// What an operator can set about the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most bytes of a request's JSON body. Files are streamed and have no limit.
    pub json_body_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { json_body_bytes: 1 << 20 }
    }
}

/// The public API.
pub fn router(control: Control, config: &Config) -> Router {
    let (routes, document) = documented().split_for_parts();
    routes
        .nest("/v1/capsules", v1::sandboxes::routes().into())
        .merge(openapi::routes(&document))
        .fallback(request::no_route)
        .method_not_allowed_fallback(request::no_method)
        .layer(Extension(JsonLimit(config.json_body_bytes)))
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(from_fn(request::surround))
        .with_state(AppState { control })
}

/// For the internal listener only: `/metrics`.
pub fn internal_router(figures: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(health::metrics)).with_state(figures)
}

/// The OpenAPI document of the public API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// The document as it is printed, served and committed.
pub fn openapi_json() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&openapi()).map(|text| text + "\n")
}

/// The routes that the document tells of.
fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(health::routes())
        .nest("/v1/sandboxes", v1::sandboxes::routes())
        .nest("/v1/snapshots", v1::snapshots::routes())
        .nest("/v1/hosts", v1::hosts::routes())
}
