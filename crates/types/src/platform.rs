//! Kinds of machine, VMM and template.

use crate::words::words;

words! {
    /// A processor architecture, in the kernel's word.
    Arch {
        /// 64-bit x86.
        X86_64 = "x86_64",
        /// 64-bit Arm.
        Aarch64 = "aarch64",
    }
}

words! {
    /// What runs the virtual machines of a host.
    VmmKind {
        /// Firecracker, on KVM.
        Firecracker = "firecracker",
        /// QEMU, on KVM or in software.
        Qemu = "qemu",
    }
}

words! {
    /// What a template holds.
    TemplateKind {
        /// A disk image only: sandboxes boot from it.
        Base = "base",
        /// A disk image and a running machine's memory: sandboxes resume from it.
        Snapshot = "snapshot",
    }
}

words! {
    /// Where a build of a template stands.
    BuildStatus {
        /// It waits for a worker.
        Pending = "pending",
        /// A worker has it, or had it and died.
        Running = "running",
        /// There is a template.
        Success = "success",
        /// There is none.
        Failed = "failed",
        /// Somebody wanted none any more.
        Cancelled = "cancelled",
    }
}

impl BuildStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Success, Self::Failed, Self::Cancelled];

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Cancelled)
    }
}

impl Arch {
    /// The architecture that this program was built for.
    #[must_use]
    pub const fn host() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Self::Aarch64;
    }
}
