//! Slots: how they are made, reached, kept apart and removed.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    num::NonZeroU64,
    path::Path,
    time::{Duration, Instant},
};

use sandbar_hostnet::{Counts, NetConfig, NetError, Pool, Slot, SlotIndex};
use sandbar_types::guest::{GATEWAY_IP, GUEST_IP, READY_PORT};
use tokio::runtime::Runtime;

use crate::world::{Guest, HOST, METADATA, PRIVATE, WORLD, World, call, connect, inside, run, serve};

const PORT: u16 = 8_000;

/// A world, and a runtime whose every thread is in it.
pub(crate) fn world() -> (World, Runtime) {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    (world, runtime)
}

async fn filled(pool: &Pool, free: usize) {
    let filling = async {
        while pool.counts().free < free {
            // The pool tells nobody of its free slots but those who take them.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), filling).await.unwrap();
}

#[test]
fn host_and_guest_reach_each_other_under_the_agreed_addresses() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.250.0.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let listener = slot.ready_listener().await.unwrap();
        let guest = Guest::plug_into(&slot);

        serve(Some(&guest.namespace()), PORT);
        assert_eq!(
            call(None, slot.host_ip, PORT),
            Some(GATEWAY_IP.into()),
            "the host is not the guest's gateway"
        );

        // The guest stays plugged in until the end: what it sends after `connect` returned has to arrive too.
        let from = guest.namespace();
        let push = move || inside(&from, || TcpStream::connect((GATEWAY_IP, READY_PORT)));
        let pushed = tokio::task::spawn_blocking(push);
        let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
        let (_, peer) = accepted.unwrap().unwrap();
        assert_eq!(peer.ip(), GUEST_IP);
        pushed.await.unwrap().unwrap();
    });
}

#[test]
fn a_guest_that_is_cut_off_reaches_nobody_and_is_reached_by_the_host() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.250.0.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        serve(Some(&world.outside()), PORT);
        serve(Some(&guest.namespace()), PORT);
        assert!(call(Some(&guest.namespace()), WORLD, PORT).is_some());
        // Twice: what was cut short is done again.
        for _ in 0..2 {
            pool.cut_off(&slot).await.unwrap();
            let refused = connect(&guest.namespace(), WORLD, PORT).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut, "it was told");
            assert!(call(None, slot.host_ip, PORT).is_some());
        }
        pool.reconnect(&slot).await.unwrap();
        pool.reconnect(&slot).await.unwrap();
        assert!(call(Some(&guest.namespace()), WORLD, PORT).is_some());
    });
}

#[test]
fn a_guest_reaches_the_world_and_nothing_else() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.250.1.0/24", 2), &[]).await.unwrap();
        let (slot, other) = (pool.take().await.unwrap(), pool.take().await.unwrap());
        let (guest, neighbour) = (Guest::plug_into(&slot), Guest::plug_into(&other));
        let from = guest.namespace();
        serve(None, PORT);
        serve(Some(&world.outside()), PORT);
        serve(Some(&neighbour.namespace()), PORT);
        serve(Some(&slot.netns), PORT);

        assert_eq!(
            call(Some(&from), WORLD, PORT),
            Some(HOST.into()),
            "the world sees something else than the host"
        );
        assert_eq!(
            call(None, other.host_ip, PORT),
            Some(GATEWAY_IP.into()),
            "the neighbour is not there at all"
        );
        assert_eq!(call(None, PRIVATE, PORT), Some(HOST.into()), "the private network is not there at all");

        let host_end = first_address(&format!("sb{}{}", world.tag, slot.index));
        for (what, address) in [
            ("a private network", PRIVATE),
            ("the metadata service", METADATA),
            ("the host's uplink", HOST),
            ("the host's end of the link", host_end),
            ("the gateway", GATEWAY_IP),
            ("its own slot", slot.host_ip),
            ("another guest", other.host_ip),
        ] {
            assert_eq!(call(Some(&from), address, PORT), None, "a guest reaches {what}, {address}");
        }

        // What escaped from its VMM into the namespace still is no neighbour and no user of the host.
        inside(&slot.netns, || run("nft", &["flush", "ruleset"]));
        for (what, address) in
            [("the host", HOST), ("the host's end", host_end), ("another guest", other.host_ip)]
        {
            assert_eq!(
                call(Some(&slot.netns), address, PORT),
                None,
                "the namespace reaches {what}, {address}"
            );
        }
    });
}

