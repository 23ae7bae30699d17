//! The `qemu` driver: `-M microvm`, on KVM where it works, else in software.
//!
//! `command_line` says what a machine is, `kernel_arguments` what its kernel is told, `driver` starts and adopts processes,
//! `machine` speaks to one.

mod command_line;
mod driver;
pub(crate) mod kernel_arguments;
mod machine;

pub use driver::QemuVmm;

/// A command line for the KVM probe: the machine that sandboxes get, without disk, network and control socket.
pub(crate) fn probe_arguments(
    kernel: &std::path::Path,
    initramfs: &std::path::Path,
    tsc_khz: u32,
) -> Vec<std::ffi::OsString> {
    use crate::Accelerator::Kvm;
    let machine = [
        "-M",
        command_line::MACHINE,
        "-bios",
        command_line::FIRMWARE,
        "-accel",
        command_line::accelerator_option(Kvm),
        "-cpu",
        command_line::processor(Kvm),
        "-m",
        "256M",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        command_line::CONFINEMENT,
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ];
    let mut arguments: Vec<_> = machine.into_iter().map(std::ffi::OsString::from).collect();
    arguments.extend(command_line::kernel(kernel, initramfs, &kernel_arguments::for_probe(tsc_khz)));
    arguments
}
