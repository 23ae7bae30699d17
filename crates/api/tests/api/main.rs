//! The API as a client sees it: a real listener, a real database, and a host that is simulated behind real mutual TLS.
//!
//! Files mirror the URLs. `platform` starts the whole for one test; `client` is how the tests speak HTTP and WebSocket.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

mod auth;
mod browser;
mod client;
mod e2b;
mod figures;
mod fuzz;
mod matrix;
mod openapi;
mod people;
mod platform;
mod surroundings;
mod v1;
