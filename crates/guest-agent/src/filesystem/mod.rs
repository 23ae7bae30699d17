//! `filesystem.Filesystem`: looking at folders and entries, making, moving and removing them.
//!
//! - `entry`: one entry as the protocol describes it. `tree`: the operations, blocking. `service`: the RPCs; nothing but it
//!   knows the wire.
//!
//! Contents of files do not pass here: see `files`. Watching a folder answers `unimplemented`.

mod entry;
mod service;
mod tree;

pub(crate) use service::FilesystemService;
