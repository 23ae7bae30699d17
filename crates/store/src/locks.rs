//! Work that one replica does at a time: advisory locks that end with the transaction that holds them, so that nothing has to be
//! given back by a replica that died.

use sandbar_types::Id;
use sandbar_types::id::{Host, Sandbox};
use uuid::Uuid;

use crate::{Store, StoreError, Tx};

/// A piece of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Holding one host's rows against its inventory.
    Reconcile(Id<Host>),
    /// Looking for silent hosts and stuck rows.
    Monitor,
    /// Forgetting what is too old to be kept.
    Retention,
    /// Looking for what dead build workers left.
    Builds,
    /// Replacing one sandbox's network policy.
    Network(Id<Sandbox>),
    /// Sampling what teams have running, and merging and forgetting the samples.
    Samples,
    /// Ordering certificates of a public authority.
    Certificates,
}

impl Lock {
    /// PostgreSQL's key: the kind in the upper half, the id (hashed) in the lower. A collision makes one wait for another.
    fn key(self) -> (i32, i32) {
        const KIND_MONITOR: i32 = 0x5b01;
        const KIND_RECONCILE: i32 = 0x5b02;
        const KIND_RETENTION: i32 = 0x5b03;
        const KIND_NETWORK: i32 = 0x5b04;
        const KIND_BUILDS: i32 = 0x5b05;
        const KIND_SAMPLES: i32 = 0x5b06;
        const KIND_CERTIFICATES: i32 = 0x5b07;
        match self {
            Self::Builds => (KIND_BUILDS, 0),
            Self::Monitor => (KIND_MONITOR, 0),
            Self::Retention => (KIND_RETENTION, 0),
            Self::Samples => (KIND_SAMPLES, 0),
            Self::Certificates => (KIND_CERTIFICATES, 0),
            Self::Reconcile(host) => (KIND_RECONCILE, folded(host.uuid())),
            Self::Network(sandbox) => (KIND_NETWORK, folded(sandbox.uuid())),
        }
    }
}

fn folded(id: Uuid) -> i32 {
    let folded = id.as_bytes().chunks_exact(4).fold(0, |hash: u32, chunk| {
        let word = chunk.try_into().map_or(0, u32::from_be_bytes);
        hash.rotate_left(7) ^ word.wrapping_mul(0x9e37_79b1)
    });
    folded.cast_signed()
}

/// A lock that is held.
#[derive(Debug)]
#[must_use = "dropping it gives the lock back"]
pub struct Held {
    transaction: Tx,
}

impl Held {
    /// Gives the lock back, at once. Dropping does so too, but a moment later: when the connection is cleaned for its next use.
    pub async fn release(self) -> Result<(), StoreError> {
        self.transaction.commit().await
    }
}

impl Store {
    /// Takes a lock if nobody has it. Occupies a connection for as long as it is held.
    pub async fn try_lock(&self, lock: Lock) -> Result<Option<Held>, StoreError> {
        let mut transaction = self.begin().await?;
        let (kind, which) = lock.key();
        let got = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1, $2) AS "got!""#, kind, which)
            .fetch_one(transaction.connection())
            .await?;
        Ok(got.then_some(Held { transaction }))
    }
}
