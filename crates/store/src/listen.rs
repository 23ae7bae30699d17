//! Being told by the database that something has changed.

use sandbar_types::Id;
use sandbar_types::id::Kind;
use sqlx::postgres::PgListener;

use crate::{Store, StoreError};

/// What the database tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A build has changed, or its log.
    Builds,
    /// A build waits to be claimed.
    BuildQueue,
    /// A sandbox is not being paused, resumed or kept any more.
    Sandboxes,
    /// A template's files are on a host, or nobody fetches them there any more.
    Fetches,
    /// A certificate of a public authority has come.
    Certificates,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Builds, Self::BuildQueue, Self::Sandboxes, Self::Fetches, Self::Certificates];

    const fn channel(self) -> &'static str {
        match self {
            Self::Builds => "sandbar_builds",
            Self::BuildQueue => "sandbar_build_queue",
            Self::Sandboxes => "sandbar_sandboxes",
            Self::Fetches => "sandbar_fetches",
            Self::Certificates => "sandbar_certificates",
        }
    }
}

/// Something was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Of this topic: what of it has changed, by its UUID.
    Of(Topic, String),
    /// The connection was lost, and is there again: what was told meanwhile nobody heard.
    Missed,
}

/// A connection of its own, which listens.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Told {
    /// Whether it is of this one of a topic.
    #[must_use]
    pub fn is_of<K: Kind>(&self, topic: Topic, id: Id<K>) -> bool {
        matches!(self, Self::Of(of, told) if *of == topic && told.parse() == Ok(id.uuid()))
    }
}

impl Store {
    /// Listens from now on.
    pub async fn listen(&self) -> Result<Listener, StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen_all(Topic::ALL.map(Topic::channel)).await?;
        Ok(Listener(listener))
    }
}

impl Listener {
    /// What is told next.
    pub async fn next(&mut self) -> Result<Told, StoreError> {
        loop {
            let Some(told) = self.0.try_recv().await? else { return Ok(Told::Missed) };
            if let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.channel() == told.channel()) {
                return Ok(Told::Of(topic, told.payload().to_owned()));
            }
        }
    }
}
