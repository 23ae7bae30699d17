//! Keeps a certificate served: what is kept from the start, a renewed one without a restart, another control plane's at once.
//!
//! ```text
//!   look: kept? -> served.   Its time has come (2/3 of its life), or there is none -> our turn? -> order -> kept -> look
//!         failed -> what was served is served on; again after a minute, two, ... an hour
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sandbar_control::Control;
use sandbar_control::certificates::Kept;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::http::Http;
use super::order::{Ordered, names, order};
use super::{AcmeError, Settings};
use crate::tls::Replaceable;

/// Time between two looks at what is kept, where nothing is told: the machine's clock may be set, and it may sleep.
const LOOK: Duration = Duration::from_secs(6 * 3600);
/// After this long it is asked again whether it is our turn. Who has it tells of its certificate; of its death nobody tells.
const TURN: Duration = Duration::from_secs(60);

/// How soon things are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Time after the first failure; it doubles with each.
    pub first_retry: Duration,
    /// The longest time between two attempts.
    pub longest_retry: Duration,
    /// How long the zone's servers have to show the records.
    pub records_limit: Duration,
    /// How long an order may take.
    pub order_limit: Duration,
}

impl Default for Pace {
    /// Authorities count failures: five of one name in an hour are many.
    fn default() -> Self {
        Self {
            first_retry: Duration::from_secs(60),
            longest_retry: Duration::from_secs(3600),
            records_limit: Duration::from_secs(600),
            order_limit: Duration::from_secs(1200),
        }
    }
}

/// See the module.
pub struct Keeper {
    control: Control,
    settings: Settings,
    http: Http,
    served: Arc<Replaceable>,
    /// Of all control planes, not all begin in the same moment: a number of this one's, below 1.
    share: f64,
}

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    begins: SystemTime,
    ends: SystemTime,
}

/// When to look again.
enum Next {
    At(SystemTime),
    NotOurTurn,
    /// It is time to order, but not yet time to try again.
    Held,
}

impl Life {
    /// When another is ordered: after two thirds of it, and up to a thirtieth later.
    fn renewed(self, share: f64) -> SystemTime {
        let life = self.ends.duration_since(self.begins).unwrap_or_default();
        self.begins + life.mul_f64(2.0 / 3.0 + share / 30.0)
    }
}

impl Keeper {
    /// Fails where the settings cannot work.
    pub fn new(control: Control, settings: Settings, served: Arc<Replaceable>) -> Result<Self, AcmeError> {
        let http = Http::new(settings.trusted.as_deref())?;
        let mut random = [0; 4];
        // Without a number of its own it begins with the others, of whom one gets the turn.
        let share = getrandom::fill(&mut random)
            .map_or(0.0, |()| f64::from(u32::from_ne_bytes(random)) / 2f64.powi(32));
        Ok(Self { control, settings, http, served, share })
    }

    /// Serves by the certificate that is kept. False: there is none that is good.
    pub async fn take_up(&self) -> Result<bool, AcmeError> {
        Ok(self.serve_kept().await?.is_some_and(|life| life.ends > SystemTime::now()))
    }

    /// Orders, if it is time and our turn. Whether a certificate is served that is good.
    pub async fn attempt(&self) -> Result<bool, AcmeError> {
        self.look(true).await?;
        self.take_up().await
    }

