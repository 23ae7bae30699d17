//! A private PostgreSQL server, run from the server binaries that the machine has installed.
//!
//! What lives here: finding the binaries, making a data folder, starting, re-using and stopping one server. What does not:
//! any SQL beyond making the empty database, and any knowledge of what the database is for.
//!
//! ```text
//!             initdb into a temporary folder, then rename        SIGINT, wait
//!   (nothing) ---------------------------------------> stopped <-------------- ready
//!                                                        |                       ^
//!                                                        '-- postgres -> starting '
//! ```
//!
//! - **No network.** The server listens on a unix socket alone. Its folder is `0700` and belongs to the server's user, and
//!   `pg_hba.conf` takes only peers whose user is that one or root: two locks, neither of which is a password to keep.
//! - **Not root.** PostgreSQL refuses to run as root, so root starts it as the user `postgres`, which the distribution's
//!   server package makes; anybody else starts it as himself.
//! - **It may outlive its starter.** A starter that is killed leaves the server running, and the next [`Server::start`] on
//!   the same data folder takes it over. Whether a process is that server is judged by its working folder, not by a pid
//!   that a file remembers.
//! - **No polling.** Readiness is the status line that the server writes into `postmaster.pid`, seen through inotify; its
//!   end is seen through a pidfd.

mod account;
mod binaries;
mod cluster;
mod error;
mod postmaster;
mod process;
mod server;

pub use binaries::{BIN_VARIABLE, Binaries};
pub use error::PostgresError;
pub use server::{DATABASE, Durability, Options, ROLE, Server};
