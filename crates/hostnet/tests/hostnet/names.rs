//! Policies that name domains, with a resolver upstream that is a real one as far as the host can see.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use sandbar_hostnet::{NetConfig, Pool, Reason};
use sandbar_types::NetworkPolicy;

use crate::egress::policy;
use crate::slots::world;
use crate::world::{ELSEWHERE, Guest, METADATA, PRIVATE, WORLD, World, connect, echo, echoes, inside};

const PORT: u16 = 8_000;
/// What the guest takes for its resolver. Nobody has this address.
const ANY_RESOLVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const NO_SUCH_NAME: u8 = 3;

/// What the world knows.
fn record(name: &str) -> Option<Ipv4Addr> {
    match name {
        "api.example.com" | "elsewhere.example.net" => Some(ELSEWHERE),
        "private.example.com" => Some(PRIVATE),
        "metadata.example.com" => Some(METADATA),
        _ => None,
    }
}

fn name_of(query: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    (labels.join("."), at + 5)
}

fn reply(query: &[u8]) -> Vec<u8> {
    let (name, end) = name_of(query);
    let mut reply = query[..end].to_vec();
    reply[2] = 0x81;
    match record(&name.to_lowercase()) {
        Some(address) => {
            (reply[3], reply[7]) = (0x80, 1);
            reply.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4], &address.octets()[..]].concat());
        }
        None => reply[3] = 0x80 | NO_SUCH_NAME,
    }
    reply
}

/// A host whose resolver is in the world, and a pool of its slots.
async fn resolving(world: &World, network: &str, folder: &Path) -> Pool {
    let (udp, tcp) = inside(&world.outside(), || {
        (UdpSocket::bind((WORLD, 53)).unwrap(), TcpListener::bind((WORLD, 53)).unwrap())
    });
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, sender)) = udp.recv_from(&mut query) {
            let _ = udp.send_to(&reply(&query[..length]), sender);
        }
    });
    thread::spawn(move || {
        while let Ok((mut caller, _)) = tcp.accept() {
            let mut length = [0; 2];
            let _ = caller.read_exact(&mut length);
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            let _ = caller.read_exact(&mut query);
            let reply = reply(&query);
            let _ = caller.write_all(&[&(reply.len() as u16).to_be_bytes(), &reply[..]].concat());
        }
    });
    echo(&world.outside(), ELSEWHERE, PORT);
    let resolvers = folder.join("resolv.conf");
    fs::write(&resolvers, format!("nameserver {WORLD}\n")).unwrap();
    Pool::open(NetConfig { resolvers, ..world.config(network, 1) }, &[]).await.unwrap()
}

fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// What the guest is told: the code, and the address where there is one.
fn told(reply: &[u8]) -> (u8, Option<Ipv4Addr>) {
    assert_eq!(reply[..2], [0x12, 0x34]);
    let last: [u8; 4] = reply[reply.len() - 4..].try_into().unwrap();
    (reply[3] & 0xf, (reply[7] == 1).then(|| last.into()))
}

