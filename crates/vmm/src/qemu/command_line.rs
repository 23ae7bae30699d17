//! QEMU's command lines: pure functions from what is wanted to arguments.
//!
//! A restored machine must have the booted one's devices in the same order, so both come from [`machine`]. Whoever changes what the
//! guest can see raises [`DEVICES`].

use std::{ffi::OsString, os::fd::RawFd, path::PathBuf};

use sandbar_types::guest::GUEST_MAC;

use crate::{Accelerator, DiskRate, MachineSpec, confine::Root};

/// Version of the list of devices. Snapshots of another version are refused.
pub(super) const DEVICES: u32 = 2;

/// The machine type. Minimal, and restored in a millisecond: virtio over MMIO, no PCI, no option ROMs. ACPI tells the kernel where
/// the devices are. Without the clock chip (`rtc`) the kernel boots three times slower.
/// Without the description of the state's form (`suppress-vmdesc`), which is written for people and looked for at every load.
pub(super) const MACHINE: &str = "microvm,acpi=on,x-option-roms=off,rtc=on,suppress-vmdesc=on";

/// The firmware that can start a kernel without option ROMs. The default for `acpi=on` cannot, and differs among distributions.
pub(super) const FIRMWARE: &str = "qboot.rom";

/// Which processor the guest sees. 57-bit addresses cost the translator a page-table level and bring a guest of this size nothing.
pub(super) const fn processor(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max,la57=off",
    }
}

/// The translator's code cache counts as memory of the process: 128 MiB is where warm Python stops gaining.
pub(super) const fn accelerator_option(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg,thread=multi,tb-size=128",
    }
}

/// What every guest process does without: other programs, more privileges, other processes' priorities, system calls that nobody
/// needs any more.
pub(super) const CONFINEMENT: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The memory's name among QEMU's objects, and its path there.
const MEMORY_ID: &str = "mem";
pub(super) const MEMORY_OBJECT: &str = "/objects/mem";

/// Descriptors that every machine is handed.
pub(super) const CONTROL: RawFd = 3;
pub(super) const DISK: RawFd = 4;
pub(super) const TAP: RawFd = 5;
/// One more of those that are restored.
pub(super) const STATE: RawFd = 6;

/// Names of a machine's files in its root.
pub(super) const MEMORY: &str = "memory";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRAMFS: &str = "initramfs";

/// Numbers under which QEMU keeps the disk and a state to load. Of what is handed over later the number is higher.
const DISK_SET: u32 = 1;
const STATE_SET: u32 = 2;
pub(super) const SAVED_SET: u32 = 3;

/// How the guest's memory is mapped: the file never changes, whatever the guest writes. It is opened for reading alone, and the guest's
/// memory is none the less no ROM.
const PRIVATE: &str = "share=off,readonly=on,rom=off";

/// The whole machine, without what it starts from.
pub(super) fn machine(spec: &MachineSpec, accelerator: Accelerator, data: &[PathBuf]) -> Vec<OsString> {
    let MachineSpec { vcpus, memory_mb, disk_rate, confinement, .. } = spec;
    let (file, rate) = (Root::file(MEMORY), throttling(disk_rate));
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let arguments = [
        // For people who list processes: no path tells which machine this is.
        "-name",
        &confinement.group,
        "-M",
        &format!("{MACHINE},memory-backend={MEMORY_ID}"),
        "-bios",
        FIRMWARE,
        "-accel",
        accelerator_option(accelerator),
        "-cpu",
        processor(accelerator),
        "-smp",
        &vcpus.to_string(),
        "-m",
        &format!("{memory_mb}M"),
        "-object",
        &format!("memory-backend-file,id={MEMORY_ID},size={memory_mb}M,mem-path={file},{PRIVATE}"),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-msg",
        "timestamp=on",
        "-sandbox",
        CONFINEMENT,
        // Standard output is the console's bounded file.
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        // A plain file with the host's page cache: a reflinked file written directly makes a journal transaction of every write.
        "-add-fd",
        &format!("fd={DISK},set={DISK_SET}"),
        "-drive",
        &format!(
            "id=disk,file=/dev/fdset/{DISK_SET},format=raw,if=none,cache=writeback,aio=threads,discard=unmap,\
             auto-read-only=off{rate}"
        ),
        "-device",
        "virtio-blk-device,drive=disk",
        "-netdev",
        &format!("tap,id=net,fd={TAP},vhost=off"),
        "-device",
        &format!("virtio-net-device,netdev=net,mac={mac}"),
        "-device",
        "virtio-rng-device",
        "-chardev",
        &format!("socket,id=control,fd={CONTROL},server=on,wait=off"),
        "-mon",
        "chardev=control,mode=control",
        // A saved state does not say that the machine was stopped: a restored one runs as soon as it is loaded.
        "-global",
        "migration.store-global-state=off",
        // Nor does it say which machine it is of: the snapshot's manifest does.
        "-global",
        "migration.send-configuration=off",
    ];
    let firmware = data.iter().flat_map(|folder| [OsString::from("-L"), folder.into()]);
    arguments.into_iter().map(OsString::from).chain(firmware).collect()
}

