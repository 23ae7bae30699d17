//! The table's own account: what it counted, as `nft` tells it in JSON.

use std::{net::Ipv4Addr, time::Duration};

use sandbar_types::network::Destination;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::rules::{NAMES, NamedAddress};
use crate::NetError;

/// For how long the table remembers a refusal, as in [`rules`](super::rules).
const MEMORY: Duration = Duration::from_secs(3_600);

/// What a guest was denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    /// Packets by reason, each reason once.
    pub counts: Vec<(Reason, u64)>,
    /// Where to, in the last hour, the last first. Bounded: what does not fit is counted all the same.
    pub addresses: Vec<DeniedAddress>,
    /// Names that were not resolved, the last first. Bounded in the same way.
    pub names: Vec<DeniedName>,
}

/// Why something was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The sandbox's policy.
    Policy,
    /// A private network that is not opened, or not allowed.
    Private,
    /// What no policy opens.
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
pub struct DeniedAddress {
    /// Where to.
    pub address: Ipv4Addr,
    /// The protocol's number.
    pub protocol: u8,
    /// 0 where the protocol has none.
    pub port: u16,
    /// How many.
    pub packets: u64,
    /// How long ago the last one was.
    pub ago: Duration,
}

/// A name that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedName {
    /// In lower case.
    pub name: String,
    /// How often it was asked for.
    pub queries: u64,
    /// How long ago the last time was.
    pub ago: Duration,
}

/// What a table says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) counts: Vec<(Reason, u64)>,
    pub(super) addresses: Vec<DeniedAddress>,
    /// Addresses of names, as far as the names are known.
    pub(super) names: Vec<NamedAddress>,
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Object {
    Counter(Counter),
    Set(Set),
    #[serde(untagged)]
    Other(IgnoredAny),
}

