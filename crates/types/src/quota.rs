//! What a team may have at the same time: the resources that are counted, and the one rule by which something more is let in.

use std::fmt;

use crate::words::words;

words! {
    /// Something that a team may have only so much of.
    Resource {
        /// Sandboxes that occupy a host ([`crate::SandboxStatus::occupies`]).
        Sandboxes = "sandboxes",
        /// Virtual CPUs of those.
        Vcpus = "vcpus",
        /// Memory of those, in MiB.
        MemoryMb = "memory_mb",
        /// Templates of the team's own, and those that are being made.
        Snapshots = "snapshots",
        /// Builds that wait or run.
        Builds = "builds",
        /// Secrets.
        Secrets = "secrets",
        /// Volumes.
        Volumes = "volumes",
        /// What these may hold together, in MiB.
        VolumeMb = "volume_mb",
    }
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Sandboxes,
        Self::Vcpus,
        Self::MemoryMb,
        Self::Snapshots,
        Self::Builds,
        Self::Secrets,
        Self::Volumes,
        Self::VolumeMb,
    ];

    /// What people call it.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Sandboxes => "running sandboxes",
            Self::Vcpus => "vCPUs of running sandboxes",
            Self::MemoryMb => "MiB of memory of running sandboxes",
            Self::Snapshots => "snapshots",
            Self::Builds => "builds",
            Self::Secrets => "secrets",
            Self::Volumes => "volumes",
            Self::VolumeMb => "MiB of volumes",
        }
    }
}

/// Largest limit that can be set.
pub const LARGEST_LIMIT: u64 = i32::MAX as u64;

/// One thing for each resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of the resources")]
pub struct PerResource<T> {
    pub sandboxes: T,
    pub vcpus: T,
    pub memory_mb: T,
    pub snapshots: T,
    pub builds: T,
    pub secrets: T,
    pub volumes: T,
    pub volume_mb: T,
}

impl<T> PerResource<T> {
    /// Makes one for each.
    pub fn each(mut make: impl FnMut(Resource) -> T) -> Self {
        Self {
            sandboxes: make(Resource::Sandboxes),
            vcpus: make(Resource::Vcpus),
            memory_mb: make(Resource::MemoryMb),
            snapshots: make(Resource::Snapshots),
            builds: make(Resource::Builds),
            secrets: make(Resource::Secrets),
            volumes: make(Resource::Volumes),
            volume_mb: make(Resource::VolumeMb),
        }
    }

    /// The one of a resource.
    pub const fn of(&self, resource: Resource) -> &T {
        match resource {
            Resource::Sandboxes => &self.sandboxes,
            Resource::Vcpus => &self.vcpus,
            Resource::MemoryMb => &self.memory_mb,
            Resource::Snapshots => &self.snapshots,
            Resource::Builds => &self.builds,
            Resource::Secrets => &self.secrets,
            Resource::Volumes => &self.volumes,
            Resource::VolumeMb => &self.volume_mb,
        }
    }

    /// The same, to be changed.
    pub const fn of_mut(&mut self, resource: Resource) -> &mut T {
        match resource {
            Resource::Sandboxes => &mut self.sandboxes,
            Resource::Vcpus => &mut self.vcpus,
            Resource::MemoryMb => &mut self.memory_mb,
            Resource::Snapshots => &mut self.snapshots,
            Resource::Builds => &mut self.builds,
            Resource::Secrets => &mut self.secrets,
            Resource::Volumes => &mut self.volumes,
            Resource::VolumeMb => &mut self.volume_mb,
        }
    }
}

impl PerResource<u64> {
    /// What a sandbox of this size takes.
    #[must_use]
    pub fn of_sandbox(vcpus: u32, memory_mb: u32) -> Self {
        Self { sandboxes: 1, vcpus: vcpus.into(), memory_mb: memory_mb.into(), ..Self::default() }
    }

    /// What a volume of this size takes.
    #[must_use]
    pub fn of_volume(size_mb: u32) -> Self {
        Self { volumes: 1, volume_mb: size_mb.into(), ..Self::default() }
    }

    /// What a snapshot takes.
    #[must_use]
    pub fn of_snapshot() -> Self {
        Self { snapshots: 1, ..Self::default() }
    }
}

/// A quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// Of what.
    pub resource: Resource,
    /// How much the team may have.
    pub limit: u64,
    /// How much it has.
    pub used: u64,
    /// How much more was asked for.
    pub asked: u64,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, limit, used, asked } = self;
        write!(
            f,
            "the team may have {limit} {}, has {used}, and this needs {asked} more: an administrator of the platform can raise its quota",
            resource.noun()
        )
    }
}

impl std::error::Error for QuotaExceeded {}

/// What a team may have and what it has, as they are known to whoever holds the team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    /// The most of each.
    pub limits: PerResource<u64>,
    /// What there is.
    pub used: PerResource<u64>,
}

impl Headroom {
    /// Takes as much as is asked for, all or nothing. A limit that was lowered below what there is refuses only what takes more of it.
    pub fn take(&mut self, asked: &PerResource<u64>) -> Result<(), QuotaExceeded> {
        for resource in Resource::ALL {
            let (limit, used) = (*self.limits.of(resource), *self.used.of(resource));
            let asked = *asked.of(resource);
            if asked > 0 && used.saturating_add(asked) > limit {
                return Err(QuotaExceeded { resource, limit, used, asked });
            }
        }
        for resource in Resource::ALL {
            *self.used.of_mut(resource) += *asked.of(resource);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nothing_is_taken_up_to_the_limit() {
        let limits =
            PerResource { sandboxes: 3, vcpus: 4, memory_mb: 1024, snapshots: 1, ..PerResource::default() };
        let mut room = Headroom { limits, used: PerResource::default() };
        room.take(&PerResource::of_sandbox(2, 512)).unwrap();
        let before = room;
        let refused = room.take(&PerResource::of_sandbox(3, 128)).unwrap_err();
        assert_eq!(refused, QuotaExceeded { resource: Resource::Vcpus, limit: 4, used: 2, asked: 3 });
        assert_eq!(room, before);
        room.take(&PerResource::of_sandbox(2, 512)).unwrap();
        assert_eq!(room.take(&PerResource::of_sandbox(1, 128)).unwrap_err().resource, Resource::Vcpus);
        room.take(&PerResource::of_snapshot()).unwrap();
        assert_eq!(room.take(&PerResource::of_snapshot()).unwrap_err().resource, Resource::Snapshots);
    }

    #[test]
    fn what_is_over_a_lowered_limit_stays_and_only_more_of_it_is_refused() {
        let limits = PerResource { snapshots: 5, ..PerResource::default() };
        let used = PerResource { sandboxes: 7, ..PerResource::default() };
        let mut room = Headroom { limits, used };
        room.take(&PerResource::of_snapshot()).unwrap();
        let refused = room.take(&PerResource::of_sandbox(1, 128)).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the team may have 0 running sandboxes, has 7, and this needs 1 more: an administrator of the platform can raise its quota"
        );
    }

    #[test]
    fn each_resource_has_its_own_place() {
        let mut counted = PerResource::each(|_| 0u64);
        for resource in Resource::ALL {
            *counted.of_mut(resource) += 1;
            assert_eq!(resource.as_str().parse(), Ok(resource));
        }
        assert_eq!(counted, PerResource::each(|_| 1));
    }
}
