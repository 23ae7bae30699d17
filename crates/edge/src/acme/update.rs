//! Records set by dynamic updates of a name server (RFC 2136), signed with a key that it shares (TSIG, RFC 8945).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::ProtoError;
use hickory_proto::op::{Message, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, RData, RecordSet, RecordType, TSigner};
use secrecy::{ExposeSecret as _, SecretString};

use super::dns::{self, DnsError};

/// How far the clocks of both sides may be apart, in seconds.
const FUDGE: u16 = 300;
/// How long others may remember a record, in seconds.
const TTL: u32 = 60;

/// Why an update is not made.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The key's name is no name.
    #[error("{0:?} is not the name of a key")]
    KeyName(String),
    /// The algorithm is none that is known.
    #[error("{0:?} is not an algorithm: hmac-sha256, hmac-sha384 or hmac-sha512")]
    Algorithm(String),
    /// The secret is none.
    #[error("the key's secret is not base64")]
    Secret,
    /// The server's name leads nowhere.
    #[error("the name server {server} cannot be found")]
    NotFound {
        /// Its name.
        server: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server does not answer.
    #[error("the name server {server} cannot be asked")]
    Asking {
        /// Its name.
        server: String,
        /// Why.
        #[source]
        source: DnsError,
    },
    /// The server knows of no zone with that name.
    #[error("the name server {server} has no zone for {name}")]
    NoZone {
        /// Its name.
        server: String,
        /// The record's.
        name: String,
    },
    /// The server refuses.
    #[error("the name server {server} refuses the update: {code}{}", hint(*.code))]
    Refused {
        /// Its name.
        server: String,
        /// Its word.
        code: ResponseCode,
    },
    /// The answer is not signed with the key.
    #[error("the answer of the name server {server} is not signed with the key")]
    Unsigned {
        /// Its name.
        server: String,
        /// Why.
        #[source]
        source: ProtoError,
    },
    /// The message cannot be made.
    #[error("the update cannot be made")]
    Message(#[from] ProtoError),
}

/// What most often is behind a refusal.
fn hint(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NotAuth | ResponseCode::BADSIG | ResponseCode::BADKEY => {
            " (the key's name, algorithm or secret is not the server's, or the clocks differ, or the zone is not its own)"
        }
        ResponseCode::Refused => " (the key may not change this record)",
        _ => "",
    }
}

/// A name server that takes updates, and the key by which it knows us.
#[derive(Clone)]
pub struct UpdateServer {
    server: String,
    signer: TSigner,
}

impl fmt::Debug for UpdateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateServer").field("server", &self.server).finish_non_exhaustive()
    }
}

impl UpdateServer {
    /// `server` is HOST or HOST:PORT; the secret is in base64, as name servers write it.
    pub fn new(server: &str, key: &str, algorithm: &str, secret: &SecretString) -> Result<Self, UpdateError> {
        let port = server.parse::<SocketAddr>().is_ok()
            || (!server.contains("::") && server.rsplit_once(':').is_some());
        let server = if port { server.to_owned() } else { format!("{server}:{}", dns::PORT) };
        let name = Name::from_ascii(key).ok().filter(|name| name.num_labels() > 0);
        let name = name.ok_or_else(|| UpdateError::KeyName(key.to_owned()))?;
        let algorithm = match algorithm.to_ascii_lowercase().as_str() {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err(UpdateError::Algorithm(algorithm.to_owned())),
        };
        let secret = STANDARD.decode(secret.expose_secret().trim()).map_err(|_| UpdateError::Secret)?;
        if secret.is_empty() {
            return Err(UpdateError::Secret);
        }
        let signer = TSigner::new(secret, algorithm, name, FUDGE).map_err(|_| UpdateError::Secret)?;
        Ok(Self { server, signer })
    }

    pub(super) async fn add(&self, name: &Name, values: &[String]) -> Result<(), UpdateError> {
        self.update(name, |zone| update_message::append(texts(name, values), zone, false, false)).await
    }

    pub(super) async fn delete(&self, name: &Name, values: &[String]) -> Result<(), UpdateError> {
        self.update(name, |zone| update_message::delete_by_rdata(texts(name, values), zone, false)).await
    }

    async fn update(&self, name: &Name, message: impl FnOnce(Name) -> Message) -> Result<(), UpdateError> {
        let server = || self.server.clone();
        let asking = |source| UpdateError::Asking { server: self.server.clone(), source };
        let mut found = tokio::net::lookup_host(&self.server)
            .await
            .map_err(|source| UpdateError::NotFound { server: server(), source })?;
        let at = found.next().ok_or_else(|| UpdateError::NotFound {
            server: server(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        // Its own word: it may be one that no record of the zone names.
        let answer = dns::ask(at, dns::question(name, RecordType::SOA, false)).await.map_err(asking)?;
        let zone = dns::zone_in(&answer).filter(|zone| zone.zone_of(name));
        let zone = zone.ok_or_else(|| UpdateError::NoZone { server: server(), name: name.to_ascii() })?;

        let mut message = message(zone);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let verifier = message.finalize(&self.signer, now)?;
        let answer = dns::by_tcp(at, &message.to_vec()?).await.map_err(asking)?;
        let read =
            Message::from_vec(&answer).map_err(|source| asking(DnsError::Answer { server: at, source }))?;
        // Refusals may come unsigned, from who does not know the key: they change nothing.
        match read.metadata.response_code {
            ResponseCode::NoError => {}
            code => return Err(UpdateError::Refused { server: server(), code }),
        }
        if let Some(mut verifier) = verifier {
            verifier.verify(&answer).map_err(|source| UpdateError::Unsigned { server: server(), source })?;
        }
        Ok(())
    }
}

fn texts(name: &Name, values: &[String]) -> RecordSet {
    let mut records = RecordSet::with_ttl(name.clone(), RecordType::TXT, TTL);
    for value in values {
        records.add_rdata(RData::TXT(TXT::new(vec![value.clone()])));
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_and_the_secret_is_not_shown() {
        let new = |server: &str, key: &str, algorithm: &str, secret: &str| {
            UpdateServer::new(server, key, algorithm, &secret.to_owned().into())
        };
        let good = new("ns.sbx.test", "acme", "HMAC-SHA256", "c2VjcmV0\n").unwrap();
        assert_eq!(format!("{good:?}"), r#"UpdateServer { server: "ns.sbx.test:53", .. }"#);
        assert_eq!(new("[::1]:5353", "acme", "hmac-sha512", "c2VjcmV0").unwrap().server, "[::1]:5353");
        assert!(matches!(new("ns", "", "hmac-sha256", "c2VjcmV0"), Err(UpdateError::KeyName(_))));
        assert!(matches!(new("ns", "acme", "hmac-md5", "c2VjcmV0"), Err(UpdateError::Algorithm(_))));
        for secret in ["", "no base64!"] {
            assert!(matches!(new("ns", "acme", "hmac-sha256", secret), Err(UpdateError::Secret)));
        }
    }
}
