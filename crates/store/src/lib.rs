//! Every SQL statement, the migrations and (in `.sqlx` at the workspace's root) the cache against which statements are checked
//! at compile time. One file per resource, rows in their own types.
//!
//! - [`Store`] reads. Its methods are single statements.
//! - [`Tx`] writes. Whoever changes something opens one, makes every change that belongs together, tells the audit trail
//!   ([`Tx::audit`]) and commits; nothing else commits, so a change and its event exist together or not at all.
//! - A status is written by compare-and-set only: [`Tx::sandbox_transition`].
//!
//! Nothing here decides: no policy, no RPC, no HTTP. Ids and words come and go as `sandbar_types` has them.

pub mod api_keys;
pub mod audit;
pub mod builds;
mod convert;
pub mod copies;
mod database;
pub mod hosts;
pub mod idempotency;
pub mod listen;
pub mod locks;
pub mod platform;
pub mod quotas;
pub mod sandbox_metrics;
pub mod sandboxes;
pub mod sessions;
pub mod sign_in;
pub mod snapshots;
pub mod stats;
pub mod tags;
pub mod team_secrets;
pub mod teams;
pub mod templates;
pub mod transfers;
pub mod usage;
pub mod users;
pub mod volumes;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use database::{MIGRATIONS, Store, StoreError, Tx};

/// A row's place in a list, newest first: what keyset pagination goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// Its id, which tells rows of one instant apart.
    pub id: Uuid,
}
