//! Who may do what: the one place where it is decided.
//!
//! Authorization happens at lookup. Whoever wants to act on a team asks for it here, as what they need to be in it, and gets a
//! [`TeamAccess`], which nothing else makes; operations on teams, keys and the trail take that. What counts is the database,
//! read in the transaction of the change, never what a token says.

use sandbar_store::teams::TeamRow;
use sandbar_store::{StoreError, Tx};
use sandbar_types::id::{Session, Team, User};
use sandbar_types::{ErrorCode, Id};

use crate::context::NoTeam;
use crate::{Actor, Control, OpContext};

pub use sandbar_store::teams::Role;

/// Why somebody may not.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The caller is no person.
    #[error("this is for people who signed in: send the token of a sign-in")]
    NotAPerson,
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// No such team, or none of the caller's: they are not told which.
    #[error("there is no team {id}")]
    NoSuchTeam {
        /// Which.
        id: Id<Team>,
    },
    /// The caller is less than this needs.
    #[error("this needs the role {} in the team", .needed.as_str())]
    Role {
        /// What they would have to be.
        needed: Role,
    },
    /// The caller does not administer the platform.
    #[error("this is for the platform's administrators")]
    NotPlatformAdmin,
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl AccessError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotAPerson => ErrorCode::Unauthorized,
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::NoSuchTeam { .. } => ErrorCode::NotFound,
            Self::Role { .. } | Self::NotPlatformAdmin => ErrorCode::Forbidden,
            Self::Store(error) => store_code(error),
        }
    }
}

/// The code for what the database said: only that a team is gone is the caller's to know.
pub(crate) const fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::TeamGone => ErrorCode::NoTeam,
        StoreError::Away(_) => ErrorCode::Unavailable,
        _ => ErrorCode::InternalError,
    }
}

/// A person who signed in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Person {
    pub(crate) id: Id<User>,
    pub(crate) session: Id<Session>,
}

impl OpContext {
    /// The person who asks.
    pub(crate) fn person(&self) -> Result<Person, AccessError> {
        match &self.actor {
            Actor::User { id, session, .. } => Ok(Person { id: *id, session: *session }),
            _ => Err(AccessError::NotAPerson),
        }
    }

    /// That the caller administers the platform, as the database said when the request came.
    pub(crate) fn platform_admin(&self) -> Result<(), AccessError> {
        if self.is_platform() { Ok(()) } else { Err(AccessError::NotPlatformAdmin) }
    }
}

/// A team that the caller may act on, held by the transaction that it was found in.
#[derive(Debug)]
pub(crate) struct TeamAccess {
    pub(crate) team: TeamRow,
    pub(crate) user: Id<User>,
    pub(crate) role: Role,
}

impl TeamAccess {
    /// That the caller is at least this.
    pub(crate) fn at_least(&self, needed: Role) -> Result<(), AccessError> {
        if self.role >= needed { Ok(()) } else { Err(AccessError::Role { needed }) }
    }
}

/// What of a team's things (secrets, volumes) a caller may change and delete.
pub(crate) enum Keeper {
    /// All of them: the team's key, or an admin.
    OfAll(Option<Id<User>>),
    /// Those that this member made.
    OfOwn(Id<User>),
}

impl Keeper {
    /// Who a thing is made by, as far as it is a person.
    pub(crate) const fn user(&self) -> Option<Id<User>> {
        match self {
            Self::OfAll(user) => *user,
            Self::OfOwn(user) => Some(*user),
        }
    }

    pub(crate) fn may_change(&self, created_by: Option<Id<User>>) -> Result<(), AccessError> {
        match self {
            Self::OfOwn(user) if created_by != Some(*user) => Err(AccessError::Role { needed: Role::Admin }),
            Self::OfOwn(_) | Self::OfAll(_) => Ok(()),
        }
    }
}

impl Control {
    /// What the caller may change of the things of their team.
    pub(crate) async fn keeper(
        &self,
        tx: &mut Tx,
        ctx: &OpContext,
        team: Id<Team>,
    ) -> Result<Keeper, AccessError> {
        let Actor::User { .. } = ctx.actor else { return Ok(Keeper::OfAll(None)) };
        // The lock holds off their leaving, and the team's deletion.
        let access = self.team_access(tx, ctx, team, Role::Member).await?;
        Ok(match access.role {
            Role::Member => Keeper::OfOwn(access.user),
            Role::Admin | Role::Owner => Keeper::OfAll(Some(access.user)),
        })
    }

    /// A team to change, as one who is at least `needed` in it.
    pub(crate) async fn team_access(
        &self,
        tx: &mut Tx,
        ctx: &OpContext,
        id: Id<Team>,
        needed: Role,
    ) -> Result<TeamAccess, AccessError> {
        let user = ctx.person()?.id;
        let unknown = AccessError::NoSuchTeam { id };
        let Some(team) = tx.team_lock(id).await? else { return Err(unknown) };
        let Some(role) = tx.membership_role(id, user).await? else { return Err(unknown) };
        let access = TeamAccess { team, user, role };
        access.at_least(needed)?;
        Ok(access)
    }

    /// A team to look at, as a member.
    pub(crate) async fn team_seen(&self, ctx: &OpContext, id: Id<Team>) -> Result<TeamAccess, AccessError> {
        let user = ctx.person()?.id;
        let found = self.store().team_of(id, user).await?;
        let (team, role) = found.ok_or(AccessError::NoSuchTeam { id })?;
        Ok(TeamAccess { team, user, role })
    }
}
