//! Calls about where a sandbox may connect to.

use std::time::Duration;

use sandbar_proto::host;
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, NetworkPolicy};

use super::HostError;
use super::client::{HostClient, within};

impl HostClient {
    /// Replaces where a sandbox may connect to.
    pub async fn set_network_policy(
        &self,
        id: Id<Sandbox>,
        policy: &NetworkPolicy,
        limit: Duration,
    ) -> Result<(), HostError> {
        let request = host::SetNetworkPolicyRequest {
            id: id.to_string(),
            policy: network_word(policy).into(),
            ..Default::default()
        };
        self.call(self.rpc().set_network_policy_with_options(request, within(limit))).await?;
        Ok(())
    }

    /// Where a sandbox may connect to, and what it was denied.
    pub async fn network_denials(
        &self,
        id: Id<Sandbox>,
        limit: Duration,
    ) -> Result<host::GetNetworkDenialsResponse, HostError> {
        let request = host::GetNetworkDenialsRequest { id: id.to_string(), ..Default::default() };
        Ok(self.call(self.rpc().get_network_denials_with_options(request, within(limit))).await?.into_owned())
    }
}

/// The contract's word.
pub(crate) fn network_word(policy: &NetworkPolicy) -> host::NetworkPolicy {
    let NetworkPolicy { allow_out, deny_out, allow_internet } = policy;
    host::NetworkPolicy {
        allow_out: allow_out.iter().map(ToString::to_string).collect(),
        deny_out: deny_out.iter().map(ToString::to_string).collect(),
        deny_internet: !allow_internet,
        ..Default::default()
    }
}
