//! One trace of a request, from the API through host agents into the guest: OpenTelemetry, where the environment asks for it, and nothing where it
//! does not.
//!
//! - [`Exporter`]: sends a process' spans by OTLP. Each process has at most one, from its start to its end.
//! - [`Span`]: a piece of work, said where the work is done. [`note`] adds to the one that is current, and [`current`] names it, for a link from
//!   work that is done later.
//! - [`Context`]: what work is part of. It is current while a future runs that has it ([`FutureExt`]), and so has to be given to each task that
//!   goes on with the work: no task has it of itself.
//!
//! A span has the attributes that are set here by name, and no others: nothing of a body, a header or an address gets into a trace by chance. It is
//! apart from the log, whose spans and lines stay on the machine. The guest has no exporter: its agent logs what it was told
//! ([`sandbar_types::TraceParent`]).

mod exporter;
mod span;

pub use exporter::{ExportError, Exporter};
pub use opentelemetry::Context;
pub use opentelemetry::trace::FutureExt;
pub use span::{Span, current, note};
