//! What tests stand on: a database of their own, a host agent that is simulated, an identity provider, a registry of images, a certificate
//! authority with a name server, and a collector of
//! traces.
//!
//! Databases are real: a PostgreSQL server, started by the program `with-postgres` of this crate, or a test's own that it kills. Nothing in here is linked
//! into what users run.

pub mod acme;
pub mod collector;
mod database;
pub mod issuer;
pub mod oci;
mod redis;
pub mod server;
pub mod sim_host;

pub use database::TestDatabase;
pub use redis::RedisServer;

/// The variable in which `with-postgres` hands a server's URL to the tests.
pub const POSTGRES_VARIABLE: &str = "SANDBAR_TEST_POSTGRES";