fn first_address(device: &str) -> Ipv4Addr {
    let line = run("ip", &["-o", "-4", "addr", "show", "dev", device]);
    let address = line.split_ascii_whitespace().nth(3).unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn only_the_guests_own_address_leaves_its_slot() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.250.2.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let from = guest.namespace();
        serve(Some(&world.outside()), PORT);
        assert!(call(Some(&from), WORLD, PORT).is_some());
        // The same guest under a private address, and under one of the world's.
        for stranger in ["10.9.9.9", "93.184.0.77"] {
            inside(&from, || {
                run("ip", &["addr", "add", &format!("{stranger}/32"), "dev", "eth0"]);
                run(
                    "ip",
                    &[
                        "route",
                        "replace",
                        "default",
                        "dev",
                        "eth0",
                        "via",
                        "172.30.0.1",
                        "onlink",
                        "src",
                        stranger,
                    ],
                );
            });
            assert_eq!(call(Some(&from), WORLD, PORT), None, "packets of {stranger} pass");
            inside(&from, || run("ip", &["addr", "del", &format!("{stranger}/32"), "dev", "eth0"]));
        }
    });
}

#[test]
fn strangers_do_not_reach_a_guest() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.250.3.0/24", 1), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        serve(Some(&guest.namespace()), PORT);
        assert!(call(None, slot.host_ip, PORT).is_some());
        inside(&world.outside(), || run("ip", &["route", "add", "10.250.3.0/24", "via", &HOST.to_string()]));
        assert_eq!(call(Some(&world.outside()), slot.host_ip, PORT), None, "by the host's rules");
        // Also if the host let it through, as it does with answers to flows of the slot's last tenant.
        run("nft", &["delete", "table", "inet", &format!("sandbar_{}", world.tag)]);
        assert_eq!(call(Some(&world.outside()), slot.host_ip, PORT), None, "by the slot's rules");
        assert!(call(None, slot.host_ip, PORT).is_some());
    });
}

#[test]
fn nothing_is_left_behind() {
    let (world, runtime) = world();
    runtime.block_on(async {
        assert_eq!(world.traces(), [""; 0]);
        let pool = Pool::open(world.config("10.250.4.0/24", 3), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        filled(&pool, 3).await;
        assert_eq!(pool.counts(), Counts { free: 3, in_use: 1 });
        assert_eq!(world.traces().len(), 4 + 4 + 1);
        pool.release(slot.index).await.unwrap();
        assert!(
            matches!(pool.release(slot.index).await, Err(NetError::NotInUse(index)) if index == slot.index)
        );
        assert!(matches!(pool.release(SlotIndex(77)).await, Err(NetError::NotInUse(SlotIndex(77)))));
        assert!(!slot.netns.exists());
        pool.shutdown().await.unwrap();
        assert_eq!(world.traces(), [""; 0]);
        assert!(matches!(pool.take().await, Err(NetError::Closed)));
    });
}

#[test]
fn a_slot_in_use_outlives_its_pool_and_leftovers_do_not() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let config = world.config("10.250.5.0/24", 2);
        let pool = Pool::open(config.clone(), &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        serve(Some(&guest.namespace()), PORT);
        filled(&pool, 2).await;
        // As if killed: nothing is taken back. Beside whole slots there are halves of one.
        drop(pool);
        let half = format!("sb-{}-90", world.tag);
        fs::write(Path::new("/run/netns").join(&half), "").unwrap();
        run("ip", &["link", "add", &format!("sb{}91", world.tag), "type", "veth"]);
        let stranger = "sbffff-is-not-ours";
        run("ip", &["netns", "add", stranger]);

        let pool = Pool::open(config, &[slot.index]).await.unwrap();
        assert_eq!(pool.counts().in_use, 1);
        assert_eq!(pool.slot(slot.index), Some(slot.clone()));
        assert_eq!(pool.slot(SlotIndex(90)), None);
        assert_eq!(
            call(None, slot.host_ip, PORT),
            Some(GATEWAY_IP.into()),
            "a running guest lost its network"
        );
        filled(&pool, 2).await;
        let taken: Vec<Slot> = vec![pool.take().await.unwrap(), pool.take().await.unwrap()];
        assert!(taken.iter().all(|other| other.index != slot.index));
        assert!(!Path::new("/run/netns").join(&half).exists());
        pool.shutdown().await.unwrap();
        // Those in use are the agent's: three namespaces, three links and the table.
        assert_eq!(world.traces().len(), 3 + 3 + 1);
        for slot in taken.iter().chain([&slot]) {
            pool.release(slot.index).await.unwrap();
        }
        let strangers = fs::exists(Path::new("/run/netns").join(stranger)).unwrap();
        run("ip", &["netns", "delete", stranger]);
        assert!(strangers, "another's namespace was removed");
    });
}

