//! Kinds of machine, VMM and template.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {$(
            $(#[$vdoc])*
            #[serde(rename = $word)]
            $variant,
        )*}

        impl $name {
            /// The word used in the database, the API and RPCs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {$(Self::$variant => $word),*}
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(UnknownWord { what: stringify!($name), text: text.to_owned() }),
                }
            }
        }
    };
}

/// Text that names no value of the enum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?}")]
pub struct UnknownWord {
    what: &'static str,
    text: String,
}

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
