//! Bounds on what a caller may ask for. One place, so that the API, the host and the documentation agree.

use std::ops::RangeInclusive;

/// Virtual CPUs of one sandbox.
pub const VCPUS: RangeInclusive<u32> = 1..=32;
/// Memory of one sandbox, in MiB. Below 128 MiB the guest kernel and Python do not fit.
pub const MEMORY_MB: RangeInclusive<u32> = 128..=131_072;
/// Disk of one sandbox, in MiB.
pub const DISK_MB: RangeInclusive<u32> = 512..=1_048_576;
/// Size of one volume, in MiB. The platform's configuration may allow less.
pub const VOLUME_MB: RangeInclusive<u32> = 64..=16_777_216;
/// Size of a volume where the caller does not say: it takes what is written to it.
pub const DEFAULT_VOLUME_MB: u32 = 10_240;
/// Volumes of one sandbox: as many as its kernel has devices for.
pub const SANDBOX_VOLUMES: usize = 8;
/// Idle time-out of a sandbox, in seconds: 0 (never) up to 30 days.
pub const TIMEOUT_SEC: RangeInclusive<u32> = 0..=2_592_000;
/// Time limit of one `exec`, in seconds.
pub const EXEC_TIMEOUT_SEC: RangeInclusive<u32> = 1..=3_600;

/// Children of one fork.
pub const FORK_COUNT: RangeInclusive<u32> = 1..=20;

/// vCPUs where the caller does not say.
pub const DEFAULT_VCPUS: u32 = 1;
/// Memory in MiB where the caller does not say.
pub const DEFAULT_MEMORY_MB: u32 = 512;
/// Seconds that an `exec` may take where the caller does not say.
pub const DEFAULT_EXEC_TIMEOUT_SEC: u32 = 30;

/// Bytes kept of each of an `exec`'s two output streams; the rest is read and dropped.
pub const EXEC_OUTPUT_BYTES: u64 = 1 << 20;

/// Entries of a sandbox's metadata or environment.
pub const MAP_ENTRIES: usize = 64;
/// Bytes of one key of metadata or environment.
pub const MAP_KEY_BYTES: usize = 128;
/// Bytes of one value of metadata or environment.
pub const MAP_VALUE_BYTES: usize = 4_096;
/// Entries of a secret's metadata. These bounds are E2B's.
pub const SECRET_METADATA_ENTRIES: usize = 32;
/// Bytes of one key.
pub const SECRET_METADATA_KEY_BYTES: usize = 128;
/// Bytes of one value.
pub const SECRET_METADATA_VALUE_BYTES: usize = 1_024;
/// Bytes of all keys and values.
pub const SECRET_METADATA_BYTES: usize = 8_192;
/// Bytes of a secret's value: what a variable of the environment may have.
pub const SECRET_BYTES: usize = MAP_VALUE_BYTES;
/// Bytes of a path in the guest (Linux's PATH_MAX).
pub const PATH_BYTES: usize = 4_096;
/// Bytes of one command line: command and arguments together.
pub const COMMAND_BYTES: usize = 128 * 1024;

/// Entries of each of the two lists of a network policy.
pub const NETWORK_ENTRIES: usize = 256;
