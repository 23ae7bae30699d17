//! The requests that the driver makes, and their answers.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One kind of request.
pub(crate) trait Request: Serialize {
    /// QEMU's name for it.
    const COMMAND: &'static str;
    /// The answer.
    type Reply: DeserializeOwned;
}

/// An answer that says nothing.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {}

/// Where a descriptor went.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Added {
    #[serde(rename = "fdset-id")]
    _set: u32,
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $command:literal { $($field:ident: $type:ty),* } -> $reply:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        impl Request for $name {
            const COMMAND: &'static str = $command;
            type Reply = $reply;
        }
    )*};
}

requests! {
    /// Ends the greeting; QEMU takes no other command before.
    Negotiate = "qmp_capabilities" {} -> Done;
    /// Switches features of state transfers.
    SetTransferFeatures = "migrate-set-capabilities" { capabilities: Vec<Feature> } -> Done;
    /// Writes the state of all devices, and nothing of memory and disks, to a file. `live`: whether the disks are given up. Made for
    /// Xen, which keeps a guest's memory elsewhere too; it is part of every build.
    SaveDevices = "xen-save-devices-state" { filename: String, live: bool } -> Done;
    /// Keeps the descriptor that comes with it in a set; what is then opened as that set is a copy of it.
    AddDescriptor = "add-fd" { fdset_id: u32 } -> Added;
    /// Closes a set's descriptors.
    RemoveDescriptors = "remove-fd" { fdset_id: u32 } -> Done;
    /// Loads a state.
    Load = "migrate-incoming" { uri: String } -> Done;
    /// Stops the processors.
    Stop = "stop" {} -> Done;
    /// Lets the processors run.
    Continue = "cont" {} -> Done;
    /// Asks what the machine is doing.
    QueryStatus = "query-status" {} -> Status;
    /// Asks for an object's property that is a number.
    GetNumber = "qom-get" { path: &'static str, property: &'static str } -> u64;
}

/// A feature of state transfers, on.
#[derive(Debug, Serialize)]
pub(crate) struct Feature {
    capability: &'static str,
    state: bool,
}

impl Feature {
    /// Changes of status are told as events.
    pub(crate) const EVENTS: Self = Self { capability: "events", state: true };
}

/// What the machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Status {
    pub(crate) status: RunState,
}

/// QEMU's run states, as far as they make a difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    /// The processors run.
    Running,
    /// Stopped by QEMU, which could not write to the disk.
    IoError,
    /// Stopped, for whatever reason.
    #[serde(other)]
    Stopped,
}