    /// Until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut news = self.control.certificate_news();
        let mut failures = 0;
        let mut not_before = Instant::now();
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = self.look(Instant::now() >= not_before) => next,
            };
            let pause = match next {
                Ok(Next::At(when)) => {
                    failures = 0;
                    when.duration_since(SystemTime::now()).unwrap_or_default().min(LOOK)
                }
                Ok(Next::NotOurTurn) => TURN,
                Ok(Next::Held) => not_before.saturating_duration_since(Instant::now()),
                Err(error) => {
                    let pause = self.after(failures);
                    failures += 1;
                    not_before = Instant::now() + pause;
                    metrics::counter!("sandbar_certificate_failures_total").increment(1);
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        domain = self.settings.domain,
                        "there is no new certificate; the next attempt is in {} s",
                        pause.as_secs()
                    );
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
                () = news.wait() => {}
            }
        }
    }

    /// The pause after a number of failures that went before: doubled each time, and up to a quarter longer.
    fn after(&self, failures: u32) -> Duration {
        let pace = &self.settings.pace;
        let pause = pace.first_retry.saturating_mul(1 << failures.min(16)).min(pace.longest_retry);
        pause.mul_f64(1.0 + self.share / 4.0)
    }

    async fn look(&self, may_order: bool) -> Result<Next, AcmeError> {
        if let Some(next) = self.next_of(self.serve_kept().await?) {
            return Ok(next);
        }
        if !may_order {
            return Ok(Next::Held);
        }
        let Some(turn) = self.control.certificate_turn().await? else { return Ok(Next::NotOurTurn) };
        // Whoever had the turn before may have done it.
        if let Some(next) = self.next_of(self.serve_kept().await?) {
            return Ok(next);
        }
        let domain = &self.settings.domain;
        tracing::info!(domain, directory = self.settings.directory, "ordering a certificate");
        let limit = self.settings.pace.order_limit;
        let ordered = timeout(limit, order(&self.control, &self.settings, &self.http)).await;
        let ordered = ordered.map_err(|_| AcmeError::TooSlow { limit })??;
        // What cannot be used is not kept.
        self.read(&ordered)?;
        let kept = serde_json::to_vec(&ordered).map_err(|_| AcmeError::Unusable("it cannot be written"))?;
        self.control.certificate_keep(Kept::Certificate(domain), &kept).await?;
        turn.release().await?;
        // Or orders would follow each other without a pause.
        let next = self.next_of(self.serve_kept().await?);
        next.ok_or(AcmeError::Unusable("it is to be renewed already: is this machine's clock right?"))
    }

    /// When to look again, unless it is time to order.
    fn next_of(&self, life: Option<Life>) -> Option<Next> {
        let renewed = life?.renewed(self.share);
        (renewed > SystemTime::now()).then_some(Next::At(renewed))
    }

    /// Serves by what is kept of this authority's.
    async fn serve_kept(&self) -> Result<Option<Life>, AcmeError> {
        let domain = &self.settings.domain;
        let Some(kept) = self.control.certificate_kept(Kept::Certificate(domain)).await? else {
            return Ok(None);
        };
        let Ok(kept) = serde_json::from_slice::<Ordered>(&kept) else { return Ok(None) };
        if kept.directory != self.settings.directory {
            return Ok(None);
        }
        let (chain, life) = match self.read(&kept) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the certificate that is kept is ordered anew"
                );
                return Ok(None);
            }
        };
        if self.served.replace(chain, &kept.key, life.ends)? {
            tracing::info!(domain, "another certificate is in use from now on");
        }
        let ends = life.ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics::gauge!("sandbar_certificate_expiry_timestamp_seconds").set(ends);
        Ok(Some(life))
    }

    fn read(&self, ordered: &Ordered) -> Result<(Vec<CertificateDer<'static>>, Life), AcmeError> {
        let chain = CertificateDer::pem_slice_iter(ordered.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| AcmeError::Unusable("the chain is not PEM"))?;
        let first = chain.first().ok_or(AcmeError::Unusable("the chain is empty"))?;
        let life = life_of(first, &self.settings.domain)?;
        Ok((chain, life))
    }
}

/// The life of a certificate, which must be one for a domain.
fn life_of(der: &CertificateDer<'_>, domain: &str) -> Result<Life, AcmeError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| AcmeError::Unusable("it cannot be read"))?;
    let own = certificate.subject_alternative_name().ok().flatten();
    let own: Vec<&str> = own
        .iter()
        .flat_map(|own| &own.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    if !names(domain).iter().all(|name| own.contains(&name.as_str())) {
        return Err(AcmeError::Unusable("it is for other names"));
    }
    let at = |timestamp: i64| UNIX_EPOCH + Duration::from_secs(timestamp.try_into().unwrap_or(0));
    let validity = certificate.validity();
    Ok(Life { begins: at(validity.not_before.timestamp()), ends: at(validity.not_after.timestamp()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let begins = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let life = Life { begins, ends: begins + Duration::from_secs(90 * 24 * 3600) };
        let day = |time: SystemTime| time.duration_since(begins).unwrap().as_secs_f64() / 86400.0;
        assert!((day(life.renewed(0.0)) - 60.0).abs() < 0.01);
        assert!((day(life.renewed(0.999)) - 63.0).abs() < 0.01);
    }
}
