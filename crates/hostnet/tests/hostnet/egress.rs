//! Policies: what they let a guest reach, by which protocol, and what they say of the rest.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use sandbar_hostnet::{Denials, NetConfig, Pool, Reason};
use sandbar_types::{
    NetworkPolicy,
    guest::{AGENT_PORT, GATEWAY_IP, GUEST_IP},
};

use crate::slots::world;
use crate::world::{
    ELSEWHERE, Guest, HOST, METADATA, PRIVATE, WORLD, connect, echo, echoes, echoes_udp, inside, pings, run,
};

const PORT: u16 = 8_000;

pub(crate) fn policy(allow: &[&str], deny: &[&str]) -> NetworkPolicy {
    let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
    NetworkPolicy::parse(&list(allow), &list(deny), true).unwrap()
}

fn closed() -> NetworkPolicy {
    NetworkPolicy { allow_internet: false, ..NetworkPolicy::default() }
}

/// Which of TCP, UDP and ICMP pass.
fn passes(from: &Path, to: Ipv4Addr) -> [bool; 3] {
    let tcp = connect(from, to, PORT).is_ok_and(|connection| echoes(&connection));
    [tcp, echoes_udp(from, to, PORT), pings(from, to)]
}

fn count(denials: &Denials, reason: Reason) -> u64 {
    denials.counts.iter().find(|(counted, _)| *counted == reason).unwrap().1
}

#[test]
fn every_protocol_goes_where_the_policy_says_and_nowhere_else() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let opened = NetConfig {
            private_egress: vec!["192.168.0.0/16".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
            ..world.config("10.251.0.0/24", 2)
        };
        let closed_host = world.config("10.251.0.0/24", 2);
        for address in [WORLD, ELSEWHERE, PRIVATE, METADATA] {
            echo(&world.outside(), address, PORT);
        }
        // Who runs the host, the policy, and what it lets pass.
        let all = ["0.0.0.0/0"];
        let cases: [(&NetConfig, NetworkPolicy, &[Ipv4Addr]); 9] = [
            (&closed_host, NetworkPolicy::default(), &[WORLD, ELSEWHERE]),
            (&closed_host, closed(), &[]),
            (&closed_host, policy(&[], &all), &[]),
            (&closed_host, policy(&["93.184.0.9"], &all), &[ELSEWHERE]),
            (&closed_host, policy(&[], &["93.184.0.8/31"]), &[WORLD]),
            (&closed_host, policy(&["93.184.0.9/32"], &["93.184.0.0/24"]), &[ELSEWHERE]),
            // What nobody can open stays shut, whatever a tenant writes.
            (&closed_host, policy(&["0.0.0.0/0"], &[]), &[WORLD, ELSEWHERE]),
            // What the operator opened is still shut to those who do not ask for it; what no operator can open stays shut.
            (&opened, NetworkPolicy::default(), &[WORLD, ELSEWHERE]),
            (&opened, policy(&["0.0.0.0/0"], &all), &[WORLD, ELSEWHERE, PRIVATE]),
        ];
        for (config, policy, expected) in cases {
            let pool = Pool::open(config.clone(), &[]).await.unwrap();
            let (slot, other) = (pool.take().await.unwrap(), pool.take().await.unwrap());
            let (guest, neighbour) = (Guest::plug_into(&slot), Guest::plug_into(&other));
            echo(&neighbour.namespace(), GUEST_IP, PORT);
            pool.egress(&slot).apply(&policy).await.unwrap();
            let from = guest.namespace();
            for to in [WORLD, ELSEWHERE, PRIVATE, METADATA, HOST, slot.host_ip, other.host_ip] {
                let passes = passes(&from, to);
                let expected = expected.contains(&to);
                assert_eq!(passes, [expected; 3], "{to} under {policy:?}");
            }
            // Its gateway answers to a ping alone.
            assert_eq!(passes(&from, GATEWAY_IP), [false, false, true]);
            drop((guest, neighbour));
            for slot in [slot, other] {
                pool.release(slot.index).await.unwrap();
            }
            pool.shutdown().await.unwrap();
        }
    });
}

#[test]
fn a_policy_cuts_what_it_denies_and_leaves_the_rest_running() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.251.1.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        echo(&world.outside(), WORLD, PORT);
        echo(&world.outside(), ELSEWHERE, PORT);
        let (world_open, elsewhere_open) = (
            connect(&guest.namespace(), WORLD, PORT).unwrap(),
            connect(&guest.namespace(), ELSEWHERE, PORT).unwrap(),
        );
        assert!(echoes(&world_open) && echoes(&elsewhere_open));

        let mut egress = pool.egress(&slot);
        let only_elsewhere = policy(&["93.184.0.9"], &["0.0.0.0/0"]);
        egress.apply(&only_elsewhere).await.unwrap();
        let mut cut = &world_open;
        let cut = cut.write_all(b"echo").and_then(|()| cut.read_exact(&mut [0; 4])).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset, "it goes on, or is left hanging: {cut}");
        assert!(echoes(&elsewhere_open), "a connection that is allowed is cut");
        // The same again, as the agent does when it starts anew.
        pool.egress(&slot).apply(&only_elsewhere).await.unwrap();
        assert!(echoes(&elsewhere_open));

        egress.apply(&NetworkPolicy::default()).await.unwrap();
        assert!(connect(&guest.namespace(), WORLD, PORT).is_ok_and(|connection| echoes(&connection)));
        egress.apply(&closed()).await.unwrap();
        assert!(!echoes(&elsewhere_open));
    });
}

