//! The native REST API. One folder per resource, one file per verb or group of verbs: extract, authorize, call, map.

pub(crate) mod hosts;
pub(crate) mod sandboxes;
pub(crate) mod snapshots;
