//! `/files`: whole files in and out over plain HTTP, streamed, so that size costs no memory.
//!
//! - `download` reads (to the end, not to the size: files in `/proc` have none), in the encoding that `encoding` chooses.
//! - `upload` takes requests apart, `write` is the one place that decides how a file comes to be, `stage` is where it lies
//!   until it is complete, `metadata` what the caller says about it.
//! - `transfer` moves the bytes, both ways.
//! - `condition`: which state of a file was seen, so that a write replaces no other.
//! - `signature`: callers without the token may bring a URL that somebody who has it signed.
//! - `place`: what a request names, and whom it acts as.

mod condition;
mod download;
mod encoding;
mod metadata;
mod place;
mod range;
mod signature;
mod stage;
mod transfer;
mod upload;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use http::StatusCode;

use crate::error::ApiError;
use crate::server::Agent;

pub(crate) use metadata::Metadata;
pub(crate) use write::{WriteError, make_dirs};

/// The routes.
pub(crate) fn router() -> Router<Arc<Agent>> {
    // Uploads are streamed to the disk, which is the only limit.
    Router::new()
        .route("/files", get(download::handle).post(upload::handle).fallback(no_such_method))
        .layer(DefaultBodyLimit::disable())
}

async fn no_such_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "files are read with GET and written with POST")
}
