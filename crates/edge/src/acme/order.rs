//! One order, from the account to the certificate. It may be cut at any point: what it has set in the zone is written down before, and
//! removed by the next one.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::Name;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use sandbar_control::Control;
use sandbar_control::certificates::Kept;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::dns::{Dns, DnsError, Shown, shown_by};
use super::http::Http;
use super::{AcmeError, Settings};

/// Time between two looks whether the zone's servers show the records: the first, and the longest.
const LOOKS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// How the authority is asked whether it is done.
const ASKED: RetryPolicy = RetryPolicy::new().backoff(1.5).timeout(Duration::from_secs(180));

/// A certificate as it is kept. (No `Debug`: it has the key.)
#[derive(Serialize, Deserialize)]
pub(super) struct Ordered {
    /// Whose it is: with another authority it is ordered anew.
    pub(super) directory: String,
    /// The chain, in PEM.
    pub(super) chain: String,
    /// The private key, in PEM.
    pub(super) key: String,
}

/// Records that are set.
#[derive(Serialize, Deserialize)]
struct Set {
    name: String,
    values: Vec<String>,
}

/// Orders a certificate. For whoever has the turn.
pub(super) async fn order(control: &Control, settings: &Settings, http: &Http) -> Result<Ordered, AcmeError> {
    clean_up(control, settings).await;
    let mut order = begin(control, settings, http).await?;
    let values = wanted_values(&mut order).await?;
    // None: the authority remembers an earlier proof.
    if !values.is_empty() {
        prove(control, settings, &mut order, values).await?;
    }

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut request = CertificateParams::new(names(&settings.domain).to_vec())?;
    request.distinguished_name = DistinguishedName::new();
    let request = request.serialize_request(&key)?;
    order.finalize_csr(request.der()).await.map_err(asked("asked for the certificate"))?;
    let chain = order.poll_certificate(&ASKED).await.map_err(asked("asked for the certificate"))?;
    Ok(Ordered { directory: settings.directory.clone(), chain, key: key.serialize_pem() })
}

/// What a domain's certificate is for.
pub(super) fn names(domain: &str) -> [String; 2] {
    [domain.to_owned(), format!("*.{domain}")]
}

fn asked(step: &'static str) -> impl FnOnce(Error) -> AcmeError {
    move |source| AcmeError::Authority { step, source }
}

/// A new order. An account that the authority does not know any more is made anew.
async fn begin(control: &Control, settings: &Settings, http: &Http) -> Result<Order, AcmeError> {
    let names = names(&settings.domain).map(Identifier::Dns);
    let new = NewOrder::new(&names);
    if let Some(account) = kept_account(control, settings, http).await? {
        match account.new_order(&new).await {
            Err(Error::Api(problem))
                if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist") =>
            {
                tracing::warn!(
                    "the certificate authority does not know the account any more: another is made"
                );
            }
            other => return other.map_err(asked("asked for an order")),
        }
    }
    let account = new_account(control, settings, http).await?;
    account.new_order(&new).await.map_err(asked("asked for an order"))
}

async fn kept_account(
    control: &Control,
    settings: &Settings,
    http: &Http,
) -> Result<Option<Account>, AcmeError> {
    let Some(kept) = control.certificate_kept(Kept::Account(&settings.directory)).await? else {
        return Ok(None);
    };
    let Ok(credentials) = serde_json::from_slice::<AccountCredentials>(&kept) else { return Ok(None) };
    let account = Account::builder_with_http(http.boxed()).from_credentials(credentials).await;
    Ok(Some(account.map_err(asked("asked for its directory"))?))
}

async fn new_account(control: &Control, settings: &Settings, http: &Http) -> Result<Account, AcmeError> {
    let contact = format!("mailto:{}", settings.email);
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let builder = Account::builder_with_http(http.boxed());
    let (account, credentials) = builder
        .create(&new, settings.directory.clone(), None)
        .await
        .map_err(asked("asked for an account"))?;
    let credentials = serde_json::to_vec(&credentials)
        .map_err(|error| asked("asked for an account")(Error::Other(error.into())))?;
    control.certificate_keep(Kept::Account(&settings.directory), &credentials).await?;
    Ok(account)
}

