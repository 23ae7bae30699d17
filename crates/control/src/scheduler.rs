//! Which host takes a sandbox: pure and synchronous, over what the store read. Hard constraints first (the query's: online, the
//! template's files there; here: room), then scores. The choice is not binding: the transaction that places the sandbox checks the
//! room again with the host's row held.

use sandbar_store::hosts::Candidate;
use sandbar_types::Id;
use sandbar_types::id::Host;

/// What a sandbox needs of its host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) memory_mb: u32,
    pub(crate) vcpus: u32,
}

/// How good a host is: the least is the best. Compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Of its memory, how much would be promised, in thousandths.
    memory_permille: u64,
    /// Virtual CPUs promised for each thousand cores.
    vcpus_permille: u64,
    sandboxes: u64,
    /// So that equals are told apart the same way everywhere.
    host: Id<Host>,
}

/// The hosts that have room, the least loaded first.
pub(crate) fn least_loaded(candidates: &[Candidate], need: Need, promise_percent: u32) -> Vec<Id<Host>> {
    let mut scores: Vec<Score> = candidates
        .iter()
        .filter_map(|candidate| {
            let memory = u64::from(candidate.memory_mb);
            let promised = candidate.promised_memory_mb.saturating_add(need.memory_mb.into());
            let fits = promised <= memory * u64::from(promise_percent) / 100;
            let vcpus = candidate.promised_vcpus.saturating_add(need.vcpus.into());
            fits.then(|| Score {
                memory_permille: promised.saturating_mul(1000) / memory.max(1),
                vcpus_permille: vcpus.saturating_mul(1000) / u64::from(candidate.cpu_cores).max(1),
                sandboxes: candidate.sandboxes,
                host: candidate.host_id,
            })
        })
        .collect();
    scores.sort_unstable();
    scores.into_iter().map(|score| score.host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn candidate(id: u128, memory_mb: u32, promised_memory_mb: u64) -> Candidate {
        Candidate {
            host_id: Id::from_uuid(Uuid::from_u128(id)),
            memory_mb,
            cpu_cores: 4,
            promised_memory_mb,
            promised_vcpus: 0,
            sandboxes: 0,
        }
    }

    #[test]
    fn the_emptier_host_is_first_and_a_full_one_is_not_there() {
        let hosts = [candidate(1, 8192, 4096), candidate(2, 8192, 1024), candidate(3, 1024, 1024)];
        let order = least_loaded(&hosts, Need { memory_mb: 512, vcpus: 1 }, 100);
        assert_eq!(order, [hosts[1].host_id, hosts[0].host_id]);
    }

    #[test]
    fn the_last_megabyte_can_be_promised_and_not_one_more() {
        let hosts = [candidate(1, 1000, 1500)];
        assert_eq!(least_loaded(&hosts, Need { memory_mb: 500, vcpus: 1 }, 200).len(), 1);
        assert!(least_loaded(&hosts, Need { memory_mb: 501, vcpus: 1 }, 200).is_empty());
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (any::<u128>(), 1u32..1_000_000, 0u64..3_000_000, 1u32..256, 0u64..2000, 0u64..2000).prop_map(
            |(id, memory_mb, promised_memory_mb, cpu_cores, promised_vcpus, sandboxes)| Candidate {
                host_id: Id::from_uuid(Uuid::from_u128(id)),
                memory_mb,
                cpu_cores,
                promised_memory_mb,
                promised_vcpus,
                sandboxes,
            },
        )
    }

    proptest! {
        #[test]
        fn exactly_the_hosts_with_room_are_there_whatever_the_order_of_the_question(
            mut hosts in proptest::collection::vec(any_candidate(), 0..20),
            memory_mb in 128u32..131_072,
            percent in 1u32..400,
            seed in any::<u64>(),
        ) {
            let need = Need { memory_mb, vcpus: 1 };
            let chosen = least_loaded(&hosts, need, percent);
            for host in &hosts {
                let limit = u64::from(host.memory_mb) * u64::from(percent) / 100;
                let fits = host.promised_memory_mb + u64::from(memory_mb) <= limit;
                prop_assert_eq!(chosen.contains(&host.host_id), fits);
            }
            let turn = usize::try_from(seed % 20).unwrap().min(hosts.len());
            hosts.rotate_left(turn);
            prop_assert_eq!(least_loaded(&hosts, need, percent), chosen);
        }

        #[test]
        fn a_host_with_more_promised_is_never_before_its_equal_with_less(
            base in any_candidate(), more in 1u64..100_000,
        ) {
            let base = Candidate { memory_mb: base.memory_mb.max(10_000), ..base };
            let heavier = Candidate {
                host_id: Id::from_uuid(Uuid::from_u128(0)),
                promised_memory_mb: base.promised_memory_mb + more + u64::from(base.memory_mb) / 1000 + 1,
                ..base.clone()
            };
            let order = least_loaded(&[heavier, base.clone()], Need { memory_mb: 128, vcpus: 1 }, 100_000);
            prop_assert_eq!(order[0], base.host_id);
        }
    }
}
