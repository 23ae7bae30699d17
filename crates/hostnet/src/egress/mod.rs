//! What a slot's guest may reach, and what it was denied.
//!
//! [`rules`] is a policy as the slot's table, [`account`] the table's own account of what it refused. Applying a policy replaces the
//! table's rules in one transaction: there is no moment without rules, and none with half of them. Where the policy names domains a
//! [`resolver`] watches what the guest resolves, and puts the addresses of allowed names into the table ([`name_set`]).

mod account;
mod denied_names;
mod dns;
mod name_set;
mod resolver;
mod rules;

use std::sync::Arc;

use sandbar_types::{NetworkPolicy, network::NameVerdict};

pub use account::{Denials, DeniedAddress, DeniedName, Reason};
pub(crate) use rules::rules;

use crate::{
    NetConfig, NetError, netns,
    plan::SlotPlan,
    rules::{apply, read_table},
};
use account::Account;
use denied_names::DeniedNames;
use resolver::Resolver;
use rules::NamedAddress;

/// The way out of one slot. A fresh slot's is that of the default policy. Its resolver, where the policy needs one, lives as long as
/// this; the rules stay.
#[derive(Debug)]
pub struct Egress {
    plan: SlotPlan,
    config: NetConfig,
    resolver: Option<Resolver>,
    denied: Arc<DeniedNames>,
}

impl Egress {
    pub(crate) fn new(plan: SlotPlan, config: NetConfig) -> Self {
        Self { plan, config, resolver: None, denied: Arc::default() }
    }

    /// Puts a policy in force, in place of whatever was. Connections that it denies are cut at their next packet. The same again
    /// changes nothing, so that it can be repeated after whatever went wrong.
    pub async fn apply(&mut self, policy: &NetworkPolicy) -> Result<(), NetError> {
        if policy.has_domains() && self.resolver.is_none() {
            let (netns, resolvers) = (self.plan.netns_path(), self.config.resolvers.clone());
            let denied = Arc::clone(&self.denied);
            self.resolver = Some(Resolver::open(netns, resolvers, policy.clone(), denied).await?);
        }
        {
            // No name is resolved meanwhile.
            let judging = match &self.resolver {
                Some(resolver) => Some(resolver.policy().await),
                None => None,
            };
            let names = if policy.has_domains() { self.names_under(policy).await? } else { Vec::new() };
            let rules = rules(&self.plan, &self.config, policy, &names);
            let netns = self.plan.netns_path();
            netns::on_own_thread(move || {
                netns::enter(&netns)?;
                apply(&rules)
            })
            .await?;
            if let Some(mut judging) = judging {
                *judging = policy.clone();
            }
        }
        if !policy.has_domains()
            && let Some(resolver) = self.resolver.take()
        {
            resolver.close().await;
        }
        Ok(())
    }

    /// The addresses that names were resolved to before and that the policy allows: by this agent or one before it.
    async fn names_under(&self, policy: &NetworkPolicy) -> Result<Vec<NamedAddress>, NetError> {
        let mut names = self.account().await?.names;
        names.retain(|known| policy.judge_name(&known.name) == NameVerdict::Allowed);
        Ok(names)
    }

    /// What the guest was denied since the slot was made; of names, since this was made.
    pub async fn denials(&self) -> Result<Denials, NetError> {
        let Account { mut counts, addresses, names: _ } = self.account().await?;
        let (queries, names) = self.denied.told();
        counts.push((Reason::Name, queries));
        Ok(Denials { counts, addresses, names })
    }

    async fn account(&self) -> Result<Account, NetError> {
        let netns = self.plan.netns_path();
        let table = netns::on_own_thread(move || {
            netns::enter(&netns)?;
            read_table(rules::TABLE)
        });
        Account::read(&table.await?)
    }
}
