//! Archives for builds, of files or with an image: bringing one, asking whether it is there, and how much of it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::OpContext;
use sandbar_control::builds::{self, BuildScope, FilesError, FilesPut};
use sandbar_types::ErrorCode;
use sandbar_types::recipe::FilesName;
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::{Caller, PersonCaller};
use crate::error::ApiError;
use crate::extract::{BodyLength, PathName, QueryPairs};
use crate::schema::{BuildRefusals, ReadRefusals};

/// An archive of files for builds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BuildFiles {
    /// Its SHA-256: what a build's `files` says.
    #[schema(value_type = String, example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    sha256: String,
    /// Its size.
    bytes: u64,
}

/// What is there of an archive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReceivedFiles {
    /// Its SHA-256.
    #[schema(value_type = String, example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    sha256: String,
    /// So many bytes from its beginning: where an upload goes on.
    received: u64,
}

impl From<builds::BuildFiles> for BuildFiles {
    fn from(builds::BuildFiles { name, bytes }: builds::BuildFiles) -> Self {
        Self { sha256: name.to_string(), bytes }
    }
}

/// Takes an archive for the team's builds, which is known by its SHA-256: of files (tar, as it is or compressed by gzip) for `COPY`, or with an image for
/// `FROM` (`docker save`, or OCI's layout as tar). It has at most 8 GiB, and 512 MiB where the request has no `Content-Length`, and stays for a day
/// after it was last used. Of an upload that broke off the beginning is kept for an hour: ask for `/received` how much that is, and go on `from` there.
#[utoipa::path(
    put,
    path = "/files/{sha256}",
    operation_id = "put_build_files",
    tag = "builds",
    params(
        ("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits"),
        ("from" = Option<u64>, Query, description = "The byte of the archive with which the body begins: what `/received` said; by default 0"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is there now", body = BuildFiles),
        (status = 200, description = "It was there", body = BuildFiles),
        BuildRefusals,
    ),
    security(("api_key" = [])),
)]
pub(crate) async fn put_build_files(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
    query: QueryPairs,
    length: BodyLength,
    body: Body,
) -> Result<(StatusCode, Json<BuildFiles>), ApiError> {
    put(&app, &ctx, BuildScope::Team, &name, &query, (length, body)).await
}

/// Takes an archive of files for the platform's builds.
#[utoipa::path(
    put,
    path = "/files/{sha256}",
    operation_id = "admin_put_build_files",
    tag = "admin",
    params(
        ("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits"),
        ("from" = Option<u64>, Query, description = "The byte of the archive with which the body begins: what `/received` said; by default 0"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is there now", body = BuildFiles),
        (status = 200, description = "It was there", body = BuildFiles),
        BuildRefusals,
    ),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_put_build_files(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathName(name): PathName,
    query: QueryPairs,
    length: BodyLength,
    body: Body,
) -> Result<(StatusCode, Json<BuildFiles>), ApiError> {
    put(&app, &ctx, BuildScope::Platform, &name, &query, (length, body)).await
}

/// Whether an archive of the team's is there. If it is, it stays for a day from now on.
#[utoipa::path(
    get,
    path = "/files/{sha256}",
    operation_id = "get_build_files",
    tag = "builds",
    params(("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits")),
    responses((status = 200, description = "It is there", body = BuildFiles), ReadRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_build_files(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<Json<BuildFiles>, ApiError> {
    get(&app, &ctx, BuildScope::Team, &name).await
}

/// Whether an archive of the platform's is there.
#[utoipa::path(
    get,
    path = "/files/{sha256}",
    operation_id = "admin_get_build_files",
    tag = "admin",
    params(("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits")),
    responses((status = 200, description = "It is there", body = BuildFiles), ReadRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_get_build_files(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathName(name): PathName,
) -> Result<Json<BuildFiles>, ApiError> {
    get(&app, &ctx, BuildScope::Platform, &name).await
}

/// How much of an archive is there: all of it, what is kept of an upload that broke off, or nothing.
#[utoipa::path(
    get,
    path = "/files/{sha256}/received",
    operation_id = "get_build_files_received",
    tag = "builds",
    params(("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits")),
    responses((status = 200, description = "How much is there", body = ReceivedFiles), ReadRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_build_files_received(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(name): PathName,
) -> Result<Json<ReceivedFiles>, ApiError> {
    received(&app, &ctx, BuildScope::Team, &name).await
}

/// How much of an archive of the platform's is there.
#[utoipa::path(
    get,
    path = "/files/{sha256}/received",
    operation_id = "admin_get_build_files_received",
    tag = "admin",
    params(("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits")),
    responses((status = 200, description = "How much is there", body = ReceivedFiles), ReadRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_get_build_files_received(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    PathName(name): PathName,
) -> Result<Json<ReceivedFiles>, ApiError> {
    received(&app, &ctx, BuildScope::Platform, &name).await
}

async fn received(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    name: &str,
) -> Result<Json<ReceivedFiles>, ApiError> {
    let name = named(name)?;
    let received = app.control.build_files_received(ctx, scope, &name).await?;
    Ok(Json(ReceivedFiles { sha256: name.to_string(), received }))
}

async fn put(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    name: &str,
    query: &QueryPairs,
    (BodyLength(length), body): (BodyLength, Body),
) -> Result<(StatusCode, Json<BuildFiles>), ApiError> {
    let name = named(name)?;
    let from = query.parse("from")?.unwrap_or(0);
    let put = app.control.build_files_put(ctx, scope, &name, (from, length), body.into_data_stream()).await?;
    Ok(match put {
        FilesPut::Stored(files) => (StatusCode::CREATED, Json(files.into())),
        FilesPut::Present(files) => (StatusCode::OK, Json(files.into())),
    })
}

async fn get(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    name: &str,
) -> Result<Json<BuildFiles>, ApiError> {
    let name = named(name)?;
    let found = app.control.build_files_has(ctx, scope, &name).await?;
    let missing = || ApiError::new(ErrorCode::NotFound, FilesError::Missing { name }.to_string());
    found.map(|files| Json(files.into())).ok_or_else(missing)
}

fn named(text: &str) -> Result<FilesName, ApiError> {
    FilesName::content(text).map_err(|error| ApiError::invalid(error.to_string()))
}