/// What the authority wants to find in the zone.
async fn wanted_values(order: &mut Order) -> Result<Vec<String>, AcmeError> {
    let mut values = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next.map_err(asked("asked for its challenges"))?;
        match authorization.status {
            AuthorizationStatus::Valid => {}
            AuthorizationStatus::Pending => {
                let challenge =
                    authorization.challenge(ChallengeType::Dns01).ok_or(AcmeError::NoChallenge)?;
                values.push(challenge.key_authorization().dns_value());
            }
            status => return Err(AcmeError::Refused { told: format!("an authorization is {status:?}") }),
        }
    }
    Ok(values)
}

/// Sets the records, has the authority look at them, and removes them, whatever it found.
async fn prove(
    control: &Control,
    settings: &Settings,
    order: &mut Order,
    values: Vec<String>,
) -> Result<(), AcmeError> {
    let asked_for = Name::from_ascii(format!("_acme-challenge.{}.", settings.domain));
    let asked_for = asked_for.map_err(|_| AcmeError::Unusable("its domain is no name"))?;
    let zone = |source: DnsError| AcmeError::Zone { name: asked_for.to_string(), source };
    let dns = Dns(&settings.resolvers);
    let name = dns.end_of(&asked_for).await.map_err(zone)?;
    let servers = dns.servers_of(&name).await.map_err(zone)?;

    let set = Set { name: name.to_ascii(), values };
    let written = serde_json::to_vec(&set).unwrap_or_default();
    control.certificate_keep(Kept::Records(&settings.domain), &written).await?;
    let proved = async {
        settings.records.set(&name, &set.values).await?;
        await_shown(settings, &servers, &name, &set.values).await?;
        await_ready(order).await
    };
    let proved = proved.await;
    clean_up(control, settings).await;
    proved
}

/// Removes what an order has set. No certificate depends on it: the zone, or how it is written to, may be another by now.
async fn clean_up(control: &Control, settings: &Settings) {
    if let Err(error) = remove_left(control, settings).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            domain = settings.domain,
            "the records of an order are left in the zone"
        );
    }
}

/// Removes the records that are written down.
async fn remove_left(control: &Control, settings: &Settings) -> Result<(), AcmeError> {
    let kept = Kept::Records(&settings.domain);
    let Some(written) = control.certificate_kept(kept).await? else { return Ok(()) };
    let Ok(set) = serde_json::from_slice::<Set>(&written) else { return Ok(()) };
    let Ok(name) = Name::from_ascii(&set.name) else { return Ok(()) };
    settings.records.remove(&name, &set.values).await?;
    Ok(control.certificate_keep(kept, b"").await?)
}

/// Waits until no server of the zone lacks the records, and one has them. Servers that say nothing do not count: the authority goes past
/// them, too.
async fn await_shown(
    settings: &Settings,
    servers: &[SocketAddr],
    name: &Name,
    values: &[String],
) -> Result<(), AcmeError> {
    let [mut pause, longest] = LOOKS;
    let waited = settings.pace.records_limit;
    let deadline = Instant::now() + waited;
    loop {
        let shown = shown_by(servers, name, values).await;
        if shown.contains(&Shown::Yes) && !shown.contains(&Shown::No) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let lacking = servers.iter().zip(shown).filter(|(_, shown)| *shown != Shown::Yes);
            let lacking: Vec<_> = lacking.map(|(server, _)| server.ip().to_string()).collect();
            return Err(AcmeError::NotShown { name: name.to_string(), lacking: lacking.join(", "), waited });
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Has the authority look, and waits until it has.
async fn await_ready(order: &mut Order) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next.map_err(asked("asked for its challenges"))?;
        if authorization.status == AuthorizationStatus::Pending {
            let challenge = authorization.challenge(ChallengeType::Dns01);
            let mut challenge = challenge.ok_or(AcmeError::NoChallenge)?;
            challenge.set_ready().await.map_err(asked("told of the records"))?;
        }
    }
    match order.poll_ready(&ASKED).await.map_err(asked("asked what it found"))? {
        OrderStatus::Ready | OrderStatus::Valid => Ok(()),
        status => Err(AcmeError::Refused { told: told_of(order, status).await }),
    }
}

/// What the authority says is wrong.
async fn told_of(order: &mut Order, status: OrderStatus) -> String {
    let mut told = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            let problems = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            told.extend(problems.map(ToString::to_string));
        }
    }
    match told.is_empty() {
        true => format!("the order is {status:?}"),
        false => told.join("; "),
    }
}
