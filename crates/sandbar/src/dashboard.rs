//! The dashboard's files, embedded at build time (see `build.rs`); none where they were not built.

use sandbar_api::Asset;

/// All of them.
pub(crate) static DASHBOARD: &[Asset] = include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));
