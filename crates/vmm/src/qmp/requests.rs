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
    /// Sets parameters of state transfers.
    SetTransferRate = "migrate-set-parameters" { max_bandwidth: u64 } -> Done;
    /// Saves the state.
    Save = "migrate" { uri: String } -> Done;
    /// Loads a state.
    Load = "migrate-incoming" { uri: String } -> Done;
    /// Stops the processors.
    Stop = "stop" {} -> Done;
    /// Lets the processors run.
    Continue = "cont" {} -> Done;
    /// Asks what the machine is doing.
    QueryStatus = "query-status" {} -> Status;
    /// Asks how the memory is mapped.
    QueryMemory = "query-memdev" {} -> Vec<MemoryDevice>;
}

/// A feature of state transfers, on.
#[derive(Debug, Serialize)]
pub(crate) struct Feature {
    capability: &'static str,
    state: bool,
}

impl Feature {
    /// Memory in a shared file is not part of the transfer.
    pub(crate) const IGNORE_SHARED: Self = Self { capability: "x-ignore-shared", state: true };
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
    /// A state is being written: the machine cannot be continued yet.
    FinishMigrate,
    /// Stopped, for whatever reason.
    #[serde(other)]
    Stopped,
}

/// A block of the guest's memory.
#[derive(Debug, Deserialize)]
pub(crate) struct MemoryDevice {
    /// Whether what the guest writes reaches the file.
    pub(crate) share: bool,
}
