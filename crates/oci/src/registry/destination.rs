//! Where requests for an image may go.
//!
//! Whoever names an image names a server, which this host then asks; and that server may send it on to others. So that nobody reaches in
//! this way what the host alone can reach (services of its own network, a cloud's metadata), only public addresses are asked, over TLS,
//! unless the host's operator has named the registry.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;

use crate::error::ImageError;
use crate::reference::Reference;

/// How often a registry may send us on.
const REDIRECTS: usize = 5;

/// The registries that the host's operator vouches for, each as `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Asked over plain HTTP, wherever they are.
    pub insecure: Vec<String>,
    /// Asked over TLS, though they are at private addresses.
    pub private: Vec<String>,
}

/// Where requests for one image may go.
#[derive(Debug, Clone)]
pub(super) struct Destinations {
    registry: String,
    /// The registry speaks HTTP without TLS.
    plain: bool,
    /// Any address will do.
    anywhere: bool,
}

/// The error of a name that leads to private addresses alone.
#[derive(Debug, thiserror::Error)]
#[error("private address")]
struct Refusal;

impl Destinations {
    pub(super) fn new(reference: &Reference, allowed: &Registries) -> Self {
        let names = |list: &[String]| list.iter().any(|name| name == reference.registry_host());
        let plain = names(&allowed.insecure);
        Self { registry: reference.registry().to_owned(), plain, anywhere: plain || names(&allowed.private) }
    }

    pub(super) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// Refuses a request in the clear, and one to an address that stands in the URL itself: those are not looked up.
    pub(super) fn check(&self, url: &Url) -> Result<(), ImageError> {
        if self.permits(url) { Ok(()) } else { Err(ImageError::Private { registry: self.registry.clone() }) }
    }

    fn permits(&self, url: &Url) -> bool {
        let scheme = url.scheme() == "https" || url.scheme() == "http" && self.plain;
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        scheme && (self.anywhere || address.map_or(true, is_public))
    }

    pub(super) fn redirects(&self) -> redirect::Policy {
        let own = self.clone();
        redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                attempt.error(io::Error::other("too many redirects"))
            } else if own.permits(attempt.url()) {
                attempt.follow()
            } else {
                attempt.error(Refusal)
            }
        })
    }

    pub(super) fn resolver(&self) -> Arc<PublicNames> {
        Arc::new(PublicNames { anywhere: self.anywhere })
    }
}

/// Looks names up, and gives public addresses only: the connection is then made to one of those, and to no other.
#[derive(Debug)]
pub(super) struct PublicNames {
    anywhere: bool,
}

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        let anywhere = self.anywhere;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let usable: Vec<SocketAddr> =
                found.iter().copied().filter(|address| anywhere || is_public(address.ip())).collect();
            if usable.is_empty() && !found.is_empty() {
                return Err(Refusal.into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// Whether a request failed because of where it would have gone.
pub(super) fn is_refusal(error: &reqwest::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<Refusal>())
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmarks = a == 198 && (18..20).contains(&b);
    let protocols = a == 192 && b == 0 && c == 0;
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || shared
        || benchmarks
        || protocols)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let first = address.segments()[0];
    // What is given out to be used in the Internet; of that, not what carries IPv4 (6to4, Teredo) and not what is for documentation.
    first & 0xe000 == 0x2000
        && first != 0x2002
        && !(first == 0x2001 && matches!(address.segments()[1], 0 | 0xdb8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for public in
            ["1.1.1.1", "93.184.216.34", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn only_what_the_operator_names_may_be_private_or_in_the_clear() {
        let allowed =
            Registries { insecure: vec!["127.0.0.1:5000".into()], private: vec!["registry.corp".into()] };
        let of = |reference: &str| Destinations::new(&reference.parse().unwrap(), &allowed);
        let may =
            |destinations: &Destinations, url: &str| destinations.check(&Url::parse(url).unwrap()).is_ok();
        let public = of("docker.io/a");
        assert!(may(&public, "https://registry-1.docker.io/v2/"));
        for url in [
            "http://registry-1.docker.io/v2/",
            "https://127.0.0.1/",
            "https://[::1]:8443/",
            "https://2130706433/",
            "ftp://a.b/",
        ] {
            assert!(!may(&public, url), "{url}");
        }
        let insecure = of("127.0.0.1:5000/a");
        assert!(insecure.is_plain() && may(&insecure, "http://127.0.0.1:5000/v2/"));
        // Another port is another registry.
        assert!(!may(&of("127.0.0.1:5001/a"), "https://127.0.0.1:5001/v2/"));
        let private = of("registry.corp/a");
        assert!(may(&private, "https://10.0.0.1/v2/") && !may(&private, "http://10.0.0.1/v2/"));
    }
}
