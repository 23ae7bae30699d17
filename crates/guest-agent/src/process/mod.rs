//! Processes: started by callers, owned by nobody but themselves.
//!
//! ```text
//!   pipes / pty ──pump──▶ Output: ring of the last bytes ──follow by offset──▶ any number of subscribers
//!                                   ▲
//!   child ──supervisor: exit or deadline──┘ (exactly one end)
//! ```
//!
//! - `ring`: the bounded buffer, pure. `output`: the ring that tasks share; here a slow reader holds a process up, and a
//!   reader that stands still loses output.
//! - `launch`: from a request to a running child (user, environment, working folder, streams). `pty`: the terminal. `spawn`:
//!   the system calls that make the child.
//! - `reader`: what the child says. `running`: the tasks around one child. `session`: ends whatever the child left behind. `table`: finds processes.
//! - `service`: the RPCs. Nothing but this file knows the wire.
//!
//! A process outlives the stream that started it. Its output is kept in the ring, up to `RING_BYTES`, so that a caller that
//! comes back can go on from an offset (less where there are very many processes: `output` says how much); the process ends when it ends, when it is signalled, or at its deadline.

mod launch;
mod output;
mod pty;
mod reader;
mod ring;
mod running;
mod service;
mod session;
mod spawn;
mod table;

pub(crate) use service::ProcessService;
pub use table::ProcessTable;

/// Output that is kept of each process, as long as there are not too many of them.
const RING_BYTES: usize = 1 << 20;