/// Asks from within the guest while the agent, on this thread, goes on.
async fn resolve(guest: &Guest, name: &str) -> Option<(u8, Option<Ipv4Addr>)> {
    let (namespace, query) = (guest.namespace(), query(name));
    let ask = move || {
        inside(&namespace, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((ANY_RESOLVER, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.send(&query).unwrap();
            let mut reply = [0; 512];
            let length = socket.recv(&mut reply).ok()?;
            Some(told(&reply[..length]))
        })
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

async fn resolve_by_tcp(guest: &Guest, name: &str) -> (u8, Option<Ipv4Addr>) {
    let (namespace, query) = (guest.namespace(), query(name));
    let ask = move || {
        inside(&namespace, || {
            let mut connection =
                TcpStream::connect_timeout(&SocketAddr::from((ANY_RESOLVER, 53)), Duration::from_secs(20))
                    .unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            connection.write_all(&[&(query.len() as u16).to_be_bytes(), &query[..]].concat()).unwrap();
            let mut reply = [0; 512];
            connection.read_exact(&mut reply[..2]).unwrap();
            let length = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
            connection.read_exact(&mut reply[..length]).unwrap();
            told(&reply[..length])
        })
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

fn reaches(guest: &Guest, address: Ipv4Addr) -> bool {
    connect(&guest.namespace(), address, PORT).is_ok_and(|connection| echoes(&connection))
}

#[test]
fn an_allowed_name_opens_its_addresses_and_no_others() {
    let (world, runtime) = world();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let pool = resolving(&world, "10.252.0.0/24", folder.path()).await;
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let mut egress = pool.egress(&slot);
        egress.apply(&policy(&["*.example.com"], &["0.0.0.0/0"])).await.unwrap();
        assert!(!reaches(&guest, ELSEWHERE), "before anybody resolved it");

        // Denied: not told, although it is the same address, and not asked for either.
        assert_eq!(resolve(&guest, "elsewhere.example.net").await, Some((NO_SUCH_NAME, None)));
        assert!(!reaches(&guest, ELSEWHERE));
        assert_eq!(resolve(&guest, "API.example.com").await, Some((0, Some(ELSEWHERE))));
        assert!(reaches(&guest, ELSEWHERE));
        // A second time, when the address is there already.
        assert_eq!(resolve_by_tcp(&guest, "api.example.com").await, (0, Some(ELSEWHERE)));
        assert!(reaches(&guest, ELSEWHERE));
        assert_eq!(resolve(&guest, "nobody.example.com").await, Some((NO_SUCH_NAME, None)));
        // A name cannot open what no policy opens.
        for (name, address) in [("private.example.com", PRIVATE), ("metadata.example.com", METADATA)] {
            echo(&world.outside(), address, PORT);
            assert_eq!(resolve(&guest, name).await, Some((0, Some(address))));
            assert!(!reaches(&guest, address), "{name}");
        }

        let denials = egress.denials().await.unwrap();
        let names: Vec<_> =
            denials.names.iter().map(|denied| (denied.name.as_str(), denied.queries)).collect();
        assert_eq!(names, [("elsewhere.example.net", 1)]);
        assert_eq!(denials.counts.last(), Some(&(Reason::Name, 1)));
    });
}

#[test]
fn what_a_name_opened_stays_while_the_name_is_allowed() {
    let (world, runtime) = world();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let pool = resolving(&world, "10.252.1.0/24", folder.path()).await;
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let mut egress = pool.egress(&slot);
        egress.apply(&policy(&["api.example.com"], &["0.0.0.0/0"])).await.unwrap();
        assert_eq!(resolve(&guest, "api.example.com").await, Some((0, Some(ELSEWHERE))));
        let open = connect(&guest.namespace(), ELSEWHERE, PORT).unwrap();
        assert!(echoes(&open));

        // Another agent takes the slot over: the first one's sockets are gone, what it let in is not.
        drop(egress);
        for _ in 0..8 {
            // Its tasks are cancelled; this thread, which ran them, drops them now.
            tokio::task::yield_now().await;
        }
        let mut egress = pool.egress(&slot);
        egress.apply(&policy(&["api.example.com"], &["0.0.0.0/0"])).await.unwrap();
        assert!(echoes(&open) && reaches(&guest, ELSEWHERE));
        // Another policy that allows the name too.
        egress.apply(&policy(&["*.example.com"], &["0.0.0.0/0"])).await.unwrap();
        assert!(echoes(&open) && reaches(&guest, ELSEWHERE));
        assert_eq!(resolve(&guest, "api.example.com").await, Some((0, Some(ELSEWHERE))));
        // None at all, and names again.
        egress.apply(&NetworkPolicy::default()).await.unwrap();
        egress.apply(&policy(&["*.example.com"], &["0.0.0.0/0"])).await.unwrap();
        assert_eq!(resolve(&guest, "api.example.com").await, Some((0, Some(ELSEWHERE))));
        // One that does not.
        egress.apply(&policy(&["example.org"], &["0.0.0.0/0"])).await.unwrap();
        assert!(!echoes(&open) && !reaches(&guest, ELSEWHERE));
        assert_eq!(resolve(&guest, "api.example.com").await, Some((NO_SUCH_NAME, None)));
    });
}

#[test]
fn a_name_may_be_denied_where_all_else_is_open_and_nothing_is_resolved_where_all_is_closed() {
    let (world, runtime) = world();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let pool = resolving(&world, "10.252.2.0/24", folder.path()).await;
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let mut egress = pool.egress(&slot);
        egress.apply(&policy(&[], &["*.example.net"])).await.unwrap();
        assert_eq!(resolve(&guest, "elsewhere.example.net").await, Some((NO_SUCH_NAME, None)));
        assert_eq!(resolve(&guest, "api.example.com").await, Some((0, Some(ELSEWHERE))));
        assert!(reaches(&guest, ELSEWHERE));
        // The world's resolver itself is out of reach: whoever is asked, it is the slot's that answers.
        let asked = inside(&guest.namespace(), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((WORLD, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send(&query("elsewhere.example.net")).unwrap();
            let mut reply = [0; 512];
            socket.recv(&mut reply).map(|length| told(&reply[..length])).ok()
        });
        assert_ne!(asked, Some((0, Some(ELSEWHERE))));

        let closed = NetworkPolicy { allow_internet: false, ..NetworkPolicy::default() };
        egress.apply(&closed).await.unwrap();
        let refused = tokio::time::timeout(Duration::from_secs(30), resolve(&guest, "api.example.com")).await;
        assert_eq!(refused.unwrap(), None, "a question leaves a sandbox that may reach nothing");
        assert!(!reaches(&guest, ELSEWHERE));
    });
}
