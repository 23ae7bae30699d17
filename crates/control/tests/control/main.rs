//! The control plane against a real PostgreSQL and a simulated host behind real mutual TLS: one program, so that it is linked
//! once. What HTTP makes of it is tested in `crates/api`.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

mod bootstrap;
mod builds;
mod create;
mod database_killed;
mod fleet;
mod fleet_simulation;
mod fork;
mod hosts;
mod imports;
mod kept_pauses;
mod life;
mod object_storage;
mod operations;
mod quotas;
mod reconcile;
mod simulation;
mod snapshots;
mod stats;
mod support;
mod team_secrets;
mod transfer;
mod volumes;
