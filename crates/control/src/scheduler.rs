//! Which host takes a sandbox: pure and synchronous, over what the store read.
//!
//! Hard constraints come first ([`can_take`]): a host that fails one is not there. What is left is put in order by a policy
//! ([`Policy`]), the best first. The choice is not binding: the transaction that places the sandbox checks the room again with the
//! host's row held, and the next host in order is tried where another create was faster.

use sandbar_store::hosts::{Candidate, Demand, Files, Limits};
use sandbar_types::id::Host;
use sandbar_types::{Arch, Id, VmmKind};

/// What a sandbox needs of its host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    pub(crate) demand: Demand,
    pub(crate) arch: Arch,
    pub(crate) vmm: VmmKind,
}

/// How hosts that can take a sandbox are put in order.
pub(crate) trait Policy: Send + Sync {
    /// The hosts, all of which can take it, the best first. `turn` grows with each placement of this control plane.
    fn rank(&self, need: &Need, limits: Limits, hosts: Vec<&Candidate>, turn: u64) -> Vec<Id<Host>>;
}

/// The policies by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// Where, of some hosts, most of what is scarcest is free; among near equals, where the team has least.
    #[default]
    LeastLoaded,
    /// Each host in turn.
    RoundRobin,
}

/// A name that no policy has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policies are least_loaded and round_robin")]
pub struct UnknownPolicy;

impl std::str::FromStr for Scheduling {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "least_loaded" => Ok(Self::LeastLoaded),
            "round_robin" => Ok(Self::RoundRobin),
            _ => Err(UnknownPolicy),
        }
    }
}

/// Of so many hosts the least loaded is nearly as good as that of all, and they are read in a time that does not grow with the fleet.
const SAMPLE: u32 = 32;

impl Scheduling {
    /// How many hosts to choose from; none = from all.
    pub(crate) const fn sample(self) -> Option<u32> {
        match self {
            Self::LeastLoaded => Some(SAMPLE),
            Self::RoundRobin => None,
        }
    }

    pub(crate) const fn policy(self) -> &'static dyn Policy {
        match self {
            Self::LeastLoaded => &LeastLoaded,
            Self::RoundRobin => &RoundRobin,
        }
    }
}

/// What stands in a host's way. The first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It takes other teams' sandboxes, or no new ones.
    NotForThis,
    /// It is another kind of machine.
    OtherMachine,
    /// It has not the template's files, and cannot get them.
    NoFiles,
    /// It is full.
    Full,
}

/// The hard constraints.
pub(crate) fn can_take(host: &Candidate, need: &Need, limits: Limits) -> Result<(), Obstacle> {
    if !host.is_for_team || host.is_draining {
        return Err(Obstacle::NotForThis);
    }
    if host.arch != need.arch || host.vmm != need.vmm {
        return Err(Obstacle::OtherMachine);
    }
    if Load::with(host, need).is_over(host, limits) {
        return Err(Obstacle::Full);
    }
    if host.files == Files::Nowhere { Err(Obstacle::NoFiles) } else { Ok(()) }
}

/// What would be promised of a host.
#[derive(Debug, Clone, Copy)]
struct Load {
    memory_mb: u64,
    vcpus: u64,
    disk_mb: u64,
}

impl Load {
    fn with(host: &Candidate, need: &Need) -> Self {
        let Demand { memory_mb, vcpus, disk_mb } = need.demand;
        Self {
            memory_mb: host.promised_memory_mb.saturating_add(memory_mb.into()),
            vcpus: host.promised_vcpus.saturating_add(vcpus.into()),
            disk_mb: host.promised_disk_mb.saturating_add(disk_mb.into()),
        }
    }

    fn is_over(self, host: &Candidate, limits: Limits) -> bool {
        let [memory, vcpus, disk] = may_promise(host, limits);
        self.memory_mb > memory || self.vcpus > vcpus || self.disk_mb > disk
    }

