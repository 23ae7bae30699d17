//! Making a volume.

use sandbar_store::hosts::{Demand, Purpose, Room};
use sandbar_store::volumes::{NewVolumeRow, VolumeRef};
use sandbar_types::id::Host;
use sandbar_types::{Id, PerResource, TemplateName, VolumeName, limits};

use super::{NewVolume, Volume, VolumeError};
use crate::host_client::{HostError, Reason};
use crate::sandboxes::NoHostReason;
use crate::scheduler::{self, Need};
use crate::{Control, OpContext, audit};

/// How often a host that does not take it is passed over for the next.
const TRIES: usize = 3;

impl Control {
    /// Makes a volume of the caller's team and returns it once it can be mounted. The work goes on when the caller goes away.
    pub async fn volume_create(&self, ctx: &OpContext, new: &NewVolume) -> Result<Volume, VolumeError> {
        let name: VolumeName = new.name.parse()?;
        let (min, max) = (*limits::VOLUME_MB.start(), self.config().largest_volume_mb);
        let size_mb = new.size_mb.unwrap_or(limits::DEFAULT_VOLUME_MB.min(max));
        if !(min..=max).contains(&size_mb) {
            return Err(VolumeError::Size { min, max });
        }
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.make_volume(&ctx, &name, size_mb).await }).await
    }

    async fn make_volume(
        &self,
        ctx: &OpContext,
        name: &VolumeName,
        size_mb: u32,
    ) -> Result<Volume, VolumeError> {
        let (mut tried, mut failed) = (Vec::new(), None);
        loop {
            let row = match (self.place_volume(ctx, name, size_mb, &tried).await, failed) {
                (Ok(row), _) => row,
                // There was no other host: what the first said counts.
                (Err(VolumeError::NoHosts { .. }), Some(first)) => return Err(first),
                (Err(error), _) => return Err(error),
            };
            let error = match self.make_on_host(&row).await {
                Ok(()) => return self.publish_volume(ctx, row).await,
                Err(error) => error,
            };
            // The host may have it all the same: it owes the deletion.
            self.store().volume_abandon(row.id).await?;
            self.wants_reconcile(row.host_id);
            let host = row.host_id;
            let may_go_elsewhere = matches!(error, HostError::Unreachable(_))
                || error.reason() == Some(Reason::REASON_NO_CAPACITY)
                || is_unknown(&error);
            let error = match error {
                error if is_unknown(&error) => VolumeError::NotSupported { host },
                HostError::Refused { reason: Reason::REASON_NO_CAPACITY, .. } => {
                    VolumeError::NoHosts { reason: NoHostReason::Full }
                }
                source => VolumeError::Host { host, source },
            };
            tried.push(host);
            if !may_go_elsewhere || tried.len() == TRIES {
                return Err(error);
            }
            failed = Some(error);
        }
    }

    /// Writes the row, on the host that would take a sandbox of the platform's own template soonest: it is to run where the volume is.
    async fn place_volume(
        &self,
        ctx: &OpContext,
        name: &VolumeName,
        size_mb: u32,
        tried: &[Id<Host>],
    ) -> Result<Volume, VolumeError> {
        let team = ctx.team()?;
        if self.store().volume(team, &VolumeRef::Name(name.clone())).await?.is_some() {
            return Err(VolumeError::Exists { name: name.clone() });
        }
        let no_hosts = |reason| VolumeError::NoHosts { reason };
        let base = self.store().template_by_name(Id::PLATFORM, &TemplateName::base()).await?;
        let base = base.ok_or(no_hosts(NoHostReason::NoTemplateFiles))?;
        let demand = Demand { memory_mb: 0, vcpus: 0, disk_mb: size_mb };
        let need = Need { demand, arch: base.arch, vmm: base.vmm };
        let (limits, turn) = (self.config().limits(), self.next_turn());
        let mut candidates = self.store().host_candidates(team, base.id, None).await?;
        candidates.retain(|host| !tried.contains(&host.host_id) && self.host_clients().answers(host.host_id));
        let policy = self.config().scheduling.policy();
        let choices = scheduler::place(policy, &candidates, &need, limits, turn)
            .map_err(|obstacle| no_hosts(obstacle.into()))?;
        let id = Id::new();
        for choice in choices {
            let mut tx = self.store().begin().await?;
            let keeper = self.keeper(&mut tx, ctx, team).await?;
            let mut room = self.headroom(&mut tx, team).await?;
            match tx.host_room(choice.host, demand, limits, Purpose::New).await? {
                Room::Enough => {}
                Room::Full | Room::Gone | Room::Draining => continue,
            }
            // The team is held, so of two of one name the second sees the first.
            if tx.volume_lock(team, &VolumeRef::Name(name.clone())).await?.is_some() {
                return Err(VolumeError::Exists { name: name.clone() });
            }
            room.take(&PerResource::of_volume(size_mb))?;
            let host_id = choice.host;
            tx.volume_insert(&NewVolumeRow {
                id,
                team_id: team,
                name,
                size_mb,
                host_id,
                created_by: keeper.user(),
            })
            .await?;
            let row = tx.volume_lock(team, &VolumeRef::Id(id)).await?.ok_or(gone(name))?;
            tx.commit().await?;
            return Ok(row);
        }
        Err(no_hosts(NoHostReason::Full))
    }

    async fn make_on_host(&self, row: &Volume) -> Result<(), HostError> {
        let address = row.host_address.as_ref().ok_or(HostError::Protocol("the host has no address"))?;
        let client = self.host_clients().get(row.host_id, address);
        client.create_volume(row.id, u64::from(row.size_mb) << 20, self.config().create_deadline).await
    }

    async fn publish_volume(&self, ctx: &OpContext, row: Volume) -> Result<Volume, VolumeError> {
        let mut tx = self.store().begin().await?;
        if !tx.volume_ready(row.id).await? {
            // It took so long that it was given up, or its host or team was deleted meanwhile.
            self.wants_reconcile(row.host_id);
            return Err(gone(&row.name));
        }
        let sized = (row.name.as_str(), row.size_mb);
        tx.audit(&audit::volume(ctx, row.team_id, row.id, sized, "create")).await?;
        let made = tx.volume_lock(row.team_id, &VolumeRef::Id(row.id)).await?.ok_or(gone(&row.name))?;
        tx.commit().await?;
        Ok(made)
    }
}

fn gone(name: &VolumeName) -> VolumeError {
    VolumeError::NotFound { volume: name.to_string() }
}

/// Whether the agent does not know what it was asked for.
fn is_unknown(error: &HostError) -> bool {
    matches!(error, HostError::Failed(error) if error.code == connectrpc::ErrorCode::Unimplemented)
}
