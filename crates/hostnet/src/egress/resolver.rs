//! The resolver of a slot whose policy names domains.
//!
//! ```text
//!   guest asks anybody, port 53 --DNAT--> gateway:53, here
//!     name denied                  no such name; counted
//!     address of IPv6              none, since there is no IPv6
//!     name allowed                 asked upstream; the addresses go into the slot's set, then the answer to the guest
//!     else                         asked upstream
//! ```
//!
//! The sockets that the guest reaches are of the slot's namespace, those that ask upstream of the host's. All work of a resolver is in
//! its two tasks, so that its end is the end of all of it, and its port is free.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use sandbar_types::{NetworkPolicy, guest::GATEWAY_IP, network::NameVerdict};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Mutex,
    task::JoinHandle,
    time::timeout,
};

use super::{
    denied_names::DeniedNames,
    dns::{self, Code, Question},
    name_set::NameSet,
};
use crate::{NetError, netns};

const PORT: u16 = 53;
/// Questions that are being answered at once. Further ones are lost, as on any busy network.
const QUESTIONS: usize = 64;
/// Connections that are open at once. Further ones wait.
const CONNECTIONS: usize = 16;
/// After a connection that could not be accepted.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Longest silence on a connection.
const SILENCE: Duration = Duration::from_secs(10);
/// For one upstream resolver to answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// An address may be reached for at least this long after it was told: what has to connect may be slow.
const LEAST: Duration = Duration::from_secs(60);
/// And for at most this long: a day, the longest that resolvers keep an answer.
const MOST: Duration = Duration::from_secs(86_400);
/// The largest message by UDP that either side may send.
const DATAGRAM: usize = 4_096;

/// A resolver. Its end is its drop.
#[derive(Debug)]
pub(super) struct Resolver {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    /// Held while an address is let in, and while the policy and with it the set is replaced: no address of a name that is denied now
    /// comes in late.
    policy: Mutex<NetworkPolicy>,
    names: Arc<NameSet>,
    denied: Arc<DeniedNames>,
    resolv_conf: PathBuf,
}

/// How a question came, and goes on.
#[derive(Debug, Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// Listens in a slot. Nobody asks it until the slot's rules say so.
    pub(super) async fn open(
        netns: PathBuf,
        resolv_conf: PathBuf,
        policy: NetworkPolicy,
        denied: Arc<DeniedNames>,
    ) -> Result<Self, NetError> {
        let sockets = netns::on_own_thread(move || {
            netns::enter(&netns)?;
            let bind = || {
                let udp = std::net::UdpSocket::bind((GATEWAY_IP, PORT))?;
                let tcp = std::net::TcpListener::bind((GATEWAY_IP, PORT))?;
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                Ok::<_, io::Error>((udp, tcp, NameSet::open()?))
            };
            bind().map_err(NetError::system("listen for what a guest resolves"))
        });
        let (udp, tcp, names) = sockets.await?;
        let failed = || NetError::system("listen for what a guest resolves");
        let udp = UdpSocket::from_std(udp).map_err(failed())?;
        let tcp = TcpListener::from_std(tcp).map_err(failed())?;
        let shared =
            Arc::new(Shared { policy: Mutex::new(policy), names: Arc::new(names), denied, resolv_conf });
        let tasks = [
            tokio::spawn(serve_udp(udp, Arc::clone(&shared))),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&shared))),
        ];
        Ok(Self { shared, tasks })
    }

    /// The policy, to be replaced together with the set.
    pub(super) async fn policy(&self) -> tokio::sync::MutexGuard<'_, NetworkPolicy> {
        self.shared.policy.lock().await
    }

    /// Ends it. Its port is free when this returns.
    pub(super) async fn close(mut self) {
        for task in &mut self.tasks {
            task.abort();
            // Cancelled, which is what it is to be.
            let _ = task.await;
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>) {
    let mut answers = FuturesUnordered::new();
    let mut query = [0; DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut query) => match received {
                Ok((length, guest)) if answers.len() < QUESTIONS => {
                    let (query, shared, socket) = (query[..length].to_vec(), &shared, &socket);
                    answers.push(async move {
                        if let Some(answer) = shared.answer(&query, Transport::Udp).await {
                            // Lost, as any datagram may be: it is asked for again.
                            let _ = socket.send_to(&answer, guest).await;
                        }
                    });
                }
                // Too many questions; or a datagram that was sent found nobody, which the next call tells.
                Ok(_) | Err(_) => {}
            },
            Some(()) = answers.next() => {}
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((connection, _)) => connections.push(serve_connection(connection, &shared)),
                // Descriptors may have run out, which a next try at once would only find again.
                Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
            },
            Some(_ended) = connections.next() => {}
        }
    }
}

/// Until the guest says no more, or nothing for too long.
async fn serve_connection(mut connection: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let query = timeout(SILENCE, read_framed(&mut connection)).await??;
        if let Some(answer) = shared.answer(&query, Transport::Tcp).await {
            timeout(SILENCE, write_framed(&mut connection, &answer)).await??;
        }
    }
}

