//! Watching folders, with inotify itself: event counts are part of the protocol, and the kernel's are the ones.
//!
//! ```text
//!   kernel's queue ──read──▶ Observer: which folder, which name; new folders watched and scanned ──▶ Events
//!                                                                                                     │
//!                       a stream reads when its client does: the kernel's queue is the only buffer ◀──┤
//!                       a polled watcher reads at once, into a queue that is bounded in bytes ◀───────┘
//! ```
//!
//! - `inotify`: the descriptor, and its events taken apart. `folders`: which watch is which folder. `observer`: what the
//!   events mean; blocking, and acting as the caller's user. `streamed`, `polled`: the two ways to have them. `places`:
//!   how many there may be.
//!
//! Nothing is lost in silence: where events outrun their reader, a stream ends with an error that says so, and a polled
//! watcher says so when it is asked next, and goes on.

mod acting_as;
mod folders;
mod inotify;
mod network;
mod observer;
mod places;
mod polled;
mod streamed;

use std::io;
use std::path::PathBuf;

use super::entry::Entry;
use crate::users::User;

pub(super) use polled::PolledWatchers;
pub(super) use streamed::{News, Watch};

/// What to watch.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// The folder, absolute.
    pub(super) folder: PathBuf,
    /// Who watches: what this user may not read is not told.
    pub(super) user: User,
    pub(super) depth: Depth,
    pub(super) entries: Entries,
    pub(super) network_mounts: NetworkMounts,
}

/// How far down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    OwnEntries,
    WholeTree,
}

/// Whether events say what their entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    Included,
    LeftOut,
}

/// Whether to watch what other machines may change without this kernel's notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkMounts {
    Allowed,
    Refused,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is there: made, or moved here.
    Create,
    Write,
    Remove,
    /// It was moved away; where to, if that is watched, is a [`Change::Create`].
    Rename,
    /// Its mode, owner, times or other attributes.
    Chmod,
}

/// What a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Relative to the watched folder, which itself is `.`.
    pub(super) name: PathBuf,
    pub(super) change: Change,
    /// The entry, if it was asked for and is still there.
    pub(super) entry: Option<Entry>,
}

/// Why a folder is not watched, or not any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    #[error("path '{}' does not exist", .0.display())]
    NotFound(PathBuf),
    #[error("path '{}' is not a directory", .0.display())]
    NotAFolder(PathBuf),
    #[error("path '{}' may not be read by this user", .0.display())]
    Refused(PathBuf),
    #[error("cannot watch path on network filesystem: {}", .0.display())]
    Network(PathBuf),
    #[error("watcher with id '{0}' not found")]
    NoWatcher(String),
    #[error("{} folders are watched already", places::WATCHERS_MAX)]
    TooMany,
    #[error("the kernel watches no more folders: {0}")]
    Exhausted(io::Error),
    #[error("events came faster than they were read, and some are lost")]
    Lost,
    #[error("path '{}' cannot be watched: {source}", path.display())]
    Failed { path: PathBuf, source: io::Error },
}
