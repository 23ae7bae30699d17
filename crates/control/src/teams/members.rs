//! Who belongs to a team. Every change locks the team, then the person: two changes never see half of each other.

use sandbar_store::Tx;
use sandbar_types::Id;
use sandbar_types::id::{Team, User};
use serde_json::json;

use super::{Member, TeamError};
use crate::access::Role;
use crate::{Control, OpContext, audit};

/// What a member can be made; an owner is made by a transfer only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the roles' own")]
pub enum NewRole {
    Admin,
    Member,
}

impl From<NewRole> for Role {
    fn from(role: NewRole) -> Self {
        match role {
            NewRole::Admin => Self::Admin,
            NewRole::Member => Self::Member,
        }
    }
}

impl Control {
    /// Adds the person with this address.
    pub async fn member_add(
        &self,
        ctx: &OpContext,
        team: Id<Team>,
        email: &str,
    ) -> Result<Member, TeamError> {
        // Before the transaction: who holds a connection and a lock must not wait for another connection.
        let found = match email.contains('\0') {
            true => None,
            false => self.store().user_by_email(email).await?,
        };
        let mut tx = self.store().begin().await?;
        self.team_access(&mut tx, ctx, team, Role::Admin).await?;
        let found = found.ok_or(TeamError::NoSuchAccount)?;
        let user = found.id;
        tx.user_lock(user).await?;
        if tx.membership_role(team, user).await?.is_some() {
            return Err(TeamError::AlreadyMember);
        }
        let is_first = tx.membership_count(user).await? == 0;
        tx.membership_insert(team, user, Role::Member, is_first).await?;
        tx.audit(&audit::member(ctx, team, user, "add", json!({ "name": found.name, "role": "member" })))
            .await?;
        tx.commit().await?;
        self.member(team, user).await
    }

    /// Gives a member another role. The owner keeps theirs.
    pub async fn member_set_role(
        &self,
        ctx: &OpContext,
        team: Id<Team>,
        user: Id<User>,
        role: NewRole,
    ) -> Result<Member, TeamError> {
        let name = self.name_of(user).await?;
        let mut tx = self.store().begin().await?;
        self.team_access(&mut tx, ctx, team, Role::Admin).await?;
        let before = not_the_owner(&mut tx, team, user).await?;
        let role = Role::from(role);
        tx.membership_set_role(team, user, role).await?;
        let metadata = json!({ "name": name, "from": before.as_str(), "to": role.as_str() });
        tx.audit(&audit::member(ctx, team, user, "role_update", metadata)).await?;
        tx.commit().await?;
        self.member(team, user).await
    }

    /// Takes a member out of a team, and revokes the keys that they made.
    pub async fn member_remove(
        &self,
        ctx: &OpContext,
        team: Id<Team>,
        user: Id<User>,
    ) -> Result<(), TeamError> {
        let name = self.name_of(user).await?;
        let mut tx = self.store().begin().await?;
        self.team_access(&mut tx, ctx, team, Role::Admin).await?;
        not_the_owner(&mut tx, team, user).await?;
        take_out(&mut tx, team, user).await?;
        tx.audit(&audit::member(ctx, team, user, "remove", json!({ "name": name }))).await?;
        Ok(tx.commit().await?)
    }

    /// The caller leaves a team, unless they own it or have no other.
    pub async fn team_leave(&self, ctx: &OpContext, team: Id<Team>) -> Result<(), TeamError> {
        let mut tx = self.store().begin().await?;
        let access = self.team_access(&mut tx, ctx, team, Role::Member).await?;
        let user = access.user;
        if access.role == Role::Owner {
            return Err(TeamError::OwnerStays);
        }
        tx.user_lock(user).await?;
        if tx.membership_count(user).await? <= 1 {
            return Err(TeamError::LastTeam);
        }
        take_out(&mut tx, team, user).await?;
        tx.audit(&audit::member(ctx, team, user, "leave", json!({}))).await?;
        Ok(tx.commit().await?)
    }

    /// The owner makes a member the owner, and becomes an admin.
    pub async fn team_transfer(
        &self,
        ctx: &OpContext,
        team: Id<Team>,
        to: Id<User>,
    ) -> Result<Member, TeamError> {
        let name = self.name_of(to).await?;
        let mut tx = self.store().begin().await?;
        let access = self.team_access(&mut tx, ctx, team, Role::Owner).await?;
        if tx.membership_role(team, to).await?.is_none() {
            return Err(TeamError::NoSuchMember { user: to });
        }
        if to != access.user {
            tx.membership_set_role(team, access.user, Role::Admin).await?;
            tx.membership_set_role(team, to, Role::Owner).await?;
            let metadata = json!({ "name": name, "to": "owner", "from_user": access.user });
            tx.audit(&audit::member(ctx, team, to, "role_update", metadata)).await?;
        }
        tx.commit().await?;
        self.member(team, to).await
    }

    /// What the trail calls a person by; asked for before a transaction, as above.
    async fn name_of(&self, user: Id<User>) -> Result<Option<String>, TeamError> {
        Ok(self.store().user_find(user).await?.map(|found| found.name))
    }

    async fn member(&self, team: Id<Team>, user: Id<User>) -> Result<Member, TeamError> {
        let members = self.store().team_members(team).await?;
        let found = members.into_iter().find(|member| member.user_id == user);
        Ok(found.ok_or(TeamError::NoSuchMember { user })?.into())
    }
}

/// What a member is, who must not be the owner.
async fn not_the_owner(tx: &mut Tx, team: Id<Team>, user: Id<User>) -> Result<Role, TeamError> {
    match tx.membership_role(team, user).await? {
        None => Err(TeamError::NoSuchMember { user }),
        Some(Role::Owner) => Err(TeamError::OwnerStays),
        Some(role) => Ok(role),
    }
}

/// Their keys end with their membership, and their default becomes another team.
async fn take_out(tx: &mut Tx, team: Id<Team>, user: Id<User>) -> Result<(), TeamError> {
    tx.user_lock(user).await?;
    tx.defaults_move_away(team, Some(user)).await?;
    tx.membership_delete(team, user).await?;
    tx.api_keys_revoke(team, Some(user)).await?;
    Ok(())
}
