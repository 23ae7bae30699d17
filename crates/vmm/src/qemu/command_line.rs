//! QEMU's command lines: pure functions from what is wanted to arguments.
//!
//! A restored machine must have the booted one's devices in the same order, so both come from [`machine`]. Whoever changes what the
//! guest can see raises [`DEVICES`].

use std::{ffi::OsString, os::fd::RawFd, path::Path};

use sandbar_types::guest::GUEST_MAC;

use crate::{Accelerator, MachineSpec, VmmError, spawn::option_value};

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

/// The guest's memory: a file, mapped so that writes reach it or so that they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory<'a> {
    /// A booted machine's: what the guest writes is in the file.
    Shared(&'a Path),
    /// A restored machine's: the file is a snapshot's and never changes.
    Private(&'a Path),
}

/// The whole machine, without what it starts from.
pub(super) fn machine(
    spec: &MachineSpec,
    accelerator: Accelerator,
    memory: Memory<'_>,
    control: RawFd,
) -> Result<Vec<OsString>, VmmError> {
    let (file, share) = match memory {
        Memory::Shared(file) => (file, "on"),
        Memory::Private(file) => (file, "off"),
    };
    let MachineSpec { vcpus, memory_mb, disk, work_dir: _, netns: _, tap } = spec;
    let (disk, file) = (option_value(disk)?, option_value(file)?);
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let arguments = [
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
        &format!("memory-backend-file,id={MEMORY_ID},size={memory_mb}M,mem-path={file},share={share}"),
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
        "-drive",
        &format!("id=disk,file={disk},format=raw,if=none,cache=writeback,aio=threads,discard=unmap"),
        "-device",
        "virtio-blk-device,drive=disk",
        "-netdev",
        &format!("tap,id=net,ifname={tap},script=no,downscript=no,vhost=off"),
        "-device",
        &format!("virtio-net-device,netdev=net,mac={mac}"),
        "-device",
        "virtio-rng-device",
        "-chardev",
        &format!("socket,id=control,fd={control},server=on,wait=off"),
        "-mon",
        "chardev=control,mode=control",
        // A saved state does not say that the machine was stopped: a restored one runs as soon as it is loaded.
        "-global",
        "migration.store-global-state=off",
        // Nor does it say which machine it is of: the snapshot's manifest does.
        "-global",
        "migration.send-configuration=off",
    ];
    Ok(arguments.into_iter().map(OsString::from).collect())
}

/// What a booting machine starts from.
pub(super) fn kernel(kernel: &Path, initramfs: &Path, command_line: &str) -> [OsString; 6] {
    [
        "-kernel".into(),
        kernel.into(),
        "-initrd".into(),
        initramfs.into(),
        "-append".into(),
        command_line.into(),
    ]
}

/// A machine that waits to be told which state to load.
pub(super) fn awaiting_state() -> [OsString; 2] {
    ["-incoming".into(), "defer".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec {
            vcpus: 2,
            memory_mb: 512,
            disk: "/s/a,b/disk.ext4".into(),
            work_dir: "/s/a,b".into(),
            netns: "/run/netns/sb-0001-7".into(),
            tap: "tap0".to_owned(),
        }
    }

    fn line(memory: Memory<'_>) -> String {
        let arguments = machine(&spec(), Accelerator::Tcg, memory, 9).unwrap();
        arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_line_says_what_was_measured() {
        let line = line(Memory::Shared(Path::new("/s/memory")));
        for part in [
            "-M microvm,acpi=on,x-option-roms=off,rtc=on,suppress-vmdesc=on,memory-backend=mem -bios qboot.rom",
            "-accel tcg,thread=multi,tb-size=128 -cpu max,la57=off -smp 2 -m 512M",
            "memory-backend-file,id=mem,size=512M,mem-path=/s/memory,share=on",
            "file=/s/a,,b/disk.ext4,format=raw,",
            "ifname=tap0,script=no,downscript=no,vhost=off",
            "mac=06:00:ac:1e:00:02",
            "socket,id=control,fd=9,server=on,wait=off",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn a_restored_machine_differs_from_the_booted_one_in_its_memory_alone() {
        let booted = line(Memory::Shared(Path::new("/s/memory")));
        let restored = line(Memory::Private(Path::new("/t/memory")));
        assert_eq!(booted.replace("mem-path=/s/memory,share=on", "mem-path=/t/memory,share=off"), restored);
    }
}
