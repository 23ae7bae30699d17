//! Where a sandbox may connect to: the policy that its owner gives it, and what it means for an address or a name.
//!
//! ```text
//!   in allow_out                                          yes
//!   else in deny_out, or allow_internet is false          no
//!   else                                                  yes
//! ```
//!
//! That is all that a policy decides. What no policy can open (the host, other sandboxes, metadata services, private networks that the
//! host's operator has not opened) is refused by the host before it is asked.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::limits;

/// Where a sandbox may connect to. The default: anywhere on the internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// What may be reached whatever else is said.
    #[serde(default)]
    pub allow_out: Vec<Destination>,
    /// What may not.
    #[serde(default)]
    pub deny_out: Vec<Destination>,
    /// False: nothing but what is in `allow_out`.
    #[serde(default = "yes")]
    pub allow_internet: bool,
}

const fn yes() -> bool {
    true
}

/// An entry of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// An address or a range of addresses.
    Net(Ipv4Net),
    /// A domain.
    Domain(DomainPattern),
}

/// A domain (`example.com`), or all below it and not itself (`*.example.com`). Lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainPattern {
    domain: String,
    extent: Extent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Extent {
    Itself,
    Below,
}

/// What a policy says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameVerdict {
    /// It is in `allow_out`: its addresses may be reached.
    Allowed,
    /// It may be resolved. Whether its addresses may be reached is for the rest of the policy to say.
    Indifferent,
    /// It may not be resolved.
    Denied,
}

/// Why a policy cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// An entry is neither an address nor a domain.
    #[error("{text:?} is neither an IPv4 address, nor a range of them (CIDR), nor a domain")]
    Destination {
        /// What was given.
        text: String,
    },
    /// An entry is of IPv6.
    #[error("{text:?} is of IPv6, which sandboxes do not have")]
    Ipv6 {
        /// What was given.
        text: String,
    },
    /// A list is too long.
    #[error("{list} may have at most {} entries", limits::NETWORK_ENTRIES)]
    TooMany {
        /// Which.
        list: &'static str,
    },
    /// Allowing a domain changes nothing where everything is allowed.
    #[error(
        "allow_out names a domain, which has an effect only if all else is denied: \
         set allow_internet to false or add 0.0.0.0/0 to deny_out"
    )]
    DomainWithoutDeny,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { allow_out: Vec::new(), deny_out: Vec::new(), allow_internet: true }
    }
}

impl NetworkPolicy {
    /// A policy from what people write.
    pub fn parse(
        allow_out: &[String],
        deny_out: &[String],
        allow_internet: bool,
    ) -> Result<Self, InvalidPolicy> {
        let list = |list, entries: &[String]| {
            if entries.len() > limits::NETWORK_ENTRIES {
                return Err(InvalidPolicy::TooMany { list });
            }
            entries.iter().map(|entry| entry.parse()).collect()
        };
        let policy = Self {
            allow_out: list("allow_out", allow_out)?,
            deny_out: list("deny_out", deny_out)?,
            allow_internet,
        };
        let names = domains(&policy.allow_out).next().is_some();
        if names && !policy.denies_all() { Err(InvalidPolicy::DomainWithoutDeny) } else { Ok(policy) }
    }

    /// Whether what is not allowed is denied.
    #[must_use]
    pub fn denies_all(&self) -> bool {
        !self.allow_internet || nets(&self.deny_out).any(|net| net.prefix_len() == 0)
    }

    /// The addresses that are allowed whatever else is said.
    pub fn allowed_nets(&self) -> impl Iterator<Item = Ipv4Net> {
        nets(&self.allow_out)
    }

    /// The addresses that are denied unless they are allowed.
    pub fn denied_nets(&self) -> impl Iterator<Item = Ipv4Net> {
        let all = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        nets(&self.deny_out).chain((!self.allow_internet).then_some(all))
    }

    /// Whether it depends on names, so that somebody has to look at what the sandbox resolves.
    #[must_use]
    pub fn has_domains(&self) -> bool {
        domains(&self.allow_out).chain(domains(&self.deny_out)).next().is_some()
    }

    /// What it says of a name, which may be in any case and end with a dot.
    #[must_use]
    pub fn judge_name(&self, name: &str) -> NameVerdict {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let matches = |entries| domains(entries).any(|pattern| pattern.covers(&name));
        if matches(&self.allow_out) {
            NameVerdict::Allowed
        } else if self.denies_all() || matches(&self.deny_out) {
            NameVerdict::Denied
        } else {
            NameVerdict::Indifferent
        }
    }
}

fn nets(entries: &[Destination]) -> impl Iterator<Item = Ipv4Net> {
    entries.iter().filter_map(|entry| match entry {
        Destination::Net(net) => Some(*net),
        Destination::Domain(_) => None,
    })
}

fn domains(entries: &[Destination]) -> impl Iterator<Item = &DomainPattern> {
    entries.iter().filter_map(|entry| match entry {
        Destination::Domain(domain) => Some(domain),
        Destination::Net(_) => None,
    })
}

