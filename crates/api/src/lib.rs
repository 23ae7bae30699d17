//! The HTTP face of the control plane: extract, authorize, call `control`, map the answer. No decision is made here, and no SQL.
//!
//! - `v1/`: the native REST API, a folder per resource and a file per verb.
//! - `e2b/`: E2B's control API, the same services in another contract's words.
//! - `auth.rs`, `client.rs`, `extract.rs`: credentials, where a request comes from, inputs; `error.rs`: the one place where a failure becomes an answer.
//! - `cookie.rs`: the session of a browser, in a cookie; `dashboard.rs`: the pages that it is for.
//! - `request.rs`: what surrounds every request (id, log, metrics, headers); `throttle.rs`: how many a caller may send; `browser.rs`: what pages may.
//! - `write_only.rs`: text that is taken and never told.
//! - `openapi.rs`, `schema.rs`, `page.rs`, `health.rs`: the document, its shared pieces, lists, liveness and readiness.
//! - `figures.rs`: `/metrics`, on the internal listener alone.
//! - `serve.rs`, `transport.rs`, `first_bytes.rs`, `turned_away.rs`: the listener, with the limits that a public port needs.

mod auth;
mod browser;
mod client;
mod cookie;
mod dashboard;
mod e2b;
mod error;
mod extract;
pub mod figures;
mod first_bytes;
mod health;
mod openapi;
mod page;
mod request;
mod schema;
mod serve;
mod throttle;
mod transport;
mod turned_away;
mod v1;
mod write_only;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use ipnet::IpNet;
use sandbar_control::Control;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::extract::JsonLimit;
pub use browser::Origin;
pub use dashboard::Asset;
pub use serve::{Limits, serve};
pub use throttle::{RequestRate, Throttle};
pub use transport::Listener;
pub use v1::audit_logs::AuditLogEntry;

/// What every handler is given.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) control: Control,
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    pub(crate) allowed_origins: Arc<[Origin]>,
}

/// What an operator can set about the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most bytes of a request's JSON body. Files are streamed and have no limit.
    pub json_body_bytes: usize,
    /// Whose word counts for where a request comes from (`X-Forwarded-For`).
    pub trusted_proxies: Vec<IpNet>,
    /// The origins whose pages may call the API, besides its own.
    pub allowed_origins: Vec<Origin>,
    /// How many requests each caller may send to one replica; none = any number.
    pub request_rate: Option<RequestRate>,
    /// The dashboard's files.
    pub dashboard: &'static [Asset],
}

impl Default for Config {
    fn default() -> Self {
        // A proxy on the same machine.
        let loopback = [IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)), IpAddr::V6(Ipv6Addr::LOCALHOST).into()];
        Self {
            json_body_bytes: 1 << 20,
            trusted_proxies: loopback.to_vec(),
            allowed_origins: Vec::new(),
            request_rate: Some(RequestRate::DEFAULT),
            dashboard: &[],
        }
    }
}

/// The public API. The throttle is what else counts requests as well ([`Throttle::charge`]).
pub fn router(control: Control, config: &Config, throttle: Throttle) -> Router {
    let (routes, document) = documented().split_for_parts();
    let trusted_proxies: Arc<[IpNet]> = config.trusted_proxies.clone().into();
    let router = routes
        .nest("/v1/capsules", v1::sandboxes::routes().into())
        .merge(openapi::routes(&document))
        .merge(e2b::routes())
        .merge(dashboard::routes(config.dashboard))
        .fallback(e2b::no_route)
        .method_not_allowed_fallback(request::no_method)
        .layer(Extension(JsonLimit(config.json_body_bytes)))
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(from_fn_with_state(throttle, throttle::throttle))
        .layer(from_fn(request::surround))
        .layer(from_fn_with_state(Arc::clone(&trusted_proxies), browser::insist_on_tls));
    let router = match browser::cross_origin(&config.allowed_origins) {
        Some(layer) => router.layer(layer),
        None => router,
    };
    let allowed_origins = config.allowed_origins.clone().into();
    router.with_state(AppState { control, trusted_proxies, allowed_origins })
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
    let mut routes = OpenApiRouter::with_openapi(openapi::base())
        .merge(health::routes())
        .nest("/v1/sandboxes", v1::sandboxes::routes())
        .nest("/v1/snapshots", v1::snapshots::routes())
        .nest("/v1/builds", v1::builds::routes())
        .nest("/v1/hosts", v1::hosts::routes())
        .nest("/v1/auth", v1::auth::routes())
        .nest("/v1/me", v1::me::routes())
        .nest("/v1/api-keys", v1::api_keys::routes())
        .nest("/v1/secrets", v1::secrets::routes())
        .nest("/v1/volumes", v1::volumes::routes())
        .nest("/v1/users", v1::users::routes())
        .nest("/v1/teams", v1::teams::routes())
        .nest("/v1/usage", v1::usage::routes())
        .nest("/v1/audit-logs", v1::audit_logs::routes())
        .nest("/v1/platform", v1::platform::routes())
        .nest("/v1/admin", v1::admin::routes());
    openapi::keys_or_people(routes.get_openapi_mut());
    openapi::bodies_may_be_left_out(routes.get_openapi_mut());
    routes
}
