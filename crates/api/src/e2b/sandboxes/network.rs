//! `PUT /sandboxes/{id}/network`, and what a creation says of it.

use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::sandboxes::NetworkRules;
use sandbar_types::Ingress;
use serde::Deserialize;
use serde_json::Value;

use super::create::{is_empty, not_here};
use super::find_settled;
use crate::AppState;
use crate::auth::Caller;
use crate::e2b::names::PathSandbox;
use crate::error::ApiError;
use crate::extract::JsonBody;

/// Where a sandbox may connect to, and who may connect to it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::e2b) struct NetworkConfig {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    #[serde(default)]
    rules: Value,
    #[serde(default)]
    egress_proxy: Value,
    dns_servers: Option<Vec<String>>,
    #[serde(default)]
    https_ports: Value,
    allow_public_traffic: Option<bool>,
    mask_request_host: Option<String>,
}

impl NetworkConfig {
    /// The same in our words; what they do not cover is refused. `allow_internet` may also stand beside it.
    pub(super) fn into_ours(
        self,
        allow_internet: Option<bool>,
        auto_resume: bool,
    ) -> Result<(NetworkRules, Ingress), ApiError> {
        let Self {
            allow_out,
            deny_out,
            allow_internet_access,
            rules,
            egress_proxy,
            dns_servers,
            https_ports,
            allow_public_traffic,
            mask_request_host,
        } = self;
        for (asked, field) in [
            (!is_empty(&rules), "network.rules"),
            (!is_empty(&egress_proxy), "network.egressProxy"),
            (dns_servers.is_some(), "network.dnsServers"),
            (!is_empty(&https_ports), "network.httpsPorts"),
        ] {
            if asked {
                return Err(not_here(field));
            }
        }
        let rules = NetworkRules {
            allow_out: allow_out.unwrap_or_default(),
            deny_out: deny_out.unwrap_or_default(),
            allow_internet: allow_internet_access.or(allow_internet),
        };
        let ingress = Ingress {
            public: allow_public_traffic.unwrap_or(true),
            mask_request_host,
            auto_resume,
            ..Ingress::default()
        };
        Ok((rules, ingress))
    }
}

/// Replaces where it may connect to: what is left out is the default.
pub(in crate::e2b) async fn replace(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathSandbox(id): PathSandbox,
    JsonBody(config): JsonBody<NetworkConfig>,
) -> Result<StatusCode, ApiError> {
    // Who may connect to it is settled when it is made.
    let (rules, _) = config.into_ours(None, false)?;
    let sandbox = find_settled(&app, &ctx, id).await?;
    app.control.sandbox_set_network(&ctx, &sandbox, &rules).await?;
    Ok(StatusCode::NO_CONTENT)
}
