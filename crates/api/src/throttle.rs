//! How many requests one caller may send: a bucket in this replica's memory that each request fills a little and time empties.
//!
//! - Who sends a credential is counted by it, valid or not, before anything is looked up; who sends none, by their address.
//! - A credential is paid for by its address, too, until an answer shows that it is one, and again after one that shows that it is none:
//!   making ever new ones up gains nothing.
//! - What the edge has to look up for somebody whom it does not know is paid for by the address ([`Throttle::charge`]).
//! - Memory is bounded. The buckets are in two generations; when the younger is full the older, of those who were not heard of for longest, is
//!   forgotten, which costs no more than that they begin anew.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use ipnet::IpNet;
use sandbar_types::ErrorCode;
use sha2::{Digest as _, Sha256};

use crate::Config;
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
    /// Of a credential: whether the last answer to it took it for one.
    is_good: bool,
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
            Some(good) if self.bucket(&good).is_some_and(|bucket| bucket.is_good) => self.fill(good, now),
            Some(unknown) => {
                self.fill(address, now)?;
                self.fill(unknown, now)
            }
            None => self.fill(address, now),
        }
    }

    /// What the answer said of a credential.
    fn judge(&mut self, credential: &Who, is_good: bool) {
        if let Some(bucket) = self.bucket(credential) {
            bucket.is_good = is_good;
        }
    }

    fn bucket(&mut self, who: &Who) -> Option<&mut Bucket> {
        self.young.get_mut(who).or_else(|| self.old.get_mut(who))
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
        let is_good = last.is_some_and(|last| last.is_good);
        self.young.insert(who, Bucket { level, at: now, is_good });
        if over > 0.0 { Err(Duration::from_secs_f64(over / per_second)) } else { Ok(()) }
    }
}

/// See the module. All clones count together.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// None = nobody is refused.
    buckets: Option<Arc<Mutex<Buckets>>>,
    trusted_proxies: Arc<[IpNet]>,
}

impl Throttle {
    /// With the rate that is configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let buckets = config.request_rate.map(|rate| Arc::new(Mutex::new(Buckets::new(rate, GENERATION))));
        Self { buckets, trusted_proxies: config.trusted_proxies.clone().into() }
    }

    /// Counts a request by where it comes from, whatever credential it has: its peer and headers. Refused: how long until one would be
    /// let in.
    pub fn charge(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<(), Duration> {
        self.admit(None, peer, headers)
    }

    fn admit(
        &self,
        credential: Option<Who>,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<(), Duration> {
        let Some(mut buckets) = self.buckets() else { return Ok(()) };
        let address = peer.map(|peer| client_address(peer, headers, &self.trusted_proxies));
        buckets.admit(credential, Who::address(address), Instant::now())
    }

    fn buckets(&self) -> Option<MutexGuard<'_, Buckets>> {
        // Nothing in there can be left half done.
        self.buckets.as_ref().map(|buckets| buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Refuses who sends too much.
pub(crate) async fn throttle(
    State(throttle): State<Throttle>,
    request: Request,
    next: Next,
) -> Response<axum::body::Body> {
    if FREE.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let credential = Who::credential(request.headers());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match throttle.admit(credential, peer, request.headers()) {
        Ok(()) => {
            let response = next.run(request).await;
            if let (Some(credential), Some(mut buckets)) = (credential, throttle.buckets()) {
                buckets.judge(&credential, response.status() != StatusCode::UNAUTHORIZED);
            }
            response
        }
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
        buckets.admit(key(1), from(1), start).unwrap();
        buckets.judge(&key(1).unwrap(), true);
        for _ in 0..3 {
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
        buckets.admit(key(255), from(1), now).unwrap();
        buckets.judge(&key(255).unwrap(), true);
        let mut let_in = 0;
        for n in 0..50 {
            // Also where they are many times the same, and while the first of them waits for its answer.
            for _ in 0..3 {
                let_in += usize::from(buckets.admit(key(n), from(1), now).is_ok());
            }
            buckets.judge(&key(n).unwrap(), false);
        }
        assert_eq!(let_in, 3);
        assert!(buckets.admit(None, from(1), now).is_err());
        // One that is good goes on all the same, as long as it is.
        buckets.admit(key(255), from(1), now).unwrap();
        buckets.judge(&key(255).unwrap(), false);
        assert!(buckets.admit(key(255), from(1), now).is_err());
    }

    #[test]
    fn a_refusal_empties_no_bucket() {
        let mut buckets = Buckets::new(RATE, 100);
        let now = Instant::now();
        for n in 0..4 {
            buckets.admit(key(1), from(n), now).unwrap();
            buckets.judge(&key(1).unwrap(), n % 2 == 0);
        }
        assert!(buckets.admit(key(1), from(9), now).is_err());
    }

    #[test]
    fn memory_is_bounded_and_who_is_heard_of_is_remembered() {
        let mut buckets = Buckets::new(RATE, 10);
        let now = Instant::now();
        for _ in 0..4 {
            buckets.admit(key(255), from(255), now).unwrap();
            buckets.judge(&key(255).unwrap(), true);
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