/// The disk's bounds. A burst of one second is QEMU's own rule.
fn throttling(rate: &DiskRate) -> String {
    let DiskRate { requests, bytes } = rate;
    let bound = |name: &str, value: &Option<_>| value.map(|value| format!(",throttling.{name}={value}"));
    [bound("iops-total", requests), bound("bps-total", bytes)].into_iter().flatten().collect()
}

/// What a booting machine starts from.
pub(super) fn kernel(
    kernel: impl Into<OsString>,
    initramfs: impl Into<OsString>,
    command_line: &str,
) -> [OsString; 6] {
    [
        "-kernel".into(),
        kernel.into(),
        "-initrd".into(),
        initramfs.into(),
        "-append".into(),
        command_line.into(),
    ]
}

/// A machine that waits to be told to load the state that it is handed.
pub(super) fn awaiting_state() -> [OsString; 4] {
    let state = format!("fd={STATE},set={STATE_SET}");
    ["-add-fd".into(), state.into(), "-incoming".into(), "defer".into()]
}

/// That state's address.
pub(super) fn state_address() -> String {
    format!("file:{}", handed(STATE_SET))
}

/// What QEMU opens of a descriptor that it was handed.
pub(super) fn handed(set: u32) -> String {
    format!("/dev/fdset/{set}")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::Confinement;

    fn spec() -> MachineSpec {
        MachineSpec {
            vcpus: 2,
            memory_mb: 512,
            disk: "/s/a/disk.ext4".into(),
            work_dir: "/s/a".into(),
            netns: "/run/netns/sb-0001-7".into(),
            tap: "tap0".to_owned(),
            confinement: Confinement { user: 900_007, group: "sb-7".to_owned() },
            disk_rate: DiskRate::default(),
        }
    }

    fn line(spec: &MachineSpec) -> String {
        let arguments = machine(spec, Accelerator::Tcg, &["/usr/share/qemu".into()]);
        arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_line_says_what_was_measured() {
        let line = line(&spec());
        for part in [
            "-name sb-7 -M microvm,acpi=on,x-option-roms=off,rtc=on,suppress-vmdesc=on,memory-backend=mem -bios qboot.rom",
            "-accel tcg,thread=multi,tb-size=128 -cpu max,la57=off -smp 2 -m 512M",
            "memory-backend-file,id=mem,size=512M,mem-path=/files/memory,share=off,readonly=on,rom=off",
            "-add-fd fd=4,set=1 -drive id=disk,file=/dev/fdset/1,format=raw,",
            "tap,id=net,fd=5,vhost=off",
            "mac=06:00:ac:1e:00:02",
            "socket,id=control,fd=3,server=on,wait=off",
            "-L /usr/share/qemu",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains("throttling"));
        assert!(!line.contains("/s/a"), "the VMM is told where its files are on the host: {line}");
    }

    #[test]
    fn a_disk_is_bounded_where_there_is_a_bound() {
        let rate = DiskRate { requests: NonZeroU64::new(500), bytes: NonZeroU64::new(1 << 20) };
        let both = line(&MachineSpec { disk_rate: rate, ..spec() });
        assert!(
            both.contains("auto-read-only=off,throttling.iops-total=500,throttling.bps-total=1048576 "),
            "{both}"
        );
        let one = line(&MachineSpec { disk_rate: DiskRate { requests: None, ..rate }, ..spec() });
        assert!(one.contains("auto-read-only=off,throttling.bps-total=1048576 "), "{one}");
    }
}
