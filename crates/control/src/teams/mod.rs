//! Teams: making and renaming (here), who belongs to them (`members`), their end (`delete`), and what the platform's
//! administrators see of them and decide (`admin`).

mod admin;
mod delete;
mod members;

use chrono::{DateTime, Utc};
use sandbar_store::teams::{MemberRow, TeamRow};
use sandbar_store::{Position, StoreError};
use sandbar_types::id::{self, User};
use sandbar_types::quota::LARGEST_LIMIT;
use sandbar_types::{ErrorCode, Id, Resource};
use serde_json::json;

use crate::access::{AccessError, Role, store_code};
use crate::people::new_slug;
use crate::{Control, OpContext, Page, PageRequest, audit};

pub use admin::Byoc;
pub use members::NewRole;

/// Longest name, in bytes.
const NAME_BYTES: usize = 128;

/// A team, as one of its members sees it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Team {
    pub id: Id<id::Team>,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
    /// What the caller is in it. None: they are not, and see it as the platform's administrator.
    pub role: Option<Role>,
}

/// A person in a team.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Member {
    pub user_id: Id<User>,
    pub name: String,
    pub email: String,
    pub role: Role,
    pub joined_at: DateTime<Utc>,
}

/// Why an operation on teams failed.
#[derive(Debug, thiserror::Error)]
pub enum TeamError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Not a name.
    #[error("name: between 1 and 128 of the characters A-Z a-z 0-9 space _ - @ '")]
    Name,
    /// Nobody has the address.
    #[error("nobody has an account with this e-mail address")]
    NoSuchAccount,
    /// No such member.
    #[error("the user {user} is not a member of the team")]
    NoSuchMember {
        /// Who.
        user: Id<User>,
    },
    /// They are a member.
    #[error("they are a member of the team")]
    AlreadyMember,
    /// There is always one owner.
    #[error("the team's owner can be neither removed nor demoted and cannot leave: transfer the team first")]
    OwnerStays,
    /// Who would have no team left.
    #[error("this is the last team of the user: they need another one first")]
    LastTeam,
    /// The team's hosts would have no owner.
    #[error("the team still has hosts of its own: delete them first")]
    HasHosts,
    /// No limit that can be set.
    #[error("{resource}: a limit is between 0 and {LARGEST_LIMIT}")]
    Limit {
        /// Of what.
        resource: Resource,
    },
    /// The slug that was made is another team's.
    #[error("no free slug was found")]
    Slug,
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl TeamError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::Name | Self::Limit { .. } => ErrorCode::InvalidRequest,
            Self::NoSuchAccount | Self::NoSuchMember { .. } => ErrorCode::NotFound,
            Self::AlreadyMember => ErrorCode::AlreadyExists,
            Self::OwnerStays | Self::LastTeam | Self::HasHosts => ErrorCode::Conflict,
            Self::Slug => ErrorCode::InternalError,
            Self::Store(error) => store_code(error),
        }
    }
}

impl Team {
    fn new(row: TeamRow, role: Option<Role>) -> Self {
        let TeamRow { id, name, slug, is_byoc, created_at } = row;
        Self { id, name, slug, is_byoc, created_at, role }
    }
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        let MemberRow { user_id, name, email, role, joined_at } = row;
        Self { user_id, name, email, role, joined_at }
    }
}

fn check_name(name: &str) -> Result<(), TeamError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b" _-@'".contains(&b);
    if (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(good) {
        Ok(())
    } else {
        Err(TeamError::Name)
    }
}

impl Control {
    /// The caller's teams, newest first.
    pub async fn team_list(&self, ctx: &OpContext, page: &PageRequest) -> Result<Page<Team>, TeamError> {
        let person = ctx.person()?;
        let rows = self.store().teams_of(person.id, page.after(), page.fetch()).await?;
        let position =
            |(row, _): &(TeamRow, Role)| Position { created_at: row.created_at, id: row.id.uuid() };
        Ok(page.page(rows, position, |(row, role)| Team::new(row, Some(role))))
    }

    /// A team of the caller's and its members.
    pub async fn team_get(
        &self,
        ctx: &OpContext,
        id: Id<id::Team>,
    ) -> Result<(Team, Vec<Member>), TeamError> {
        let seen = self.team_seen(ctx, id).await?;
        let members = self.store().team_members(id).await?;
        Ok((Team::new(seen.team, Some(seen.role)), members.into_iter().map(Member::from).collect()))
    }

    /// Makes a team, which the caller owns.
    pub async fn team_create(&self, ctx: &OpContext, name: &str) -> Result<Team, TeamError> {
        let user = ctx.person()?.id;
        check_name(name)?;
        let id = Id::new();
        let mut tx = self.store().begin().await?;
        tx.user_lock(user).await?;
        let is_first = tx.membership_count(user).await? == 0;
        let row = tx.team_insert(id, name, &new_slug()).await.map_err(|error| match error {
            StoreError::Taken { .. } => TeamError::Slug,
            other => other.into(),
        })?;
        tx.membership_insert(id, user, Role::Owner, is_first).await?;
        tx.audit(&audit::team(ctx, id, "create", json!({ "name": name }))).await?;
        tx.commit().await?;
        Ok(Team::new(row, Some(Role::Owner)))
    }

    /// Gives a team another name.
    pub async fn team_rename(
        &self,
        ctx: &OpContext,
        id: Id<id::Team>,
        name: &str,
    ) -> Result<Team, TeamError> {
        check_name(name)?;
        let mut tx = self.store().begin().await?;
        let access = self.team_access(&mut tx, ctx, id, Role::Admin).await?;
        tx.team_rename(id, name).await?;
        let metadata = json!({ "from": access.team.name, "to": name });
        tx.audit(&audit::team(ctx, id, "rename", metadata)).await?;
        tx.commit().await?;
        Ok(Team { name: name.to_owned(), ..Team::new(access.team, Some(access.role)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        for good in ["a", "Ann's Team", "x_y-z@9", &"n".repeat(128)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "Zoë", "a\nb", "<b>", &"n".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
