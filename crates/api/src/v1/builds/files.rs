//! Archives of files for builds: bringing one, asking whether it is there.

use axum::Json;
use axum::body::{Body, HttpBody as _};
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
use crate::extract::PathName;
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

impl From<builds::BuildFiles> for BuildFiles {
    fn from(builds::BuildFiles { name, bytes }: builds::BuildFiles) -> Self {
        Self { sha256: name.to_string(), bytes }
    }
}

/// Takes an archive (tar, as it is or compressed by gzip) of files for the team's builds, which is known by its SHA-256: at most 512 MiB. It
/// stays for a day after it was last used.
#[utoipa::path(
    put,
    path = "/files/{sha256}",
    operation_id = "put_build_files",
    tag = "builds",
    params(("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits")),
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
    body: Body,
) -> Result<(StatusCode, Json<BuildFiles>), ApiError> {
    put(&app, &ctx, BuildScope::Team, &name, body).await
}

/// Takes an archive of files for the platform's builds.
#[utoipa::path(
    put,
    path = "/files/{sha256}",
    operation_id = "admin_put_build_files",
    tag = "admin",
    params(("sha256" = String, Path, description = "The SHA-256 of the archive, 64 hexadecimal digits")),
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
    body: Body,
) -> Result<(StatusCode, Json<BuildFiles>), ApiError> {
    put(&app, &ctx, BuildScope::Platform, &name, body).await
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

async fn put(
    app: &AppState,
    ctx: &OpContext,
    scope: BuildScope,
    name: &str,
    body: Body,
) -> Result<(StatusCode, Json<BuildFiles>), ApiError> {
    let name = named(name)?;
    let length = body.size_hint().exact();
    let put = app.control.build_files_put(ctx, scope, &name, length, body.into_data_stream()).await?;
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
