use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;
use uuid::Uuid;

const LIMITS: Limits = Limits { memory: 100, vcpus: 800, disk: 100 };

fn need(memory_mb: u32) -> Need {
    let demand = Demand { memory_mb, vcpus: 1, disk_mb: 1024 };
    Need { demand, arch: Arch::X86_64, vmm: VmmKind::Qemu }
}

fn host(id: u128, memory_mb: u32, promised_memory_mb: u64) -> Candidate {
    Candidate {
        host_id: Id::from_uuid(Uuid::from_u128(id)),
        is_for_team: true,
        is_draining: false,
        arch: Arch::X86_64,
        vmm: VmmKind::Qemu,
        memory_mb,
        cpu_cores: 4,
        disk_mb: 1 << 20,
        promised_memory_mb,
        promised_vcpus: 0,
        promised_disk_mb: 0,
        sandboxes: 0,
        of_team: 0,
        files: Files::Here,
    }
}

fn least_loaded(hosts: &[Candidate], need: Need) -> Result<Vec<Id<Host>>, Option<Obstacle>> {
    placed(Scheduling::LeastLoaded, hosts, need, 0)
}

fn placed(
    scheduling: Scheduling,
    hosts: &[Candidate],
    need: Need,
    turn: u64,
) -> Result<Vec<Id<Host>>, Option<Obstacle>> {
    let placed = place(scheduling.policy(), hosts, &need, LIMITS, turn)?;
    Ok(placed.into_iter().map(|choice| choice.host).collect())
}

#[test]
fn the_emptier_host_is_first_and_a_full_one_is_not_there() {
    let hosts = [host(1, 8192, 4096), host(2, 8192, 1024), host(3, 1024, 1024)];
    assert_eq!(least_loaded(&hosts, need(512)), Ok(vec![hosts[1].host_id, hosts[0].host_id]));
}

#[test]
fn the_last_of_everything_can_be_promised_and_not_one_more() {
    let full = |change: fn(&mut Candidate)| {
        let mut one = host(1, 1000, 0);
        change(&mut one);
        least_loaded(&[one], need(500))
    };
    assert!(full(|host| host.promised_memory_mb = 500).is_ok());
    assert_eq!(full(|host| host.promised_memory_mb = 501), Err(Some(Obstacle::Full)));
    assert!(full(|host| host.promised_vcpus = 31).is_ok());
    assert_eq!(full(|host| host.promised_vcpus = 32), Err(Some(Obstacle::Full)));
    assert!(full(|host| host.promised_disk_mb = (1 << 20) - 1024).is_ok());
    assert_eq!(full(|host| host.promised_disk_mb = (1 << 20) - 1023), Err(Some(Obstacle::Full)));
}

#[test]
fn what_stood_in_the_way_is_told_of_the_host_that_came_nearest() {
    let strange = Candidate { is_for_team: false, ..host(1, 8192, 0) };
    let draining = Candidate { is_draining: true, ..host(2, 8192, 0) };
    let other = Candidate { vmm: VmmKind::Firecracker, ..host(3, 8192, 0) };
    let empty = Candidate { files: Files::Nowhere, ..host(4, 8192, 0) };
    let full = host(5, 8192, 8192);
    let told = |hosts: &[Candidate]| least_loaded(hosts, need(512)).unwrap_err();
    assert_eq!(told(&[]), None);
    assert_eq!(told(&[strange.clone(), draining.clone()]), Some(Obstacle::NotForThis));
    assert_eq!(told(&[strange.clone(), other.clone()]), Some(Obstacle::OtherMachine));
    assert_eq!(told(&[other.clone(), empty.clone()]), Some(Obstacle::NoFiles));
    assert_eq!(told(&[empty, full, other, draining, strange]), Some(Obstacle::Full));
}

#[test]
fn a_teams_sandboxes_are_spread_over_hosts_that_are_nearly_as_good() {
    let near = Candidate { of_team: 3, ..host(1, 100_000, 1000) };
    let nearly = Candidate { of_team: 0, ..host(2, 100_000, 2000) };
    let far = Candidate { of_team: 0, ..host(3, 100_000, 60_000) };
    let order = least_loaded(&[near.clone(), nearly.clone(), far.clone()], need(512));
    assert_eq!(order, Ok(vec![nearly.host_id, near.host_id, far.host_id]));
}

#[test]
fn hosts_that_have_the_files_come_before_those_that_must_get_them_however_loaded() {
    let loaded = host(1, 8192, 6000);
    let empty = Candidate { files: Files::Elsewhere, ..host(2, 8192, 0) };
    let full = host(3, 8192, 8192);
    for scheduling in [Scheduling::LeastLoaded, Scheduling::RoundRobin] {
        for turn in 0..4 {
            let hosts = [empty.clone(), loaded.clone(), full.clone()];
            let order = place(scheduling.policy(), &hosts, &need(512), LIMITS, turn).unwrap();
            let expected = [(loaded.host_id, Files::Here), (empty.host_id, Files::Elsewhere)];
            assert_eq!(order, expected.map(|(host, files)| Choice { host, files }), "{scheduling:?}");
        }
    }
}

