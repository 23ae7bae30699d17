//! How many requests one caller may send: a bucket in this replica's memory that each request fills a little and time empties.
//!
//! - Who sends a credential is counted by it, valid or not, before anything is looked up; who sends none, by their address.
//! - A credential that was not seen of late is paid for by its address, too: making ever new ones up gains nothing.
//! - Memory is bounded. The buckets are in two generations; when the younger is full the older, of those who were not heard of for longest, is
//!   forgotten, which costs no more than that they begin anew.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use ipnet::IpNet;
use sandbar_types::ErrorCode;
use sha2::{Digest as _, Sha256};

use crate::auth::{X_API_KEY, X_HOST_TOKEN, socket_token};
use crate::client::{Peer, client_address};
use crate::error::ApiError;

/// Callers of one generation.
const GENERATION: usize = 50_000;
/// Whom load balancers ask: they have no credential and all come from few addresses.
const FREE: [&str; 2] = ["/healthz", "/readyz"];

/// How many requests a caller may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    /// In the long run.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl RequestRate {
    /// More than a program needs that waits for its answers.
    pub const DEFAULT: Self = Self::per_second(NonZeroU32::new(100).expect("not zero"));

    /// So many in the long run, and ten times as many at once.
    #[must_use]
    pub const fn per_second(per_second: NonZeroU32) -> Self {
        Self { per_second, burst: per_second.saturating_mul(NonZeroU32::new(10).expect("not zero")) }
    }
}

/// What requests are counted by. A credential is never kept, only told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Credential([u8; 16]),
    Address(IpAddr),
    /// No listener said where it comes from.
    Unknown,
}

impl Who {
    fn credential(headers: &HeaderMap) -> Option<Self> {
        let named = [&X_API_KEY, &header::AUTHORIZATION, &X_HOST_TOKEN];
        let sent = named.into_iter().find_map(|name| headers.get(name).map(|value| value.as_bytes()));
        let sent = sent.or_else(|| socket_token(headers).map(str::as_bytes))?;
        let digest: [u8; 32] = Sha256::digest(sent).into();
        digest.first_chunk().copied().map(Self::Credential)
    }

    /// Whoever has one address of an IPv6 network has all of them.
    fn address(address: Option<IpAddr>) -> Self {
        match address {
            Some(IpAddr::V6(address)) => {
                Self::Address(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into())
            }
            Some(address) => Self::Address(address),
            None => Self::Unknown,
        }
    }
}

/// How full a caller's bucket was, and when.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

#[derive(Debug)]
struct Buckets {
    rate: RequestRate,
    capacity: usize,
    young: HashMap<Who, Bucket>,
    old: HashMap<Who, Bucket>,
}

impl Buckets {
    fn new(rate: RequestRate, capacity: usize) -> Self {
        Self { rate, capacity, young: HashMap::new(), old: HashMap::new() }
    }

    /// Counts a request. Refused: how long until one would be let in.
    fn admit(&mut self, credential: Option<Who>, address: Who, now: Instant) -> Result<(), Duration> {
        match credential {
            Some(known) if self.young.contains_key(&known) || self.old.contains_key(&known) => {
                self.fill(known, now)
            }
            Some(unknown) => {
                self.fill(address, now)?;
                self.fill(unknown, now)
            }
            None => self.fill(address, now),
        }
    }

    fn fill(&mut self, who: Who, now: Instant) -> Result<(), Duration> {
        let (per_second, burst) = (f64::from(self.rate.per_second.get()), f64::from(self.rate.burst.get()));
        let last = self.young.get(&who).copied().or_else(|| self.old.remove(&who));
        let level = last.map_or(0.0, |last| {
            let passed = now.saturating_duration_since(last.at).as_secs_f64();
            (last.level - passed * per_second).max(0.0)
        });
        let over = level + 1.0 - burst;
        let level = if over > 0.0 { level } else { level + 1.0 };
        if self.young.len() >= self.capacity && !self.young.contains_key(&who) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(who, Bucket { level, at: now });
        if over > 0.0 { Err(Duration::from_secs_f64(over / per_second)) } else { Ok(()) }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Throttle {
    /// None = nobody is refused.
    buckets: Option<Arc<Mutex<Buckets>>>,
    trusted_proxies: Arc<[IpNet]>,
}

impl Throttle {
    pub(crate) fn new(rate: Option<RequestRate>, trusted_proxies: Arc<[IpNet]>) -> Self {
        let buckets = rate.map(|rate| Arc::new(Mutex::new(Buckets::new(rate, GENERATION))));
        Self { buckets, trusted_proxies }
    }

    fn admit(&self, request: &Request) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        if FREE.contains(&request.uri().path()) {
            return Ok(());
        }
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let address = peer.map(|peer| client_address(peer, request.headers(), &self.trusted_proxies));
        let (credential, address) = (Who::credential(request.headers()), Who::address(address));
        // Nothing in there can be left half done.
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.admit(credential, address, Instant::now())
    }
}

/// Refuses who sends too much.
pub(crate) async fn throttle(
    State(throttle): State<Throttle>,
    request: Request,
    next: Next,
) -> Response<axum::body::Body> {
    match throttle.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            let message = "too many requests: see the header Retry-After";
            ApiError::new(ErrorCode::RateLimited, message).retry_after(wait).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: RequestRate = RequestRate {
        per_second: NonZeroU32::new(2).expect("not zero"),
        burst: NonZeroU32::new(4).expect("not zero"),
    };

    fn key(n: u8) -> Option<Who> {
        Some(Who::Credential([n; 16]))
    }

    fn from(n: u8) -> Who {
        Who::Address(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn a_burst_is_let_in_then_as_many_as_time_empties_and_the_wait_is_what_it_takes() {
        let mut buckets = Buckets::new(RATE, 100);
        let start = Instant::now();
        for _ in 0..4 {
            buckets.admit(key(1), from(1), start).unwrap();
        }
        let wait = buckets.admit(key(1), from(1), start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        // A refusal costs nothing.
        assert_eq!(buckets.admit(key(1), from(1), start), Err(wait));
        buckets.admit(key(1), from(1), start + wait).unwrap();
        assert!(buckets.admit(key(1), from(1), start + wait).is_err());
        // Nobody else pays for that.
        buckets.admit(key(2), from(1), start).unwrap();
        buckets.admit(None, from(2), start).unwrap();
    }

    #[test]
    fn credentials_that_were_made_up_are_paid_for_by_their_address() {
        let mut buckets = Buckets::new(RATE, 100);
        let now = Instant::now();
        let let_in = (0..50).filter(|n| buckets.admit(key(*n), from(1), now).is_ok()).count();
        assert_eq!(let_in, 4);
        assert!(buckets.admit(None, from(1), now).is_err());
        // One that is known goes on all the same.
        buckets.admit(key(0), from(1), now).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_who_is_heard_of_is_remembered() {
        let mut buckets = Buckets::new(RATE, 10);
        let now = Instant::now();
        for _ in 0..4 {
            buckets.admit(key(255), from(255), now).unwrap();
        }
        for n in 0..200 {
            buckets.admit(None, from(n), now).unwrap();
            assert!(buckets.admit(key(255), from(255), now).is_err(), "forgotten after {n}");
            assert!(buckets.young.len() <= 10 && buckets.old.len() <= 10);
        }
    }

    #[test]
    fn neighbours_in_a_network_share_a_bucket() {
        let of = |text: &str| Who::address(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
