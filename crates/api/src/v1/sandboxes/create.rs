//! `POST /v1/sandboxes`.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::sandboxes::{self, IdempotencyKey, InvalidSandbox, NewSandbox, SandboxError};
use sandbar_types::Ingress;
use serde::Deserialize;
use utoipa::ToSchema;

use super::network::NetworkRules;
use super::{OnTimeout, SandboxWithAccess, TimeoutFrom};
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::CreateRefusals;

/// What to make. Everything has a default.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateSandbox {
    /// The name of a template of the team's or the platform's.
    #[schema(default = "base")]
    template: Option<String>,
    /// Templates with memory keep their own; one that is a disk alone is booted with so many, or with its own.
    #[schema(minimum = 1, maximum = 32)]
    vcpus: Option<u32>,
    /// Templates with memory keep their own; one that is a disk alone is booted with so much, or with its own.
    #[schema(minimum = 128, maximum = 131_072)]
    memory_mb: Option<u32>,
    /// The template's own, or left out.
    #[schema(minimum = 512, maximum = 1_048_576)]
    disk_mb: Option<u32>,
    /// Seconds after which it ends; 0 = never.
    #[schema(minimum = 0, maximum = 2_592_000, default = 0)]
    timeout_sec: Option<u32>,
    /// From when they count.
    #[schema(default = "activity")]
    timeout_from: Option<TimeoutFrom>,
    /// What happens then: it is destroyed (`kill`), or paused with its memory (`pause`) or without it (`pause_filesystem`).
    #[schema(default = "kill")]
    on_timeout: Option<OnTimeout>,
    /// Your own words about it; `GET /v1/sandboxes` can filter by them.
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    /// Environment of every command in it.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// The same with secrets: by the name of a variable the name of the secret that is its value. What a secret's value is now, the
    /// sandbox keeps.
    #[serde(default)]
    secrets: Option<BTreeMap<String, String>>,
    /// Volumes of the team's that it has until it is deleted. It runs on their host; no copies are made of it (snapshots, forks).
    #[schema(max_items = 8)]
    volumes: Option<Vec<NewMount>>,
    /// Where it may connect to; anywhere on the internet, where it is left out.
    network: Option<NetworkRules>,
    /// Whether anybody may reach its ports by their names. Otherwise that takes a key of the team or the sandbox's traffic token. The
    /// guest agent's port takes the sandbox's access token, always.
    #[schema(default = false)]
    public_traffic: Option<bool>,
    /// The ports that anybody may reach where not all are public.
    #[schema(max_items = 64)]
    public_ports: Option<BTreeSet<u16>>,
    /// What its servers see as `Host`, in place of the name that the client asked for; `${PORT}` stands for the port.
    #[schema(max_length = 255, example = "localhost:${PORT}")]
    mask_request_host: Option<String>,
    /// Whether a request to one of its ports resumes it where it is paused with its memory. Not with `pause_filesystem`.
    #[schema(default = false)]
    auto_resume: Option<bool>,
}

/// A volume that a sandbox is to have.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewMount {
    /// Its name, or its id.
    name: String,
    /// Where in the guest: an absolute path, whose folders are made where they are missing.
    #[schema(example = "/data")]
    path: String,
}

/// Makes a sandbox and answers once its guest serves.
#[utoipa::path(
    post,
    path = "",
    operation_id = "create_sandbox",
    tag = "sandboxes",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "The same key with the same body answers the same sandbox again, so that a lost answer can be asked for \
                again; with another body it is a `conflict`."),
    ),
    request_body(content = CreateSandbox, description = "May be left out: everything has a default"),
    responses((status = 201, description = "It runs", body = SandboxWithAccess), CreateRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn create_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateSandbox>,
) -> Result<(StatusCode, Json<SandboxWithAccess>), ApiError> {
    let key = idempotency_key(&headers)?;
    let sandbox = app.control.sandbox_create(&ctx, &body.into(), key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(SandboxWithAccess::of(&app.control, sandbox))))
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| SandboxError::from(InvalidSandbox::IdempotencyKey))?;
    let key = text.parse().map_err(SandboxError::from)?;
    Ok(Some(key))
}

impl From<CreateSandbox> for NewSandbox {
    fn from(body: CreateSandbox) -> Self {
        let CreateSandbox {
            template,
            vcpus,
            memory_mb,
            disk_mb,
            timeout_sec,
            timeout_from,
            on_timeout,
            metadata,
            env,
            secrets,
            volumes,
            network,
            public_traffic,
            public_ports,
            mask_request_host,
            auto_resume,
        } = body;
        let ingress = Ingress {
            public: public_traffic.unwrap_or_default(),
            public_ports: public_ports.unwrap_or_default(),
            mask_request_host,
            auto_resume: auto_resume.unwrap_or_default(),
        };
        Self {
            tag: None,
            template,
            vcpus,
            memory_mb,
            disk_mb,
            timeout_sec,
            on_timeout: on_timeout.map(Into::into),
            timeout_from: timeout_from.map(Into::into),
            metadata: metadata.unwrap_or_default(),
            env: env.unwrap_or_default(),
            secrets: secrets.unwrap_or_default(),
            volumes: volumes
                .unwrap_or_default()
                .into_iter()
                .map(|NewMount { name, path }| sandboxes::NewMount { volume: name, path })
                .collect(),
            network: network.map(Into::into),
            ingress,
        }
    }
}
