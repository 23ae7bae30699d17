//! Where a sandbox may connect to: in force before its machine starts, replaced while it runs, and put in force again by an agent that
//! takes it over.

use sandbar_hostnet::Denials;
use sandbar_types::NetworkPolicy;

use super::State;
use super::actor::Actor;
use super::admission::Request;
use super::machine::Holdings;
use crate::error::{Error, chain};
use crate::logs::HostEvent;
use crate::resources::Resources;

impl Holdings {
    /// Puts a policy in force in a slot that was just taken, which has that of the default: most sandboxes wait for nothing here.
    pub(super) async fn restrict_fresh(
        &mut self,
        resources: &Resources,
        policy: &NetworkPolicy,
    ) -> Result<(), Error> {
        if *policy == NetworkPolicy::default() { Ok(()) } else { self.restrict(resources, policy).await }
    }

    /// Puts a policy in force.
    async fn restrict(&mut self, resources: &Resources, policy: &NetworkPolicy) -> Result<(), Error> {
        // Without a network there is nothing that a policy could let through.
        let Some(slot) = &self.slot else { return Ok(()) };
        let egress = self.egress.get_or_insert_with(|| resources.pool.egress(slot));
        egress.apply(policy).await.map_err(Error::internal("apply the network policy"))
    }

    async fn denials(&mut self, resources: &Resources) -> Result<Denials, Error> {
        let Some(slot) = &self.slot else { return Ok(Denials::default()) };
        let egress = self.egress.get_or_insert_with(|| resources.pool.egress(slot));
        egress.denials().await.map_err(Error::internal("read what was denied"))
    }
}

impl Actor {
    /// Replaces the policy. What is not in the journal is not in force either: a failure leaves the old one.
    pub(super) async fn set_network(&mut self, policy: NetworkPolicy) -> Result<(), Error> {
        self.admitted(Request::SetNetwork)?;
        let record = self.record.clone().ok_or(Error::SandboxNotFound(self.id))?;
        self.holdings.restrict(&self.resources, &policy).await?;
        // A kill here leaves the old one in the journal, and the next agent puts that in force again.
        let changed = record.advance(record.phase.clone()).with_network(policy);
        if let Err(error) = self.write(changed).await {
            if let Err(left) = self.holdings.restrict(&self.resources, &record.network).await {
                tracing::error!(sandbox = %self.id, error = chain(&left), "a network policy that was not kept is in force");
            }
            return Err(error);
        }
        self.resources.inventory.changed();
        tracing::info!(sandbox = %self.id, "network policy replaced");
        self.log.note(HostEvent::NetworkSet).await;
        Ok(())
    }

    /// What the guest was denied since it began or was last resumed; of names, since this agent started, if that is later.
    pub(super) async fn network_denials(&mut self) -> Result<Denials, Error> {
        match self.state() {
            State::Running => self.holdings.denials(&self.resources).await,
            _ => Ok(Denials::default()),
        }
    }

    /// Puts the journal's policy in force. It is already, unless the former agent was killed while it replaced it; what watches over
    /// names ended with that agent in any case.
    pub(super) async fn restore_network(&mut self) {
        let Some(policy) = self.record.as_ref().map(|record| record.network.clone()) else { return };
        if let Err(error) = self.holdings.restrict(&self.resources, &policy).await {
            tracing::error!(sandbox = %self.id, error = chain(&error), "the network keeps the rules that it had");
        }
    }
}
