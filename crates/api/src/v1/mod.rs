//! The native REST API. One folder per resource, one file per verb or group of verbs: extract, authorize, call, map.

pub(crate) mod admin;
pub(crate) mod api_keys;
pub(crate) mod audit_logs;
pub(crate) mod auth;
pub(crate) mod builds;
pub(crate) mod hosts;
pub(crate) mod me;
pub(crate) mod platform;
pub(crate) mod sandboxes;
pub(crate) mod secrets;
pub(crate) mod snapshots;
pub(crate) mod teams;
pub(crate) mod usage;
pub(crate) mod users;
pub(crate) mod volumes;
