//! Asking for a build.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::builds::{BuildScope, NewBuild};
use sandbar_control::host_client::RegistryCredentials;
use sandbar_types::TemplateKind;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Build;
use crate::AppState;
use crate::auth::{Caller, PersonCaller};
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::BuildRefusals;

/// Who asks a registry.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Registry {
    username: String,
    /// Or an access token.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// What to build.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateBuild {
    /// The template's name. One of the team's that has it is replaced once this one is complete.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "python-tools")]
    name: String,
    /// The template that it starts from, where the recipe has no `FROM`; `base` by default.
    base_template: Option<String>,
    /// Its lines: `RUN [--timeout=5m] [--user=NAME] LINE` or the line alone, `START LINE`, `ENV NAME=VALUE`, `WORKDIR FOLDER`, `USER NAME`,
    /// `COPY [--chown=USER[:GROUP]] [--chmod=MODE] SOURCE... DEST`, comments, lines that go on after a backslash. `FROM`, if there is one, comes first: a template's name, or an image's as
    /// `docker pull` takes it. What there is decides about a name that could be either's; `template:NAME` is a template in any case. What begins with `/`, `./` or
    /// `../` is a file of yours, an archive with an image: `from_archive` says which.
    #[schema(example = json!(["RUN pip install numpy", "ENV MODE=fast"]))]
    recipe: Vec<String>,
    /// The archive that `COPY` takes its files from: the SHA-256 under which it was put to `/v1/builds/files/{sha256}`.
    files: Option<String>,
    /// The archive (`docker save`, or OCI's layout as tar) of the image that it starts from: the SHA-256 under which it was put to `/v1/builds/files/{sha256}`.
    from_archive: Option<String>,
    /// Secrets of the team's that `RUN` steps have as environment, and nothing else of the build: by the name of a variable, the name of a secret. They are not in the
    /// template, and what of their values steps write is `***` in the log.
    #[schema(example = json!({"GITHUB_TOKEN": "github-token"}))]
    secrets: Option<BTreeMap<String, String>>,
    /// Whether the template has memory, as it has by default: processes that run in it then run in every sandbox made of it, from its first moment on. Without, it is a disk alone, whose
    /// sandboxes boot, in any size.
    memory: Option<bool>,
    /// For the image that it starts from, where its registry is a private one. They are kept encrypted, and only until the build ends.
    registry: Option<Registry>,
    /// A shell line that succeeds once the sandbox is as it is to be kept; it is tried until it does.
    healthcheck: Option<String>,
    /// For how long, in seconds; 120 by default.
    #[schema(minimum = 1, maximum = 3600)]
    healthcheck_sec: Option<u32>,
    /// A template has the size of a base with memory: that, or nothing. What starts from an image or a disk alone has any; by default 1, or the base's.
    #[schema(minimum = 1, maximum = 32)]
    vcpus: Option<u32>,
    /// The same; by default 512, or the base's.
    #[schema(minimum = 128, maximum = 131_072)]
    memory_mb: Option<u32>,
    /// A template has its base's disk: that, or nothing. What starts from an image has any; by default as large as that of `base`.
    #[schema(minimum = 512, maximum = 1_048_576)]
    disk_mb: Option<u32>,
}

impl From<CreateBuild> for NewBuild {
    fn from(body: CreateBuild) -> Self {
        let CreateBuild {
            name,
            base_template,
            recipe,
            files,
            from_archive,
            secrets,
            memory,
            registry,
            healthcheck,
            healthcheck_sec,
            vcpus,
            memory_mb,
            disk_mb,
        } = body;
        let registry =
            registry.map(|Registry { username, password }| RegistryCredentials { username, password });
        Self {
            name,
            base_template,
            recipe,
            files,
            from_archive,
            secrets: secrets.unwrap_or_default(),
            kind: memory.map(|memory| if memory { TemplateKind::Snapshot } else { TemplateKind::Base }),
            registry,
            healthcheck,
            healthcheck_sec,
            vcpus,
            memory_mb,
            disk_mb,
        }
    }
}

/// Builds a template of the team: its keys may, and its admins. The build waits for a worker when this returns.
///
/// A worker makes a sandbox of the base, runs the recipe's steps in it one after the other, and keeps it, with its memory and the
/// processes that it started or (`memory`: false) its disk alone, as the template. Steps run as root in `/` unless the base or the recipe says otherwise. Environment,
/// working folder and user that the recipe leaves are those of commands in the template's sandboxes.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_build",
    tag = "builds",
    request_body = CreateBuild,
    responses((status = 201, description = "It waits for a worker", body = Build), BuildRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn create_build(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(body): JsonBody<CreateBuild>,
) -> Result<(StatusCode, Json<Build>), ApiError> {
    let build = app.control.build_create(&ctx, BuildScope::Team, &body.into()).await?;
    Ok((StatusCode::CREATED, Json(build.into())))
}

/// Builds a template of the platform, which is everybody's.
#[utoipa::path(
    post,
    path = "",
    operation_id = "admin_create_build",
    tag = "admin",
    request_body = CreateBuild,
    responses((status = 201, description = "It waits for a worker", body = Build), BuildRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn admin_create_build(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    JsonBody(body): JsonBody<CreateBuild>,
) -> Result<(StatusCode, Json<Build>), ApiError> {
    let build = app.control.build_create(&ctx, BuildScope::Platform, &body.into()).await?;
    Ok((StatusCode::CREATED, Json(build.into())))
}
