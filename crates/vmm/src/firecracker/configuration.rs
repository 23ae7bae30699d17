//! What a machine is: pure functions from what is wanted to requests.
//!
//! Whoever changes what the guest can see raises [`DEVICES`].

use std::{num::NonZeroU64, path::Path};

use sandbar_types::guest::GUEST_MAC;
use serde_json::{Value, json};

use super::{
    jail,
    requests::{
        BackendType, BootSource, CacheType, ChangedDrive, DISK, Drive, EntropyDevice, INTERFACE,
        LoadSnapshot, MachineConfiguration, MemoryBackend, NetworkInterface, NetworkOverride, RateLimiter,
        TokenBucket,
    },
};
use crate::{DiskRate, MachineSpec, VmmError};

/// Version of the list of devices. Snapshots of another version are refused.
pub(super) const DEVICES: u32 = 1;

/// The machine type: there is one. Devices are virtio over MMIO, told to the kernel by ACPI.
pub(super) const MACHINE: &str = "firecracker,pci=off";

/// The processor that the guest sees: the host's, as far as Firecracker passes it on without a template.
pub(super) const PROCESSOR: &str = "host";

/// What is put together before a boot, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) machine: MachineConfiguration,
    pub(super) boot: BootSource,
    pub(super) disk: Drive,
    pub(super) network: NetworkInterface,
    pub(super) entropy: EntropyDevice,
}

pub(super) fn for_boot(spec: &MachineSpec) -> Configuration {
    let MachineSpec { vcpus, memory_mb, disk: _, work_dir: _, netns: _, tap, confinement: _, disk_rate } =
        spec;
    Configuration {
        machine: MachineConfiguration {
            vcpu_count: *vcpus,
            mem_size_mib: *memory_mb,
            smt: false,
            track_dirty_pages: true,
        },
        boot: BootSource {
            kernel_image_path: jail::KERNEL.to_owned(),
            initrd_path: jail::INITRAMFS.to_owned(),
            boot_args: kernel_arguments(),
        },
        disk: Drive {
            drive_id: DISK,
            path_on_host: jail::DISK,
            is_root_device: true,
            is_read_only: false,
            cache_type: CacheType::Writeback,
            rate_limiter: rate_limiter(*disk_rate),
        },
        network: NetworkInterface {
            iface_id: INTERFACE,
            host_dev_name: tap.clone(),
            guest_mac: GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":"),
        },
        entropy: EntropyDevice {},
    }
}

/// A loaded machine runs at once. Its clock goes on where it stopped, as with every driver: whoever restores a machine tells the guest
/// the time.
pub(super) fn for_load(spec: &MachineSpec) -> LoadSnapshot {
    LoadSnapshot {
        snapshot_path: jail::STATE,
        mem_backend: MemoryBackend { backend_type: BackendType::File, backend_path: jail::MEMORY },
        track_dirty_pages: true,
        resume_vm: true,
        network_overrides: vec![NetworkOverride { iface_id: INTERFACE, host_dev_name: spec.tap.clone() }],
    }
}

/// A loaded machine's disk has the bounds of the machine that was saved, until it is told its own.
pub(super) fn after_load(spec: &MachineSpec) -> ChangedDrive {
    ChangedDrive { drive_id: DISK, rate_limiter: rate_limiter(spec.disk_rate) }
}

fn rate_limiter(rate: DiskRate) -> RateLimiter {
    let DiskRate { requests, bytes } = rate;
    let bucket = |bound: Option<NonZeroU64>| match bound {
        Some(bound) => TokenBucket { size: bound.get(), refill_time: 1_000 },
        None => TokenBucket { size: 0, refill_time: 0 },
    };
    RateLimiter { bandwidth: bucket(bytes), ops: bucket(requests) }
}

/// What the kernel is told. Firecracker adds the root device and, for kernels without ACPI, where the devices are.
///
/// - `console=ttyS0 quiet loglevel=1`: the init's last words go where the driver keeps them, and every byte there is an exit.
/// - `reboot=k panic=-1`: a panic or a reboot ends the VMM at once.
/// - `i8042...`: of that controller there is the reset line only; looking for more takes a second.
/// - `pci=off`: there is none.
/// - `nokaslr mitigations=off`: the guest is one tenant's, so it needs no protection from itself; the VMM is what isolates.
fn kernel_arguments() -> String {
    format!("console=ttyS0 quiet loglevel=1 {MACHINE_ARGUMENTS}")
}

