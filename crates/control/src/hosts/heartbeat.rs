//! Signs of life.

use sandbar_store::audit::Outcome;
use sandbar_types::{Id, id};

use super::{Heartbeat, Host, HostError, HostStatus};
use crate::{Actor, Control, OpContext, audit};

impl Control {
    /// Takes a host's sign of life. `ctx` is that host's own. When its inventory changed, or it was away, its rows are held against
    /// its inventory at once.
    pub async fn host_heartbeat(
        &self,
        ctx: &OpContext,
        id: Id<id::Host>,
        heartbeat: &Heartbeat,
    ) -> Result<(), HostError> {
        match ctx.actor {
            Actor::Host { id: own } if own == id => {}
            _ => return Err(HostError::OtherHost),
        }
        let Heartbeat { inventory_generation, load } = heartbeat;
        let generation = i64::try_from(*inventory_generation).unwrap_or(i64::MAX);
        let load = serde_json::to_value(load).unwrap_or_default();
        let mut tx = self.store().begin().await?;
        let beat = tx.host_beat(id, generation, &load).await?.ok_or(HostError::NotFound { id })?;
        if beat.was == "unreachable" {
            tx.audit(&audit::host(&OpContext::system(), (id, beat.team_id), "marked_up", Outcome::Info))
                .await?;
        } else if beat.was == beat.is {
            // Nothing but the time: a heartbeat that a crash of the database undoes is followed by the next.
            tx.relax_durability().await?;
        }
        tx.commit().await?;
        self.host_heard(id);
        if beat.was != beat.is || beat.reconciled_generation != Some(generation) {
            self.wants_reconcile(id);
        }
        Ok(())
    }

    /// Returns once the host is online. Woken by its heartbeat, at whichever control plane that arrives.
    pub async fn host_wait_online(&self, id: Id<id::Host>) -> Result<Host, HostError> {
        // Listen first: a heartbeat between a look and the beginning of listening would never be told.
        let mut events = self.store().host_events().await?;
        loop {
            let row = self.store().host_find(id).await?.ok_or(HostError::NotFound { id })?;
            let host = Host::try_from(row)?;
            if host.status == HostStatus::Online {
                return Ok(host);
            }
            while events.next().await?.is_some_and(|other| other != id) {}
        }
    }
}
