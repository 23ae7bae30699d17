//! Questions to name servers: who serves a zone, where a name leads, and what its servers say of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::DecodeError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a server has for an answer, by each of both ways.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// Names that one may lead to, one after the other.
const MOST_ALIASES: usize = 8;
/// The port of name servers.
pub(super) const PORT: u16 = 53;

/// Why DNS does not tell.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No server can be asked.
    #[error("no resolver is known: /etc/resolv.conf names none")]
    NoResolver,
    /// A server does not answer.
    #[error("{server} does not answer")]
    Silent {
        /// Which.
        server: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What a server answers is no answer.
    #[error("{server} answers what is no DNS message")]
    Answer {
        /// Which.
        server: SocketAddr,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A server has an error to tell.
    #[error("{server} answers {code}")]
    Code {
        /// Which.
        server: SocketAddr,
        /// Its words.
        code: ResponseCode,
    },
    /// A name leads in circles.
    #[error("{name} leads from name to name, without an end")]
    Aliases {
        /// Which.
        name: String,
    },
    /// A zone has no servers that have addresses.
    #[error("no name server of the zone {zone} has an address")]
    NoServers {
        /// Which.
        zone: String,
    },
}

/// The resolvers of this machine.
#[must_use]
pub fn system_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    nameservers(&text).map(|address| SocketAddr::new(address, PORT)).collect()
}

fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// What one server says of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Yes,
    No,
    /// It says nothing, or that it cannot tell.
    Nothing,
}

/// The zone's word, by way of resolvers.
pub(super) struct Dns<'a>(pub(super) &'a [SocketAddr]);

impl Dns<'_> {
    /// Where a name's records are: itself, or what it is an alias of.
    pub(super) async fn end_of(&self, name: &Name) -> Result<Name, DnsError> {
        let mut end = name.clone();
        for _ in 0..MOST_ALIASES {
            let answer = self.resolve(&end, RecordType::CNAME).await?;
            let next = answer.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == end => Some(target.0.clone()),
                _ => None,
            });
            match next {
                Some(next) => end = next,
                None => return Ok(end),
            }
        }
        Err(DnsError::Aliases { name: name.to_ascii() })
    }

    /// All addresses of the servers of the zone that a name is in.
    pub(super) async fn servers_of(&self, name: &Name) -> Result<Vec<SocketAddr>, DnsError> {
        let zone = zone_in(&self.resolve(name, RecordType::SOA).await?).unwrap_or_else(|| name.base_name());
        let answer = self.resolve(&zone, RecordType::NS).await?;
        let names = answer.answers.iter().filter_map(|record| match &record.data {
            RData::NS(server) => Some(server.0.clone()),
            _ => None,
        });
        let mut addresses = Vec::new();
        for server in names {
            addresses.extend(self.addresses_of(&server).await?);
        }
        addresses.sort_unstable();
        addresses.dedup();
        match addresses.is_empty() {
            true => Err(DnsError::NoServers { zone: zone.to_ascii() }),
            false => Ok(addresses.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()),
        }
    }

    async fn addresses_of(&self, name: &Name) -> Result<Vec<IpAddr>, DnsError> {
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = self.resolve(name, kind).await?;
            addresses.extend(answer.answers.iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            }));
        }
        Ok(addresses)
    }

    /// The first resolver's answer that is one. That a name does not exist is one.
    async fn resolve(&self, name: &Name, kind: RecordType) -> Result<Message, DnsError> {
        let mut failed = DnsError::NoResolver;
        for server in self.0 {
            match ask(*server, question(name, kind, true)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// The zone that an answer to a question for a SOA record names, be it that of the name itself or of one above.
pub(super) fn zone_in(answer: &Message) -> Option<Name> {
    let mut records = answer.answers.iter().chain(&answer.authorities);
    records.find(|record| matches!(record.data, RData::SOA(_))).map(|record| record.name.clone())
}

/// Whether each of some servers shows all of these texts.
pub(super) async fn shown_by(servers: &[SocketAddr], name: &Name, values: &[String]) -> Vec<Shown> {
    join_all(servers.iter().map(|server| async move {
        let Ok(answer) = ask(*server, question(name, RecordType::TXT, false)).await else {
            return Shown::Nothing;
        };
        let texts: Vec<Vec<u8>> = answer
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(text) => Some(text.txt_data.concat()),
                _ => None,
            })
            .collect();
        match values.iter().all(|value| texts.iter().any(|text| text == value.as_bytes())) {
            true => Shown::Yes,
            false => Shown::No,
        }
    }))
    .await
}

pub(super) fn question(name: &Name, kind: RecordType, recursion: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = recursion;
    message.add_query(Query::query(name.clone(), kind));
    message
}

/// A server's answer: by UDP, and by TCP where that is lost or cut short.
pub(super) async fn ask(server: SocketAddr, question: Message) -> Result<Message, DnsError> {
    let bytes = question.to_vec().map_err(|error| silent(server, io::Error::other(error)))?;
    let by_udp = match timeout(ANSWER_LIMIT, by_udp(server, &bytes)).await {
        Ok(Ok(answer)) => Message::from_vec(&answer).ok(),
        Ok(Err(_)) | Err(_) => None,
    };
    let answer = match by_udp {
        Some(answer) if !answer.metadata.truncation => answer,
        _ => {
            let answer = by_tcp(server, &bytes).await?;
            Message::from_vec(&answer).map_err(|source| DnsError::Answer { server, source })?
        }
    };
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(DnsError::Code { server, code }),
    }
}

async fn by_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let own = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    // From this server alone, and with the same (random) number: whoever guesses both is not kept out by the protocol.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer[..length].get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

/// One message there and one back.
pub(super) async fn by_tcp(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, DnsError> {
    let exchange = async {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        match answer.get(..2) == message.get(..2) {
            true => Ok(answer),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it answers another question")),
        }
    };
    match timeout(ANSWER_LIMIT, exchange).await {
        Ok(answer) => answer.map_err(|source| silent(server, source)),
        Err(_) => Err(silent(server, io::ErrorKind::TimedOut.into())),
    }
}

fn silent(server: SocketAddr, source: io::Error) -> DnsError {
    DnsError::Silent { server, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_resolvers_are_read() {
        let text = "# nameserver 9.9.9.9\nsearch a.test\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # ours\nnameserver x\n";
        let found: Vec<_> = nameservers(text).map(|address| address.to_string()).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1"]);
    }
}
