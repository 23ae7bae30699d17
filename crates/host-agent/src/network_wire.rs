//! Network policies and what they denied, between the agent's words and the contract's.

use std::time::Duration;

use sandbar_hostnet::{Denials, DeniedAddress, DeniedName, Reason};
use sandbar_proto::host::get_network_denials_response::{Address, Count, Name, Reason as WireReason};
use sandbar_proto::host::{self, GetNetworkDenialsResponse};
use sandbar_types::NetworkPolicy;

use crate::error::Error;
use crate::sandbox::activity::now_unix_ms;

/// A policy; the default where there is none.
pub(crate) fn policy(wire: Option<host::NetworkPolicy>) -> Result<NetworkPolicy, Error> {
    let Some(host::NetworkPolicy { allow_out, deny_out, deny_internet, .. }) = wire else {
        return Ok(NetworkPolicy::default());
    };
    NetworkPolicy::parse(&allow_out, &deny_out, !deny_internet).map_err(|e| Error::BadInput(e.to_string()))
}

/// A sandbox's policy and what was denied.
pub(crate) fn denials(policy: &NetworkPolicy, denials: Denials) -> GetNetworkDenialsResponse {
    let Denials { counts, addresses, names } = denials;
    let reasons =
        [Reason::Policy, Reason::Private, Reason::Reserved, Reason::Forged, Reason::Ipv6, Reason::Name];
    let counted =
        |reason| counts.iter().find(|(other, _)| *other == reason).map_or(0, |(_, packets)| *packets);
    let now = now_unix_ms();
    GetNetworkDenialsResponse {
        policy: host::NetworkPolicy {
            allow_out: policy.allow_out.iter().map(ToString::to_string).collect(),
            deny_out: policy.deny_out.iter().map(ToString::to_string).collect(),
            deny_internet: !policy.allow_internet,
            ..Default::default()
        }
        .into(),
        counts: reasons
            .map(|reason| Count {
                reason: word(reason).into(),
                packets: counted(reason),
                ..Default::default()
            })
            .into(),
        addresses: addresses
            .into_iter()
            .map(|DeniedAddress { address, protocol, port, packets, ago }| Address {
                address: address.to_string(),
                protocol: protocol_name(protocol),
                port: port.into(),
                packets,
                last_at_unix_ms: before(now, ago),
                ..Default::default()
            })
            .collect(),
        names: names
            .into_iter()
            .map(|DeniedName { name, queries, ago }| Name {
                name,
                queries,
                last_at_unix_ms: before(now, ago),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn word(reason: Reason) -> WireReason {
    match reason {
        Reason::Policy => WireReason::REASON_POLICY,
        Reason::Private => WireReason::REASON_PRIVATE,
        Reason::Reserved => WireReason::REASON_RESERVED,
        Reason::Forged => WireReason::REASON_FORGED,
        Reason::Ipv6 => WireReason::REASON_IPV6,
        Reason::Name => WireReason::REASON_NAME,
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        number => number.to_string(),
    }
}

fn before(now_unix_ms: i64, ago: Duration) -> i64 {
    now_unix_ms - i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)
}
