//! Who asks for an operation, and under which request id.

use sandbar_types::Id;
use sandbar_types::id::{ApiKey, Host, Session, Team, User};
use uuid::Uuid;

/// First argument of every operation.
#[derive(Debug, Clone)]
pub struct OpContext {
    /// The id that the client, the log and the audit trail share.
    pub request_id: Uuid,
    /// On whose behalf.
    pub actor: Actor,
}

/// On whose behalf an operation runs. Made by `auth`, never from what a request says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Nobody: the request carries no credential that was checked yet.
    Anonymous,
    /// A team's API key.
    ApiKey {
        /// The key.
        id: Id<ApiKey>,
        /// Its name, for the audit trail.
        name: String,
        /// The team that it acts for.
        team: Id<Team>,
    },
    /// A signed-in person.
    User {
        /// The person.
        id: Id<User>,
        /// The sign-in by which they ask.
        session: Id<Session>,
        /// Their name, for the audit trail.
        name: String,
        /// The team that they act for, if they chose one and belong to it.
        team: Option<Id<Team>>,
        /// Whether they administer the platform.
        is_admin: bool,
    },
    /// Whoever sends a request to one of a sandbox's ports.
    Traffic {
        /// The sandbox's team.
        team: Id<Team>,
    },
    /// Whoever has the token of a volume's files.
    VolumeFiles {
        /// The volume's team.
        team: Id<Team>,
    },
    /// A host agent.
    Host {
        /// The host.
        id: Id<Host>,
    },
    /// The control plane itself.
    System,
}

/// The caller acts for no team.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this needs a team, and the caller acts for none")]
pub struct NoTeam;

impl OpContext {
    /// A context for a request.
    #[must_use]
    pub const fn new(request_id: Uuid, actor: Actor) -> Self {
        Self { request_id, actor }
    }

    /// A context for the control plane's own work.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Uuid::now_v7(), Actor::System)
    }

    /// A context for a request without a credential.
    #[must_use]
    pub const fn anonymous(request_id: Uuid) -> Self {
        Self::new(request_id, Actor::Anonymous)
    }

    /// The team that the caller acts for.
    pub const fn team(&self) -> Result<Id<Team>, NoTeam> {
        match &self.actor {
            Actor::ApiKey { team, .. }
            | Actor::User { team: Some(team), .. }
            | Actor::Traffic { team }
            | Actor::VolumeFiles { team } => Ok(*team),
            Actor::Anonymous | Actor::User { team: None, .. } | Actor::Host { .. } | Actor::System => {
                Err(NoTeam)
            }
        }
    }

    /// Whether the caller may act on the platform itself: its administrators and the control plane.
    #[must_use]
    pub const fn is_platform(&self) -> bool {
        matches!(self.actor, Actor::System | Actor::User { is_admin: true, .. })
    }
}