#[test]
fn what_was_denied_is_counted_and_listed() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.251.2.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let from = guest.namespace();
        let mut egress = pool.egress(&slot);
        let fresh = egress.denials().await.unwrap();
        assert!(fresh.addresses.is_empty());
        assert_eq!(count(&fresh, Reason::Policy), 0);

        egress.apply(&closed()).await.unwrap();
        assert!(connect(&from, WORLD, 443).is_err());
        assert!(!echoes_udp(&from, ELSEWHERE, 53));
        assert!(!pings(&from, WORLD));
        assert!(connect(&from, METADATA, 80).is_err());
        assert!(connect(&from, PRIVATE, 5_432).is_err());
        inside(&from, || {
            run("ip", &["addr", "add", "93.184.0.77/32", "dev", "eth0"]);
            run("ip", &["-6", "addr", "add", "fd00::2/64", "dev", "eth0", "nodad"]);
        });
        let forged = inside(&from, || {
            let socket = std::net::UdpSocket::bind("93.184.0.77:0").unwrap();
            socket.send_to(b"echo", (WORLD, 53)).unwrap();
            TcpStream::connect_timeout(&"[fd00::1]:80".parse().unwrap(), Duration::from_millis(300))
        });
        assert!(forged.is_err());

        let denials = egress.denials().await.unwrap();
        let listed: Vec<_> =
            denials.addresses.iter().map(|denied| (denied.address, denied.protocol, denied.port)).collect();
        for expected in
            [(WORLD, 6, 443), (ELSEWHERE, 17, 53), (WORLD, 1, 0), (METADATA, 6, 80), (PRIVATE, 6, 5_432)]
        {
            assert!(listed.contains(&expected), "{expected:?} is not in {listed:?}");
        }
        assert!(denials.addresses.iter().all(|denied| denied.packets > 0 && denied.ago.as_secs() < 600));
        for (reason, least) in [
            (Reason::Policy, 3),
            (Reason::Reserved, 1),
            (Reason::Private, 1),
            (Reason::Forged, 1),
            (Reason::Ipv6, 1),
        ] {
            assert!(count(&denials, reason) >= least, "{reason:?}: {:?}", denials.counts);
        }
        // A change of the policy forgets nothing.
        egress.apply(&NetworkPolicy::default()).await.unwrap();
        assert_eq!(egress.denials().await.unwrap().addresses.len(), denials.addresses.len());
    });
}

#[test]
fn a_guest_that_denies_itself_a_thousand_places_fills_no_memory() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.251.3.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let mut egress = pool.egress(&slot);
        egress.apply(&closed()).await.unwrap();
        let flood = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 1..=2_000 {
                // A refusal that was told fails the next one, and a full queue loses some.
                let _ = socket.send_to(b"x", (WORLD, port));
            }
        };
        for _ in 0..20 {
            inside(&guest.namespace(), flood);
            if count(&egress.denials().await.unwrap(), Reason::Policy) > 1_000 {
                break;
            }
        }
        let denials = egress.denials().await.unwrap();
        assert_eq!(denials.addresses.len(), 512);
        assert!(count(&denials, Reason::Policy) > 1_000, "{:?}", denials.counts);
    });
}

/// A connection from an address and a port of the calling thread's namespace.
fn dial(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &from)?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

#[test]
fn what_is_left_of_connections_to_the_agent_is_no_denial() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.251.4.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let egress = pool.egress(&slot);
        let own = |port| SocketAddrV4::new(GUEST_IP, port);
        let gateway = |port| SocketAddrV4::new(GATEWAY_IP, port);
        // Each with its caller, which has to stay open.
        let left = inside(&guest.namespace(), || {
            // What opens a connection is a denial, from the agent's port too.
            assert!(dial(own(AGENT_PORT), gateway(22)).is_err());
            // Connections with the gateway that the slot never saw, as after a restore: the guest was both ends of them.
            let address = format!("{GATEWAY_IP}/32");
            run("ip", &["addr", "add", &address, "dev", "lo"]);
            let mut left = [AGENT_PORT, PORT].map(|port| {
                let listener = TcpListener::bind(own(port)).unwrap();
                let caller = dial(gateway(0), own(port)).unwrap();
                (listener.accept().unwrap().0, caller)
            });
            run("ip", &["addr", "del", &address, "dev", "lo"]);
            for (end, _) in &mut left {
                end.write_all(b"echo").unwrap();
            }
            left
        });
        let [agents, anothers] = left.each_ref().map(|(_, caller)| caller.local_addr().unwrap().port());
        // Sent after the agent's, on the same cable: when it is listed the agent's has been judged.
        let judged = async {
            loop {
                let denials = egress.denials().await.unwrap();
                let ports: Vec<_> = denials.addresses.iter().map(|denied| denied.port).collect();
                if ports.contains(&anothers) {
                    break ports;
                }
            }
        };
        let ports = tokio::time::timeout(Duration::from_secs(30), judged).await.unwrap();
        assert!(
            ports.contains(&22) && !ports.contains(&agents),
            "{ports:?}, of which {agents} is the agent's"
        );
    });
}
