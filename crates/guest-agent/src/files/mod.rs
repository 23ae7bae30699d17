//! `/files`: whole files in and out over plain HTTP, streamed, so that size costs no memory.
//!
//! - `download` reads (to the end, not to the size: files in `/proc` have none), `upload` takes requests apart, `write` is
//!   the one place that decides how a file comes to be.
//! - `signature`: callers without the token may bring a URL that somebody who has it signed.
//! - `place`: whom a request acts as.

mod download;
mod place;
mod range;
mod signature;
mod upload;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use serde::Deserialize;

use crate::server::Agent;

pub(crate) use write::{WriteError, make_dirs};

/// What both methods take from the URL.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilesQuery {
    path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<i64>,
}

/// The routes.
pub(crate) fn router() -> Router<Arc<Agent>> {
    // Uploads are streamed to the disk, which is the only limit.
    Router::new()
        .route("/files", get(download::handle).post(upload::handle))
        .layer(DefaultBodyLimit::disable())
}
