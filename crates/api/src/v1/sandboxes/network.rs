//! `GET` and `PUT /v1/sandboxes/{id}/network`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::sandboxes::{self, DenialReason, SandboxNetwork};
use sandbar_types::id;
use sandbar_types::network::{Destination, NetworkPolicy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::{ActRefusals, Timestamp};

/// Where a sandbox may connect to. What is in `allow_out` may be reached, whatever else is said; else what is in `deny_out` may not.
/// No policy opens the host, other sandboxes, metadata services, and private networks that the host's operator keeps closed.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NetworkRules {
    /// IPv4 addresses, ranges (CIDR) and domains (`example.com`, or `*.example.com` for all below it). Domains need all else denied.
    #[serde(default)]
    #[schema(max_items = 256, example = json!(["pypi.org", "*.pythonhosted.org", "203.0.113.0/24"]))]
    allow_out: Vec<String>,
    /// As in `allow_out`. A domain that is denied is not resolved; its addresses stay reachable unless they are denied too.
    #[serde(default)]
    #[schema(max_items = 256, example = json!(["0.0.0.0/0"]))]
    deny_out: Vec<String>,
    /// `false`: nothing but what is in `allow_out`; the same as `0.0.0.0/0` in `deny_out`.
    #[schema(default = true)]
    allow_internet: Option<bool>,
}

/// Where a sandbox may connect to, and what it was denied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Network {
    #[schema(value_type = Vec<String>)]
    allow_out: Vec<Destination>,
    #[schema(value_type = Vec<String>)]
    deny_out: Vec<Destination>,
    allow_internet: bool,
    /// Since it was made or last resumed; of names, since its host's agent started, if that is later.
    denials: Denials,
}

/// What a sandbox was denied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Denials {
    /// Packets by reason: `policy`, `private` (networks), `reserved` (the host, other sandboxes, metadata services), `forged` (source
    /// addresses), `ipv6`, and `name` (queries for names that were not resolved).
    counts: BTreeMap<&'static str, u64>,
    /// Where to, in the last hour, the last first; at most some hundreds.
    addresses: Vec<DeniedAddress>,
    /// Names that were not resolved, the last first.
    names: Vec<DeniedName>,
}

/// An address that a sandbox was denied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeniedAddress {
    #[schema(example = "203.0.113.7")]
    address: String,
    #[schema(example = "tcp")]
    protocol: String,
    /// Null where the protocol has none.
    port: Option<u32>,
    packets: u64,
    last_at: Option<Timestamp>,
}

/// A name that a sandbox was denied.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeniedName {
    #[schema(example = "tracker.example.com")]
    name: String,
    queries: u64,
    last_at: Option<Timestamp>,
}

/// Tells where a running or paused sandbox may connect to, and what it was denied.
#[utoipa::path(
    get,
    path = "/{id}/network",
    operation_id = "get_sandbox_network",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    responses((status = 200, description = "As its host enforces it", body = Network), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn get_sandbox_network(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
) -> Result<Json<Network>, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    Ok(Json(app.control.sandbox_network(&ctx, &sandbox).await?.into()))
}

/// Replaces where a running or paused sandbox may connect to: what is left out is the default, not what it was.
///
/// In force when this answers. Connections that are open and that the new rules deny are cut.
#[utoipa::path(
    put,
    path = "/{id}/network",
    operation_id = "set_sandbox_network",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = NetworkRules,
    responses((status = 204, description = "In force"), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn set_sandbox_network(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(rules): JsonBody<NetworkRules>,
) -> Result<StatusCode, ApiError> {
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    app.control.sandbox_set_network(&ctx, &sandbox, &rules.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<NetworkRules> for sandboxes::NetworkRules {
    fn from(rules: NetworkRules) -> Self {
        let NetworkRules { allow_out, deny_out, allow_internet } = rules;
        Self { allow_out, deny_out, allow_internet }
    }
}

impl From<SandboxNetwork> for Network {
    fn from(network: SandboxNetwork) -> Self {
        let SandboxNetwork { policy, counts, addresses, names } = network;
        let NetworkPolicy { allow_out, deny_out, allow_internet } = policy;
        let denials = Denials {
            counts: counts.into_iter().map(|(reason, count)| (word(reason), count)).collect(),
            addresses: addresses.into_iter().map(DeniedAddress::from).collect(),
            names: names.into_iter().map(DeniedName::from).collect(),
        };
        Self { allow_out, deny_out, allow_internet, denials }
    }
}

impl From<sandboxes::DeniedAddress> for DeniedAddress {
    fn from(denied: sandboxes::DeniedAddress) -> Self {
        let sandboxes::DeniedAddress { address, protocol, port, packets, last_at } = denied;
        Self { address, protocol, port, packets, last_at: last_at.map(Timestamp) }
    }
}

impl From<sandboxes::DeniedName> for DeniedName {
    fn from(denied: sandboxes::DeniedName) -> Self {
        let sandboxes::DeniedName { name, queries, last_at } = denied;
        Self { name, queries, last_at: last_at.map(Timestamp) }
    }
}

const fn word(reason: DenialReason) -> &'static str {
    match reason {
        DenialReason::Policy => "policy",
        DenialReason::Private => "private",
        DenialReason::Reserved => "reserved",
        DenialReason::Forged => "forged",
        DenialReason::Ipv6 => "ipv6",
        DenialReason::Name => "name",
    }
}
