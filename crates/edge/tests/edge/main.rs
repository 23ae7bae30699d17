//! The edge with a real control plane and database, and a simulated host whose guests' ports are real servers of these tests.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

mod access;
mod acme;
mod life;
mod limits;
mod passing;
mod tls;
mod upgrades;
mod world;
