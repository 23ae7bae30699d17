//! Firecracker's requests, as far as the driver makes them, by the names of its published API.

use hyper::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A request: its JSON is the body.
pub(super) trait Request: Serialize {
    const METHOD: Method;
    const PATH: &'static str;
    /// What a success answers; nothing is [`()`].
    type Answer: DeserializeOwned;
}

/// The one disk's and the one interface's name within the machine.
pub(super) const DISK: &str = "disk";
pub(super) const INTERFACE: &str = "net";

macro_rules! request {
    ($name:ident, $method:ident, $path:literal, $answer:ty) => {
        impl Request for $name {
            const METHOD: Method = Method::$method;
            const PATH: &'static str = $path;
            type Answer = $answer;
        }
    };
}

request!(MachineConfiguration, PUT, "/machine-config", ());
request!(BootSource, PUT, "/boot-source", ());
request!(Drive, PUT, "/drives/disk", ());
request!(ChangedDrive, PATCH, "/drives/disk", ());
request!(NetworkInterface, PUT, "/network-interfaces/net", ());
request!(EntropyDevice, PUT, "/entropy", ());
request!(Action, PUT, "/actions", ());
request!(Vm, PATCH, "/vm", ());
request!(CreateSnapshot, PUT, "/snapshot/create", ());
request!(LoadSnapshot, PUT, "/snapshot/load", ());
request!(DescribeInstance, GET, "/", Instance);
request!(DescribeMachine, GET, "/machine-config", Machine);

/// Processors and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MachineConfiguration {
    pub(super) vcpu_count: u32,
    pub(super) mem_size_mib: u32,
    pub(super) smt: bool,
    /// Without it a machine could only ever be saved whole.
    pub(super) track_dirty_pages: bool,
}

/// What the machine boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BootSource {
    pub(super) kernel_image_path: String,
    pub(super) initrd_path: String,
    pub(super) boot_args: String,
}

/// The disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Drive {
    pub(super) drive_id: &'static str,
    pub(super) path_on_host: &'static str,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: bool,
    pub(super) cache_type: CacheType,
    pub(super) rate_limiter: RateLimiter,
}

/// What changes of the disk of a machine that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ChangedDrive {
    pub(super) drive_id: &'static str,
    pub(super) rate_limiter: RateLimiter,
}

/// How fast a device may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct RateLimiter {
    pub(super) bandwidth: TokenBucket,
    pub(super) ops: TokenBucket,
}

/// So many bytes or requests in so many milliseconds; none in no time is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct TokenBucket {
    pub(super) size: u64,
    pub(super) refill_time: u64,
}

/// What becomes of the guest's flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum CacheType {
    /// They are flushes of the file.
    Writeback,
}

/// The network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NetworkInterface {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: String,
    pub(super) guest_mac: String,
}

/// The entropy device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct EntropyDevice {}

/// Something to do once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Action {
    pub(super) action_type: ActionType,
}

/// What to do once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum ActionType {
    /// Boot.
    InstanceStart,
}

/// Whether the processors are to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Vm {
    pub(super) state: WantedState,
}

/// What a machine can be told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum WantedState {
    Paused,
    Resumed,
}

/// Writes the state and the memory of a paused machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CreateSnapshot {
    pub(super) snapshot_type: SnapshotType,
    pub(super) snapshot_path: &'static str,
    pub(super) mem_file_path: &'static str,
}

/// How much of the memory is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum SnapshotType {
    /// All of it.
    Full,
    /// What has changed since the machine began or was last saved. A file of the memory's size that is there is written into.
    Diff,
}

/// Makes a machine of what another one was saved as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LoadSnapshot {
    pub(super) snapshot_path: &'static str,
    pub(super) mem_backend: MemoryBackend,
    pub(super) track_dirty_pages: bool,
    pub(super) resume_vm: bool,
    pub(super) network_overrides: Vec<NetworkOverride>,
}

/// Where a loaded machine's memory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MemoryBackend {
    pub(super) backend_type: BackendType,
    pub(super) backend_path: &'static str,
}

/// What that place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum BackendType {
    /// A file, mapped privately.
    File,
}

/// Another TAP than the saved machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NetworkOverride {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: String,
}

/// Asks how the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DescribeInstance {}

/// How the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Instance {
    pub(super) state: State,
}

/// What a machine can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum State {
    #[serde(rename = "Not started")]
    NotStarted,
    Running,
    Paused,
}

/// Asks what the machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DescribeMachine {}

/// What the machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Machine {
    pub(super) mem_size_mib: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_the_ids_of_their_bodies() {
        assert_eq!(Drive::PATH, format!("/drives/{DISK}"));
        assert_eq!(ChangedDrive::PATH, Drive::PATH);
        assert_eq!(NetworkInterface::PATH, format!("/network-interfaces/{INTERFACE}"));
    }

    #[test]
    fn answers_may_hold_more_than_is_known() {
        let text =
            r#"{"app_name":"Firecracker","id":"a","state":"Not started","vmm_version":"1.16.1","new":1}"#;
        assert_eq!(serde_json::from_str::<Instance>(text).unwrap().state, State::NotStarted);
        let text = r#"{"vcpu_count":2,"mem_size_mib":512,"smt":false,"huge_pages":"None"}"#;
        assert_eq!(serde_json::from_str::<Machine>(text).unwrap().mem_size_mib, 512);
    }
}