impl DomainPattern {
    /// `name` is in lower case, without a dot at its end.
    fn covers(&self, name: &str) -> bool {
        match self.extent {
            Extent::Itself => name == self.domain,
            Extent::Below => {
                name.strip_suffix(&self.domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (domain, extent) = match text.strip_prefix("*.") {
            Some(domain) => (domain, Extent::Below),
            None => (text, Extent::Itself),
        };
        let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        let labels_fit = domain.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
        // A last label of digits alone is an address that was mistyped.
        let last_fits =
            domain.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()));
        (labels_fit && last_fits && domain.len() <= 253).then_some(Self { domain, extent })
    }
}

impl FromStr for Destination {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        if let Ok(net) = text.parse::<Ipv4Net>() {
            return Ok(Self::Net(net.trunc()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Net(address.into()));
        }
        if text.contains(':')
            && text.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'/' | b'.'))
        {
            return Err(InvalidPolicy::Ipv6 { text: text.to_owned() });
        }
        let domain = DomainPattern::parse(text);
        domain.map(Self::Domain).ok_or_else(|| InvalidPolicy::Destination { text: text.to_owned() })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == 32 => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Domain(DomainPattern { domain, extent: Extent::Itself }) => f.write_str(domain),
            Self::Domain(DomainPattern { domain, extent: Extent::Below }) => write!(f, "*.{domain}"),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = InvalidPolicy;

    fn try_from(text: String) -> Result<Self, InvalidPolicy> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    fn policy(allow: &[&str], deny: &[&str]) -> NetworkPolicy {
        NetworkPolicy::parse(&list(allow), &list(deny), true).unwrap()
    }

    #[test]
    fn entries_are_addresses_ranges_and_domains_in_one_spelling() {
        for (text, told) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4/32", "1.2.3.4"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("*.example.com", "*.example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("localhost", "localhost"),
        ] {
            let parsed: Destination = text.parse().unwrap();
            assert_eq!(parsed.to_string(), told);
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for bad in [
            "",
            "*",
            "*.",
            ".",
            "a..b",
            "-a.com",
            "a-.com",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4/33",
            "300.1.1.1",
            "a b.com",
            "a.com/24",
            "*.*.com",
            "a*.com",
            "bücher.example",
            "http://a.com",
            "a.com:443",
            "a\n.com",
            &"a".repeat(64),
            &"a.".repeat(128),
        ] {
            assert!(matches!(bad.parse::<Destination>(), Err(InvalidPolicy::Destination { .. })), "{bad:?}");
        }
        for v6 in ["::/0", "2001:db8::1", "fd00:ec2::254", "::ffff:1.2.3.4"] {
            assert!(matches!(v6.parse::<Destination>(), Err(InvalidPolicy::Ipv6 { .. })), "{v6}");
        }
    }

    #[test]
    fn a_domain_is_allowed_only_where_all_else_is_denied() {
        let domain = list(&["example.com"]);
        let refused = NetworkPolicy::parse(&domain, &list(&["8.0.0.0/8"]), true);
        assert_eq!(refused, Err(InvalidPolicy::DomainWithoutDeny));
        assert!(NetworkPolicy::parse(&domain, &list(&["0.0.0.0/0"]), true).unwrap().denies_all());
        assert!(NetworkPolicy::parse(&domain, &[], false).unwrap().denies_all());
        // To deny one needs nothing.
        assert!(NetworkPolicy::parse(&[], &domain, true).unwrap().has_domains());
        let many = vec!["1.1.1.1".to_owned(); limits::NETWORK_ENTRIES + 1];
        assert_eq!(NetworkPolicy::parse(&[], &many, true), Err(InvalidPolicy::TooMany { list: "deny_out" }));
    }

    #[test]
    fn names_are_judged_by_the_list_that_allows_first() {
        use NameVerdict::{Allowed, Denied, Indifferent};
        let closed = policy(&["example.com", "*.example.org"], &["0.0.0.0/0", "www.example.org"]);
        for (name, verdict) in [
            ("example.com", Allowed),
            ("EXAMPLE.com.", Allowed),
            ("www.example.com", Denied),
            ("notexample.com", Denied),
            ("example.org", Denied),
            ("a.example.org", Allowed),
            ("a.b.example.org", Allowed),
            ("www.example.org", Allowed),
            (".example.org", Denied),
            ("xexample.org", Denied),
            ("example.com.evil.net", Denied),
            ("", Denied),
        ] {
            assert_eq!(closed.judge_name(name), verdict, "{name}");
        }
        let open = policy(&[], &["*.evil.net"]);
        assert_eq!(open.judge_name("a.evil.net"), Denied);
        assert_eq!(open.judge_name("evil.net"), Indifferent);
        assert_eq!(NetworkPolicy::default().judge_name("evil.net"), Indifferent);
    }

    #[test]
    fn what_is_left_out_of_a_stored_policy_is_the_default() {
        let read: NetworkPolicy = serde_json::from_str("{}").unwrap();
        assert_eq!(read, NetworkPolicy::default());
        let policy = policy(&["1.1.1.1", "a.com"], &["0.0.0.0/0"]);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            text,
            r#"{"allow_out":["1.1.1.1","a.com"],"deny_out":["0.0.0.0/0"],"allow_internet":true}"#
        );
        assert_eq!(serde_json::from_str::<NetworkPolicy>(&text).unwrap(), policy);
        assert!(serde_json::from_str::<NetworkPolicy>(r#"{"deny_out":["::1"]}"#).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_told_as_it_is_taken(text in "\\PC{0,40}|[a-z0-9.*:/-]{0,30}") {
            if let Ok(destination) = text.parse::<Destination>() {
                let told = destination.to_string();
                // It goes into rules and comments as it is.
                prop_assert!(told.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*/".contains(&b)));
                prop_assert_eq!(told.parse::<Destination>(), Ok(destination));
            }
        }
    }
}
