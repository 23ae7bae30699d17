//! `POST /v2/sandboxes`, and `POST /sandboxes` as older clients call it. Both make the same: a sandbox that takes its own token only.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::OpContext;
use sandbar_control::sandboxes::{self, OnTimeout};
use sandbar_types::TimeoutFrom;
use serde::Deserialize;
use serde_json::Value;

use super::network::NetworkConfig;
use super::view::Sandbox;
use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::v1::sandboxes::create::idempotency_key;

/// Seconds that a sandbox lives where the caller does not say.
const DEFAULT_TIMEOUT_SEC: u32 = 300;
/// The same in the first version.
const FIRST_TIMEOUT_SEC: u32 = 15;

/// What to make. Whether it is `secure` is not asked: every sandbox is. What `mcp` asks for is the template's business, and the SDK's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct NewSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    timeout: Option<u32>,
    auto_pause: Option<bool>,
    auto_pause_memory: Option<bool>,
    auto_resume: Option<AutoResume>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<NetworkConfig>,
    metadata: Option<BTreeMap<String, String>>,
    env_vars: Option<BTreeMap<String, String>>,
    iam: Option<Value>,
    #[serde(default)]
    volume_mounts: Vec<VolumeMount>,
}

#[derive(Debug, Deserialize)]
struct VolumeMount {
    name: String,
    path: String,
}

#[derive(Debug, Deserialize)]
struct AutoResume {
    #[serde(default)]
    enabled: bool,
}

pub(in crate::e2b) async fn secured(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    create(&app, &ctx, &headers, body, DEFAULT_TIMEOUT_SEC).await
}

pub(in crate::e2b) async fn first_version(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    create(&app, &ctx, &headers, body, FIRST_TIMEOUT_SEC).await
}

async fn create(
    app: &AppState,
    ctx: &OpContext,
    headers: &HeaderMap,
    body: NewSandbox,
    default_timeout_sec: u32,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let NewSandbox {
        template_id,
        timeout,
        auto_pause,
        auto_pause_memory,
        auto_resume,
        allow_internet_access,
        network,
        metadata,
        env_vars,
        iam,
        volume_mounts,
    } = body;
    let on_timeout = on_timeout(auto_pause, auto_pause_memory)?;
    if iam.is_some_and(|iam| !is_empty(&iam["tokens"])) {
        return Err(not_here("iam"));
    }
    let auto_resume = auto_resume.is_some_and(|AutoResume { enabled }| enabled);
    if auto_resume && on_timeout == OnTimeout::PauseFilesystem {
        return Err(ApiError::invalid(
            "autoResume needs the sandbox's memory: not with autoPauseMemory=false",
        ));
    }
    let (rules, ingress) = network.unwrap_or_default().into_ours(allow_internet_access, auto_resume)?;
    let key = idempotency_key(headers)?;
    let template = app.control.template_resolve(ctx, &template_id).await?;
    let new = sandboxes::NewSandbox {
        template: Some(template.name.into()),
        tag: (!template.tag.is_default()).then(|| template.tag.to_string()),
        timeout_sec: Some(some_time(timeout.unwrap_or(default_timeout_sec))?),
        on_timeout: Some(on_timeout),
        timeout_from: Some(TimeoutFrom::Start),
        metadata: metadata.unwrap_or_default(),
        env: env_vars.unwrap_or_default(),
        volumes: volume_mounts
            .into_iter()
            .map(|VolumeMount { name, path }| sandboxes::NewMount { volume: name, path })
            .collect(),
        network: Some(rules),
        ingress,
        ..sandboxes::NewSandbox::default()
    };
    let sandbox = app.control.sandbox_create(ctx, &new, key.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(Sandbox::new(&app.control, &sandbox))))
}

/// How it ends. What a pause keeps can be said only where there is one.
fn on_timeout(auto_pause: Option<bool>, memory: Option<bool>) -> Result<OnTimeout, ApiError> {
    match (auto_pause.unwrap_or_default(), memory) {
        (false, Some(false)) => Err(ApiError::invalid("autoPauseMemory=false needs autoPause=true")),
        (false, _) => Ok(OnTimeout::Kill),
        (true, Some(false)) => Ok(OnTimeout::PauseFilesystem),
        (true, _) => Ok(OnTimeout::Pause),
    }
}

/// A time that a sandbox may be given. With us no time at all means for ever, which nobody has asked for who speaks this contract.
pub(super) fn some_time(timeout_sec: u32) -> Result<u32, ApiError> {
    if timeout_sec == 0 { Err(ApiError::invalid("timeout must be at least 1")) } else { Ok(timeout_sec) }
}

/// A field that asks for what there is not.
pub(super) fn not_here(field: &str) -> ApiError {
    ApiError::invalid(format!("{field} is not supported here"))
}

/// Whether a value of JSON asks for nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