#[test]
fn all_who_ask_at_once_get_slots_of_their_own_until_there_are_none() {
    let (world, runtime) = world();
    runtime.block_on(async {
        // Sixteen addresses: six slots.
        let pool = Pool::open(world.config("10.250.6.0/28", 1), &[]).await.unwrap();
        let taken = futures::future::join_all((0..6).map(|_| pool.take())).await;
        let slots: Vec<_> = taken.into_iter().map(Result::unwrap).collect();
        let distinct: BTreeSet<_> = slots.iter().map(|slot| slot.host_ip).collect();
        assert_eq!(distinct.len(), 6);
        match pool.take().await {
            Err(NetError::Unavailable(cause)) => {
                assert!(matches!(*cause, NetError::Exhausted { slots: 6, .. }));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.counts(), Counts { free: 0, in_use: 6 });
        pool.release(slots[2].index).await.unwrap();
        let again = pool.take().await.unwrap();
        assert_eq!(again.index, slots[2].index);
        let guest = Guest::plug_into(&again);
        serve(Some(&guest.namespace()), PORT);
        assert!(call(None, again.host_ip, PORT).is_some(), "a number that comes back does not work");
    });
}

#[test]
fn a_caller_that_gives_up_keeps_no_slot() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let pool = Pool::open(world.config("10.250.7.0/24", 0), &[]).await.unwrap();
        for _ in 0..3 {
            assert!(tokio::time::timeout(Duration::from_millis(1), pool.take()).await.is_err());
        }
        let slot = pool.take().await.unwrap();
        assert_eq!(pool.counts().in_use, 1);
        pool.release(slot.index).await.unwrap();
        pool.shutdown().await.unwrap();
        assert_eq!(world.traces(), [""; 0]);
    });
}

#[test]
fn addresses_that_the_host_uses_are_refused() {
    let (world, runtime) = world();
    runtime.block_on(async {
        run("ip", &["addr", "add", "10.250.8.1/26", "dev", "up0"]);
        match Pool::open(world.config("10.250.8.0/24", 1), &[]).await {
            Err(NetError::NetworkTaken { device, .. }) => assert_eq!(device, "up0"),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.traces(), [""; 0]);
    });
}

/// Sends bytes from one namespace to an address in another, and says how long the last of them took to arrive.
fn transfer(from: &Path, to: &Path, address: Ipv4Addr, port: u16, bytes: usize) -> Duration {
    let listener = inside(to, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let receiving = scope.spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            connection.read_to_end(&mut received).unwrap();
            (received.len(), begun.elapsed())
        });
        let mut connection = inside(from, || TcpStream::connect((address, port)).unwrap());
        connection.write_all(&vec![7; bytes]).unwrap();
        drop(connection);
        let (received, took) = receiving.join().unwrap();
        assert_eq!(received, bytes);
        took
    })
}

/// A bound can only be seen to make things slow, so that a busy machine changes nothing about it.
#[test]
fn what_a_slot_sends_and_is_sent_is_bounded() {
    let (world, runtime) = world();
    runtime.block_on(async {
        let (rate, bytes) = (400_000, 1_000_000);
        let bytes_per_second = NonZeroU64::new(rate);
        let config = NetConfig { bytes_per_second, ..world.config("10.250.40.0/24", 1) };
        let pool = Pool::open(config, &[]).await.unwrap();
        let slot = pool.take().await.unwrap();
        let guest = Guest::plug_into(&slot);
        let least = Duration::from_secs(bytes as u64 / rate) / 2;
        let out = transfer(&guest.namespace(), &world.outside(), WORLD, PORT, bytes);
        assert!(out > least, "the guest sent {bytes} bytes in {out:?}");
        let held = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        let back = transfer(Path::new(&path), &guest.namespace(), slot.host_ip, PORT, bytes);
        assert!(back > least, "the guest was sent {bytes} bytes in {back:?}");
        for device in ["tap0", "veth0"] {
            let shown = inside(&slot.netns, || run("tc", &["qdisc", "show", "dev", device]));
            assert!(shown.contains("tbf") && shown.contains("rate 3200Kbit"), "{device}: {shown}");
        }
    });
}