const MACHINE_ARGUMENTS: &str = "reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd pci=off mitigations=off \
                                 nokaslr tsc=reliable";

/// The file that describes the KVM probe's machine: that of sandboxes, without disk and network. The kernel tells how far it gets.
pub(crate) fn probe_file(kernel: &Path, initramfs: &Path) -> Result<Value, VmmError> {
    let text = |path: &Path| {
        path.to_str().map(ToOwned::to_owned).ok_or_else(|| VmmError::UnusablePath(path.to_owned()))
    };
    Ok(json!({
        "boot-source": {
            "kernel_image_path": text(kernel)?,
            "initrd_path": text(initramfs)?,
            "boot_args": format!("console=ttyS0 loglevel=7 {MACHINE_ARGUMENTS} sandbar.probe"),
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
        "drives": [],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Confinement;

    fn spec() -> MachineSpec {
        MachineSpec {
            vcpus: 2,
            memory_mb: 512,
            disk: "/s/one/disk.ext4".into(),
            work_dir: "/s/one".into(),
            netns: "/run/netns/sb-0001-7".into(),
            tap: "tap0".to_owned(),
            confinement: Confinement { user: 900_007, group: "one".to_owned() },
            disk_rate: DiskRate { requests: None, bytes: NonZeroU64::new(5_000_000) },
        }
    }

    #[test]
    fn a_boot_says_what_the_api_has_names_for() {
        let Configuration { machine, boot, disk, network, entropy } = for_boot(&spec());
        let text = |value: Result<Value, _>| value.unwrap();
        let rate_limiter = json!({
            "bandwidth": { "size": 5_000_000, "refill_time": 1_000 }, "ops": { "size": 0, "refill_time": 0 },
        });
        assert_eq!(
            text(serde_json::to_value(after_load(&spec()))),
            json!({ "drive_id": "disk", "rate_limiter": rate_limiter })
        );
        assert_eq!(
            text(serde_json::to_value(machine)),
            json!({ "vcpu_count": 2, "mem_size_mib": 512, "smt": false, "track_dirty_pages": true })
        );
        assert_eq!(
            text(serde_json::to_value(boot)),
            json!({
                "kernel_image_path": "/vmlinux",
                "initrd_path": "/initramfs",
                "boot_args": "console=ttyS0 quiet loglevel=1 reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd \
                              pci=off mitigations=off nokaslr tsc=reliable",
            })
        );
        assert_eq!(
            text(serde_json::to_value(disk)),
            json!({
                "drive_id": "disk", "path_on_host": "/disk.ext4", "is_root_device": true, "is_read_only": false,
                "cache_type": "Writeback", "rate_limiter": rate_limiter,
            })
        );
        assert_eq!(
            text(serde_json::to_value(network)),
            json!({ "iface_id": "net", "host_dev_name": "tap0", "guest_mac": "06:00:ac:1e:00:02" })
        );
        assert_eq!(text(serde_json::to_value(entropy)), json!({}));
    }

    #[test]
    fn a_restore_names_nothing_of_the_machine_that_was_saved() {
        assert_eq!(
            serde_json::to_value(for_load(&spec())).unwrap(),
            json!({
                "snapshot_path": "/state",
                "mem_backend": { "backend_type": "File", "backend_path": "/memory" },
                "track_dirty_pages": true,
                "resume_vm": true,
                "network_overrides": [{ "iface_id": "net", "host_dev_name": "tap0" }],
            })
        );
    }

    #[test]
    fn the_probes_kernel_tells_how_far_it_gets() {
        let file = probe_file(Path::new("/k/vmlinux"), Path::new("/k/initramfs")).unwrap();
        let arguments = file["boot-source"]["boot_args"].as_str().unwrap();
        assert!(arguments.contains("loglevel=7") && arguments.ends_with(" sandbar.probe"), "{arguments}");
    }
}
