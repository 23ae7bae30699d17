//! Where a sandbox may connect to. Its host enforces that, so its host is asked first and the row follows; what is told is what the host
//! says is in force. One request of a sandbox at a time: else two could come to the host in one order and to the row in the other.

use chrono::{DateTime, Utc};
use sandbar_proto::host::get_network_denials_response::{Address, Count, Name, Reason};
use sandbar_proto::host::{self, GetNetworkDenialsResponse};
use sandbar_store::audit::Outcome;
use sandbar_store::locks::Lock;
use sandbar_types::NetworkPolicy;
use sandbar_types::network::InvalidPolicy;

use super::{CallSite, NetworkRules, Sandbox, SandboxError, validate};
use crate::host_client::HostError;
use crate::{Control, OpContext, audit, reported};

/// Where a sandbox may connect to, and what it was denied since it was made or last resumed (of names,
/// since its host's agent started, if that is later).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct SandboxNetwork {
    pub policy: NetworkPolicy,
    /// Packets, and queries for names.
    pub counts: Vec<(DenialReason, u64)>,
    pub addresses: Vec<DeniedAddress>,
    pub names: Vec<DeniedName>,
}

/// Why something was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialReason {
    /// The sandbox's policy.
    Policy,
    /// A private network.
    Private,
    /// The host, another sandbox, a metadata service.
    Reserved,
    /// A source address that is not the guest's.
    Forged,
    /// IPv6.
    Ipv6,
    /// A name that the policy denies.
    Name,
}

/// An address that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct DeniedAddress {
    pub address: String,
    pub protocol: String,
    /// None where the protocol has none.
    pub port: Option<u32>,
    pub packets: u64,
    pub last_at: Option<DateTime<Utc>>,
}

/// A name that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct DeniedName {
    pub name: String,
    pub queries: u64,
    pub last_at: Option<DateTime<Utc>>,
}

impl Control {
    /// Where a running or paused sandbox may connect to, and what it was denied.
    pub async fn sandbox_network(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
    ) -> Result<SandboxNetwork, SandboxError> {
        let limit = self.config().call_deadline;
        let client = self.client_of_kept(sandbox, "asking for its network policy")?;
        let failed = |error| self.host_failed(CallSite::of(sandbox, "the question", limit), error);
        let told = client.network_denials(sandbox.id, limit).await.map_err(failed)?;
        SandboxNetwork::read(told)
            .map_err(|_| failed(HostError::Protocol("a network policy that cannot be one")))
    }

    /// Replaces where a running or paused sandbox may connect to.
    pub async fn sandbox_set_network(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        rules: &NetworkRules,
    ) -> Result<(), SandboxError> {
        let policy = validate::network(rules)?;
        let (control, ctx, sandbox) = (self.clone(), ctx.clone(), sandbox.clone());
        self.finish(async move { control.set_network_in_steps(&ctx, &sandbox, &policy).await }).await
    }

    async fn set_network_in_steps(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        policy: &NetworkPolicy,
    ) -> Result<(), SandboxError> {
        let limit = self.config().call_deadline;
        let client = self.client_of_kept(sandbox, "changing its network policy")?;
        // Its host's first: who waits for a host that does not answer takes no turn from the others.
        let _turn = client.network_turn().await;
        let _of_all = self.network_turn().await;
        let lock = self.store().try_lock(Lock::Network(sandbox.id)).await?;
        let lock = lock.ok_or(SandboxError::Busy { id: sandbox.id })?;
        client
            .set_network_policy(sandbox.id, policy, limit)
            .await
            .map_err(|error| self.host_failed(CallSite::of(sandbox, "the change", limit), error))?;
        let mut tx = self.store().begin().await?;
        let row = tx.sandbox_network(sandbox.id, policy).await?;
        let row = row.ok_or(SandboxError::Gone { id: sandbox.id })?;
        tx.audit(&audit::sandbox(ctx, &row, "update_network", Outcome::Success)).await?;
        tx.commit().await?;
        Ok(lock.release().await?)
    }
}

impl SandboxNetwork {
    fn read(told: GetNetworkDenialsResponse) -> Result<Self, InvalidPolicy> {
        let host::NetworkPolicy { allow_out, deny_out, deny_internet, .. } =
            told.policy.into_option().unwrap_or_default();
        Ok(Self {
            policy: NetworkPolicy::parse(&allow_out, &deny_out, !deny_internet)?,
            counts: told.counts.iter().filter_map(count).collect(),
            addresses: told.addresses.into_iter().map(DeniedAddress::from).collect(),
            names: told.names.into_iter().map(DeniedName::from).collect(),
        })
    }
}

/// None for a reason of a later version.
fn count(count: &Count) -> Option<(DenialReason, u64)> {
    let reason = match count.reason.as_known()? {
        Reason::REASON_UNSPECIFIED => return None,
        Reason::REASON_POLICY => DenialReason::Policy,
        Reason::REASON_PRIVATE => DenialReason::Private,
        Reason::REASON_RESERVED => DenialReason::Reserved,
        Reason::REASON_FORGED => DenialReason::Forged,
        Reason::REASON_IPV6 => DenialReason::Ipv6,
        Reason::REASON_NAME => DenialReason::Name,
    };
    Some((reason, count.packets))
}

impl From<Address> for DeniedAddress {
    fn from(told: Address) -> Self {
        let Address { address, protocol, port, packets, last_at_unix_ms, .. } = told;
        let port = (port != 0).then_some(port);
        Self { address, protocol, port, packets, last_at: reported::time(last_at_unix_ms) }
    }
}

impl From<Name> for DeniedName {
    fn from(told: Name) -> Self {
        let Name { name, queries, last_at_unix_ms, .. } = told;
        Self { name, queries, last_at: reported::time(last_at_unix_ms) }
    }
}