#[derive(Deserialize)]
struct Counter {
    name: String,
    packets: u64,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

/// An element that has more than its key.
#[derive(Deserialize)]
struct Element<K> {
    elem: Inner<K>,
}

#[derive(Deserialize)]
struct Inner<K> {
    val: K,
    /// Seconds.
    #[serde(default)]
    expires: u64,
    counter: Option<Packets>,
    comment: Option<String>,
}

#[derive(Deserialize)]
struct Packets {
    packets: u64,
}

#[derive(Deserialize)]
struct WithPort {
    concat: (Ipv4Addr, u8, u16),
}

#[derive(Deserialize)]
struct Portless {
    concat: (Ipv4Addr, u8),
}

impl Account {
    pub(super) fn read(listing: &[u8]) -> Result<Self, NetError> {
        let listing: Listing = serde_json::from_slice(listing).map_err(NetError::Account)?;
        let mut account = Self::default();
        for object in listing.nftables {
            match object {
                Object::Counter(Counter { name, packets }) => {
                    account.counts.extend(Reason::of_counter(&name).map(|reason| (reason, packets)));
                }
                Object::Set(set) if set.name == "denials" => {
                    let refused = elements(set)?.into_iter().map(
                        |Inner::<WithPort> { val, expires, counter, .. }| {
                            let (address, protocol, port) = val.concat;
                            denied(address, protocol, port, (expires, counter))
                        },
                    );
                    account.addresses.extend(refused);
                }
                Object::Set(set) if set.name == "portless" => {
                    let refused = elements(set)?.into_iter().map(
                        |Inner::<Portless> { val, expires, counter, .. }| {
                            let (address, protocol) = val.concat;
                            denied(address, protocol, 0, (expires, counter))
                        },
                    );
                    account.addresses.extend(refused);
                }
                Object::Set(set) if set.name == NAMES => {
                    account.names.extend(elements(set)?.into_iter().filter_map(named));
                }
                Object::Set(_) | Object::Other(_) => {}
            }
        }
        account.addresses.sort_by_key(|denied| (denied.ago, denied.address, denied.port));
        Ok(account)
    }
}

fn elements<K: serde::de::DeserializeOwned>(set: Set) -> Result<Vec<Inner<K>>, NetError> {
    let element = |value| serde_json::from_value::<Element<K>>(value).map(|element| element.elem);
    set.elem.into_iter().map(element).collect::<Result<_, _>>().map_err(NetError::Account)
}

/// None for an address without a name that can be judged: it has to be resolved anew.
fn named(element: Inner<Ipv4Addr>) -> Option<NamedAddress> {
    let Inner { val: address, expires, comment, .. } = element;
    let name = comment?;
    // What is no domain could mean something else in a rule.
    let is_one = matches!(name.parse(), Ok(Destination::Domain(_))) && !name.contains('*');
    is_one.then(|| NamedAddress { address, name, left: Duration::from_secs(expires) })
}

fn denied(
    address: Ipv4Addr,
    protocol: u8,
    port: u16,
    (expires, counter): (u64, Option<Packets>),
) -> DeniedAddress {
    let packets = counter.map_or(0, |counter| counter.packets);
    DeniedAddress {
        address,
        protocol,
        port,
        packets,
        ago: MEMORY.saturating_sub(Duration::from_secs(expires)),
    }
}

impl Reason {
    fn of_counter(name: &str) -> Option<Self> {
        Some(match name {
            "refused_policy" => Self::Policy,
            "refused_private" => Self::Private,
            "refused_reserved" => Self::Reserved,
            "refused_forged" => Self::Forged,
            "refused_ipv6" => Self::Ipv6,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_and_what_else_is_there_does_not_matter() {
        let listing = br#"{"nftables": [
            {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"counter": {"family": "inet", "name": "refused_policy", "table": "sandbar", "handle": 9, "packets": 7, "bytes": 420}},
            {"counter": {"family": "inet", "name": "of a later version", "table": "sandbar", "handle": 9, "packets": 1, "bytes": 1}},
            {"set": {"name": "denied", "elem": [{"prefix": {"addr": "0.0.0.0", "len": 0}}]}},
            {"set": {"name": "portless"}},
            {"set": {"name": "names", "elem": [
                {"elem": {"val": "93.184.0.9", "timeout": 60, "expires": 59, "comment": "a.com"}},
                {"elem": {"val": "93.184.0.8", "timeout": 60, "expires": 59}},
                {"elem": {"val": "93.184.0.7", "timeout": 60, "expires": 59, "comment": "*.com"}},
                {"elem": {"val": "93.184.0.6", "timeout": 60, "expires": 59, "comment": "\" }"}}]}},
            {"set": {"name": "denials", "elem": [
                {"elem": {"val": {"concat": ["1.2.3.4", 6, 443]}, "expires": 3590, "counter": {"packets": 3, "bytes": 4}}},
                {"elem": {"val": {"concat": ["1.2.3.5", 17, 53]}, "expires": 3599, "counter": {"packets": 4, "bytes": 4}}}]}},
            {"chain": {"name": "cut"}}, {"rule": {"expr": [{"drop": null}]}}]}"#;
        let account = Account::read(listing).unwrap();
        assert_eq!(account.counts, [(Reason::Policy, 7)]);
        let ago = |denied: &DeniedAddress| (denied.port, denied.packets, denied.ago.as_secs());
        assert_eq!(account.addresses.iter().map(ago).collect::<Vec<_>>(), [(53, 4, 1), (443, 3, 10)]);
        let left = Duration::from_secs(59);
        let name = NamedAddress { address: Ipv4Addr::new(93, 184, 0, 9), name: "a.com".into(), left };
        assert_eq!(account.names, [name]);
        assert!(matches!(Account::read(b"{}"), Err(NetError::Account(_))));
        let strange = br#"{"nftables": [{"set": {"name": "denials", "elem": ["1.2.3.4"]}}]}"#;
        assert!(matches!(Account::read(strange), Err(NetError::Account(_))));
    }
}
