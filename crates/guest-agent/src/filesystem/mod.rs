//! `filesystem.Filesystem`: looking at folders and entries, making, moving and removing them, and watching them.
//!
//! - `entry`: one entry as the protocol describes it. `tree`: the operations, blocking. `watch`: what happens in folders.
//! - `service`: the RPCs. `wire`: values and errors as messages. Nothing but these two knows the wire.
//!
//! Contents of files do not pass here: see `files`.

mod entry;
mod service;
mod tree;
mod watch;
mod wire;

pub(crate) use service::FilesystemService;
