//! Words that every part of Sandbar shares: ids, states and their transitions, sizes and limits, error codes.
//!
//! No I/O, no SQL, no HTTP: values and pure functions only, so that both the control plane and the host can depend on it.

pub mod cookie;
pub mod error_code;
pub mod guest;
pub mod id;
pub mod ingress;
pub mod life;
pub mod limits;
pub mod log;
pub mod name;
pub mod network;
pub mod platform;
pub mod quota;
pub mod recipe;
pub mod sandbox_status;
pub mod stats;
pub mod trace_parent;
pub mod volume;
pub mod words;

pub use error_code::ErrorCode;
pub use id::Id;
pub use ingress::Ingress;
pub use life::{MetricsRange, OnTimeout, PauseMode, TimeoutFrom};
pub use log::{LogDirection, LogLevel};
pub use name::{SecretName, TemplateName, TemplateTag, VolumeName};
pub use network::NetworkPolicy;
pub use platform::{Arch, BuildStatus, TemplateKind, VmmKind};
pub use quota::{PerResource, QuotaExceeded, Resource};
pub use sandbox_status::SandboxStatus;
pub use stats::{Reserved, StatsRange};
pub use trace_parent::TraceParent;
pub use volume::{MountPath, VolumeMount, VolumeStatus};
pub use words::UnknownWord;
