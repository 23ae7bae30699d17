//! The store against a real PostgreSQL: one program, so that it is linked once.

mod hosts;
mod sandboxes;
mod schema;
mod support;