    /// Of what may be promised, how much would be, in thousandths: of what is scarcest, and of all together.
    fn permille(self, host: &Candidate, limits: Limits) -> (u64, u64) {
        let [memory, vcpus, disk] = may_promise(host, limits);
        let share = |promised: u64, of: u64| promised.saturating_mul(1000) / of.max(1);
        let shares = [share(self.memory_mb, memory), share(self.vcpus, vcpus), share(self.disk_mb, disk)];
        (shares.into_iter().max().unwrap_or_default(), shares.into_iter().fold(0, u64::saturating_add))
    }
}

/// Memory, processors and disk of a host that may be promised.
fn may_promise(host: &Candidate, limits: Limits) -> [u64; 3] {
    let of = |has: u64, percent: u32| has.saturating_mul(percent.into()) / 100;
    [
        of(host.memory_mb.into(), limits.memory),
        of(host.cpu_cores.into(), limits.vcpus),
        of(host.disk_mb, limits.disk),
    ]
}

/// See [`Scheduling::LeastLoaded`].
struct LeastLoaded;

/// Loads that differ by less, in thousandths, are near enough for other things to count.
const STEP: u64 = 50;

/// How good a host is: the least is the best. Compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    load_step: u64,
    /// So that the end of one host is not the end of all that a team has.
    of_team: u64,
    scarcest_permille: u64,
    all_permille: u64,
    sandboxes: u64,
    /// So that equals are told apart the same way everywhere.
    host: Id<Host>,
}

impl Policy for LeastLoaded {
    fn rank(&self, need: &Need, limits: Limits, hosts: Vec<&Candidate>, _turn: u64) -> Vec<Id<Host>> {
        let mut scores: Vec<Score> = hosts
            .into_iter()
            .map(|host| {
                let (scarcest_permille, all_permille) = Load::with(host, need).permille(host, limits);
                Score {
                    load_step: scarcest_permille / STEP,
                    of_team: host.of_team,
                    scarcest_permille,
                    all_permille,
                    sandboxes: host.sandboxes,
                    host: host.host_id,
                }
            })
            .collect();
        scores.sort_unstable();
        scores.into_iter().map(|score| score.host).collect()
    }
}

/// See [`Scheduling::RoundRobin`].
struct RoundRobin;

impl Policy for RoundRobin {
    fn rank(&self, _need: &Need, _limits: Limits, hosts: Vec<&Candidate>, turn: u64) -> Vec<Id<Host>> {
        let mut order: Vec<Id<Host>> = hosts.into_iter().map(|host| host.host_id).collect();
        order.sort_unstable();
        let count = u64::try_from(order.len()).unwrap_or(u64::MAX).max(1);
        order.rotate_left(usize::try_from(turn % count).unwrap_or_default());
        order
    }
}

/// A host that can take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) host: Id<Host>,
    /// Whether the files have to be fetched.
    pub(crate) files: Files,
}

/// The hosts that can take it, the best first, those that have the files before those that have to get them; and, where there are none, what stood in the way of the one that came nearest.
pub(crate) fn place(
    policy: &dyn Policy,
    hosts: &[Candidate],
    need: &Need,
    limits: Limits,
    turn: u64,
) -> Result<Vec<Choice>, Option<Obstacle>> {
    let judged: Vec<_> = hosts.iter().map(|host| (host, can_take(host, need, limits))).collect();
    let fit: Vec<&Candidate> =
        judged.iter().filter(|(_, verdict)| verdict.is_ok()).map(|(host, _)| *host).collect();
    if fit.is_empty() {
        let nearest = |obstacle: &Obstacle| match obstacle {
            Obstacle::Full => 3,
            Obstacle::NoFiles => 2,
            Obstacle::OtherMachine => 1,
            Obstacle::NotForThis => 0,
        };
        return Err(judged.into_iter().filter_map(|(_, verdict)| verdict.err()).max_by_key(nearest));
    }
    let (here, elsewhere): (Vec<_>, Vec<_>) = fit.into_iter().partition(|host| host.files == Files::Here);
    let ranked =
        [(Files::Here, here), (Files::Elsewhere, elsewhere)].into_iter().flat_map(|(files, hosts)| {
            let ranked = policy.rank(need, limits, hosts, turn).into_iter();
            ranked.map(move |host| Choice { host, files })
        });
    Ok(ranked.collect())
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