#[test]
fn policies_are_named() {
    assert_eq!("least_loaded".parse(), Ok(Scheduling::LeastLoaded));
    assert_eq!("round_robin".parse(), Ok(Scheduling::RoundRobin));
    assert_eq!("".parse::<Scheduling>(), Err(UnknownPolicy));
}

fn any_host() -> impl Strategy<Value = Candidate> {
    let room = (1u32..1_000_000, 0u64..3_000_000, 1u32..256, 0u64..2000, 1u64..10_000_000, 0u64..20_000_000);
    let rest = (any::<u128>(), 0u64..2000, 0u64..50, any::<[bool; 3]>(), any::<bool>(), any_files());
    (room, rest).prop_map(
        |((memory_mb, promised_memory_mb, cpu_cores, promised_vcpus, disk_mb, promised_disk_mb), rest)| {
            let (id, sandboxes, of_team, [is_for_team, is_draining, is_arm], is_firecracker, files) = rest;
            Candidate {
                host_id: Id::from_uuid(Uuid::from_u128(id)),
                is_for_team,
                is_draining,
                arch: if is_arm { Arch::Aarch64 } else { Arch::X86_64 },
                vmm: if is_firecracker { VmmKind::Firecracker } else { VmmKind::Qemu },
                memory_mb,
                cpu_cores,
                disk_mb,
                promised_memory_mb,
                promised_vcpus,
                promised_disk_mb,
                sandboxes,
                of_team,
                files,
            }
        },
    )
}

fn any_files() -> impl Strategy<Value = Files> {
    prop_oneof![Just(Files::Here), Just(Files::Elsewhere), Just(Files::Nowhere)]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1u32..400, 1u32..4000, 1u32..1000).prop_map(|(memory, vcpus, disk)| Limits { memory, vcpus, disk })
}

proptest! {
    #[test]
    fn exactly_the_hosts_that_meet_every_constraint_are_there(
        mut hosts in proptest::collection::vec(any_host(), 0..20),
        limits in any_limits(), memory_mb in 128u32..131_072, seed in any::<u64>(), robin in any::<bool>(),
    ) {
        let need = need(memory_mb);
        let policy = if robin { Scheduling::RoundRobin } else { Scheduling::LeastLoaded }.policy();
        let chosen = place(policy, &hosts, &need, limits, seed).unwrap_or_default();
        for host in &hosts {
            let within = |promised: u64, more: u32, has: u64, percent: u32| {
                promised + u64::from(more) <= has * u64::from(percent) / 100
            };
            let fits = host.is_for_team && !host.is_draining && host.files != Files::Nowhere
                && host.arch == need.arch && host.vmm == need.vmm
                && within(host.promised_memory_mb, memory_mb, host.memory_mb.into(), limits.memory)
                && within(host.promised_vcpus, 1, host.cpu_cores.into(), limits.vcpus)
                && within(host.promised_disk_mb, 1024, host.disk_mb, limits.disk);
            prop_assert_eq!(chosen.contains(&Choice { host: host.host_id, files: host.files }), fits);
        }
        prop_assert!(chosen.is_sorted_by_key(|choice| choice.files));
        // Whatever the order of the question.
        let turn = usize::try_from(seed % 20).unwrap().min(hosts.len());
        hosts.rotate_left(turn);
        prop_assert_eq!(place(policy, &hosts, &need, limits, seed).unwrap_or_default(), chosen);
    }

    #[test]
    fn a_host_with_more_promised_is_never_before_its_equal_with_less(
        base in any_host(), more in 1u64..100_000,
    ) {
        let base = Candidate { memory_mb: base.memory_mb.max(10_000), ..base };
        let heavier = Candidate {
            host_id: Id::from_uuid(Uuid::from_u128(0)),
            promised_memory_mb: base.promised_memory_mb + more + u64::from(base.memory_mb) / 1000 + 1,
            ..base.clone()
        };
        let order = LeastLoaded.rank(&need(128), LIMITS, vec![&heavier, &base], 0);
        prop_assert_eq!(order[0], base.host_id);
    }

    #[test]
    fn in_turn_every_host_is_first_equally_often(count in 1u128..12, rounds in 1u64..6, start in 0u64..1000) {
        let hosts: Vec<Candidate> = (0..count).map(|id| host(id, 8192, 0)).collect();
        let mut first: BTreeMap<Id<Host>, u64> = BTreeMap::new();
        for turn in start..start + rounds * u64::try_from(count).unwrap() {
            let order = placed(Scheduling::RoundRobin, &hosts, need(512), turn).unwrap();
            *first.entry(order[0]).or_default() += 1;
        }
        prop_assert_eq!(first.len(), hosts.len());
        prop_assert!(first.values().all(|times| *times == rounds));
    }
}
