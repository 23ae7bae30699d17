//! What teams may have: read by their members, set by the platform's administrators, held against by whatever makes more of it.
//!
//! Whoever reserves a row first takes the team's [`Headroom`] in the same transaction, which holds the team: of many at once each waits for those
//! before it, and counts what they took. What ends, or fails, or is paused, is free again with the commit that says so. A limit that is
//! lowered below what there is ends nothing.

use sandbar_store::quotas::QuotaRow;
use sandbar_store::{StoreError, Tx};
use sandbar_types::quota::{Headroom, LARGEST_LIMIT};
use sandbar_types::{Id, PerResource, Resource, id};
use serde_json::{Map, Value, json};

use crate::access::AccessError;
use crate::teams::TeamError;
use crate::{Control, OpContext, audit};

/// How much of one resource a team may have, and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The most.
    pub limit: u64,
    /// What was set for this team; none = the platform's default, which `limit` is then.
    pub set: Option<u64>,
    /// What it has.
    pub used: u64,
}

/// What is to become of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewLimit {
    /// It stays.
    #[default]
    Kept,
    /// The platform's default.
    Default,
    /// This.
    At(u64),
}

impl Control {
    /// What a team of the caller's may have and has.
    pub async fn team_quotas(
        &self,
        ctx: &OpContext,
        id: Id<id::Team>,
    ) -> Result<PerResource<Quota>, TeamError> {
        self.team_seen(ctx, id).await?;
        let row = self.store().quota(id).await?;
        Ok(self.quotas(&row.ok_or(AccessError::NoSuchTeam { id })?))
    }

    /// The same, of any team.
    pub async fn admin_team_quotas(
        &self,
        ctx: &OpContext,
        id: Id<id::Team>,
    ) -> Result<PerResource<Quota>, TeamError> {
        ctx.platform_admin()?;
        let row = self.store().quota(id).await?.filter(|_| id != Id::PLATFORM);
        Ok(self.quotas(&row.ok_or(AccessError::NoSuchTeam { id })?))
    }

    /// Sets what a team may have.
    pub async fn admin_set_team_quotas(
        &self,
        ctx: &OpContext,
        id: Id<id::Team>,
        new: &PerResource<NewLimit>,
    ) -> Result<PerResource<Quota>, TeamError> {
        ctx.platform_admin()?;
        for resource in Resource::ALL {
            if matches!(new.of(resource), NewLimit::At(limit) if *limit > LARGEST_LIMIT) {
                return Err(TeamError::Limit { resource });
            }
        }
        let unknown = AccessError::NoSuchTeam { id };
        if id == Id::PLATFORM {
            return Err(unknown.into());
        }
        let mut tx = self.store().begin().await?;
        let row = match tx.quota_hold(id).await {
            Err(StoreError::TeamGone) => return Err(unknown.into()),
            held => held?,
        };
        let set = PerResource::each(|resource| match *new.of(resource) {
            NewLimit::Kept => *row.set.of(resource),
            NewLimit::Default => None,
            NewLimit::At(limit) => Some(limit),
        });
        if set != row.set {
            tx.quota_set(id, &set).await?;
            tx.audit(&audit::team(ctx, id, "quota_update", changes(&row.set, &set))).await?;
        }
        tx.commit().await?;
        Ok(self.quotas(&QuotaRow { set, ..row }))
    }

    /// What a team can still take, held until the transaction ends. The team's row comes before those of hosts and sandboxes.
    pub(crate) async fn headroom(&self, tx: &mut Tx, team: Id<id::Team>) -> Result<Headroom, StoreError> {
        let QuotaRow { set, used } = tx.quota_hold(team).await?;
        let limits = PerResource::each(|resource| set.of(resource).unwrap_or(self.default_limit(resource)));
        Ok(Headroom { limits, used })
    }

    fn quotas(&self, row: &QuotaRow) -> PerResource<Quota> {
        PerResource::each(|resource| {
            let set = *row.set.of(resource);
            let limit = set.unwrap_or(self.default_limit(resource));
            Quota { limit, set, used: *row.used.of(resource) }
        })
    }

    fn default_limit(&self, resource: Resource) -> u64 {
        *self.config().default_quotas.of(resource)
    }
}

/// What the trail is told: each limit that is another now, from and to; null = the default.
fn changes(from: &PerResource<Option<u64>>, to: &PerResource<Option<u64>>) -> Value {
    let changed = Resource::ALL.into_iter().filter(|resource| from.of(*resource) != to.of(*resource));
    let told = changed.map(|resource| {
        let change = json!({ "from": from.of(resource), "to": to.of(resource) });
        (resource.as_str().to_owned(), change)
    });
    Value::Object(told.collect::<Map<_, _>>())
}