async fn read_framed(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = connection.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    connection.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(connection: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    connection.write_all(&[&length.to_be_bytes(), message].concat()).await
}

impl Shared {
    /// The answer to a query; none to what is no query.
    async fn answer(&self, query: &[u8], by: Transport) -> Option<Vec<u8>> {
        let question = match dns::question(query)? {
            Ok(question) => question,
            Err(code) => return Some(dns::bare_answer(query, None, code)),
        };
        let bare = |code| dns::bare_answer(query, Some(&question), code);
        let verdict = self.policy.lock().await.judge_name(&question.name);
        if verdict == NameVerdict::Denied {
            self.denied.note(&question.name);
            return Some(bare(Code::NoSuchName));
        }
        if question.kind == dns::AAAA {
            return Some(bare(Code::Empty));
        }
        let Some(reply) = self.ask(query, &question, by).await else { return Some(bare(Code::Failed)) };
        if verdict == NameVerdict::Indifferent {
            return Some(reply);
        }
        Some(match self.admit(&question, &reply).await {
            Ok(()) => reply,
            Err(error) => {
                tracing::warn!(%error, "the addresses of an allowed name cannot be let through");
                bare(Code::Failed)
            }
        })
    }

    /// Lets the addresses of an allowed name be reached, if it is allowed still.
    async fn admit(&self, question: &Question, reply: &[u8]) -> io::Result<()> {
        let found = dns::addresses(reply, question).ok_or(io::ErrorKind::InvalidData)?;
        let mut addresses: Vec<_> = found
            .into_iter()
            .map(|(address, seconds)| (address, Duration::from_secs(seconds.into()).clamp(LEAST, MOST)))
            .collect();
        // A repeated element would fail the rest.
        addresses.sort_unstable();
        addresses.dedup_by_key(|(address, _)| *address);
        if question.kind != dns::A || addresses.is_empty() {
            return Ok(());
        }
        let policy = self.policy.lock().await;
        if policy.judge_name(&question.name) != NameVerdict::Allowed {
            return Ok(());
        }
        let (names, name) = (Arc::clone(&self.names), question.name.clone());
        tokio::task::spawn_blocking(move || names.admit(&name, &addresses)).await.map_err(io::Error::other)?
    }

    /// What the host's resolvers say, the first that answers.
    async fn ask(&self, query: &[u8], question: &Question, by: Transport) -> Option<Vec<u8>> {
        // Read each time: the host may be on another network by now.
        let listed = tokio::fs::read_to_string(&self.resolv_conf).await.unwrap_or_default();
        for upstream in upstreams(&listed) {
            match timeout(PATIENCE, ask_one(upstream, query, question, by)).await {
                Ok(Ok(reply)) => return Some(reply),
                Ok(Err(error)) => {
                    tracing::debug!(%upstream, %error, "a resolver of the host's does not answer");
                }
                Err(_) => tracing::debug!(%upstream, "a resolver of the host's does not answer in time"),
            }
        }
        None
    }
}

async fn ask_one(
    upstream: SocketAddr,
    query: &[u8],
    question: &Question,
    by: Transport,
) -> io::Result<Vec<u8>> {
    // Under a number, and from a port, that the guest does not know: nobody answers in the upstream's place.
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let mut asking = query.to_vec();
    asking[..2].copy_from_slice(&id);
    let mut reply = match by {
        Transport::Udp => {
            let any =
                if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from([0_u16; 8]) };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(upstream).await?;
            socket.send(&asking).await?;
            let mut reply = vec![0; DATAGRAM];
            loop {
                let length = socket.recv(&mut reply).await?;
                if dns::is_reply(&reply[..length], id, question) {
                    reply.truncate(length);
                    break reply;
                }
            }
        }
        Transport::Tcp => {
            let mut connection = TcpStream::connect(upstream).await?;
            write_framed(&mut connection, &asking).await?;
            let reply = read_framed(&mut connection).await?;
            if !dns::is_reply(&reply, id, question) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            reply
        }
    };
    reply[..2].copy_from_slice(&query[..2]);
    Ok(reply)
}

/// The resolvers that a `resolv.conf` lists; this machine where it lists none, as everybody does.
fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    let listed = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next()).flatten()?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    });
    let listed: Vec<_> = listed.collect();
    if listed.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))] } else { listed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_those_that_the_host_lists() {
        let listed = "# resolv.conf\nsearch example.com\nnameserver 192.0.2.53\n nameserver 2001:db8::53\nnameserver\nnameserver x\n";
        let expected: [SocketAddr; 2] =
            ["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
        assert_eq!(upstreams(listed), expected);
        assert_eq!(upstreams("options edns0"), ["127.0.0.1:53".parse().unwrap()]);
    }
}
