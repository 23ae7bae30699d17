//! `POST /v1/hosts/register`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::hosts::{Registered, Registration};
use sandbar_types::{Arch, VmmKind};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Host, HostCredentials};
use crate::AppState;
use crate::auth::AnonymousCaller;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::HostRefusals;

/// What an agent says of its host.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RegisterHost {
    /// The one-time token.
    #[schema(value_type = String)]
    token: SecretString,
    #[schema(schema_with = crate::schema::arch)]
    arch: Arch,
    #[schema(minimum = 1)]
    cpu_cores: u32,
    #[schema(minimum = 1)]
    memory_mb: u32,
    #[schema(minimum = 1)]
    disk_gb: u32,
    /// Where its agent listens.
    #[schema(example = "10.0.0.5:7443")]
    address: String,
    #[schema(schema_with = crate::schema::vmm)]
    vmm: VmmKind,
    /// A certificate signing request in PEM, of the key that the agent will serve with.
    csr: String,
}

/// A host that was let in, and its credentials.
#[derive(Serialize, ToSchema)]
pub(crate) struct RegisteredHost {
    host: Host,
    #[serde(flatten)]
    credentials: HostCredentials,
}

/// Lets a host in. The token is used up.
#[utoipa::path(
    post,
    path = "/register",
    operation_id = "register_host",
    tag = "hosts",
    request_body = RegisterHost,
    responses((status = 201, description = "It is let in", body = RegisteredHost), HostRefusals),
    security(()),
)]
pub(crate) async fn register_host(
    State(app): State<AppState>,
    AnonymousCaller(ctx): AnonymousCaller,
    JsonBody(body): JsonBody<RegisterHost>,
) -> Result<(StatusCode, Json<RegisteredHost>), ApiError> {
    let RegisterHost { token, arch, cpu_cores, memory_mb, disk_gb, address, vmm, csr } = body;
    let registration = Registration { token, arch, cpu_cores, memory_mb, disk_gb, address, vmm, csr };
    let Registered { host, credentials } = app.control.host_register(&ctx, &registration).await?;
    let answer = RegisteredHost { host: host.into(), credentials: credentials.into() };
    Ok((StatusCode::CREATED, Json(answer)))
}
