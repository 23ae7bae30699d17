//! What a slot's guest may reach, and what it was denied.
//!
//! [`rules`] is a policy as the slot's table, [`account`] the table's own account of what it refused. Applying a policy replaces the
//! table's rules in one transaction: there is no moment without rules, and none with half of them.

mod account;
mod rules;

use sandbar_types::NetworkPolicy;

pub use account::{Denials, DeniedAddress, DeniedName, Reason};
pub(crate) use rules::rules;

use crate::{NetConfig, NetError, netns, plan::SlotPlan, rules::apply, rules::read_table};
use account::Account;

/// The way out of one slot. A fresh slot's is that of the default policy.
#[derive(Debug)]
pub struct Egress {
    plan: SlotPlan,
    config: NetConfig,
}

impl Egress {
    pub(crate) fn new(plan: SlotPlan, config: NetConfig) -> Self {
        Self { plan, config }
    }

    /// Puts a policy in force, in place of whatever was. Connections that it denies are cut at their next packet. The same again
    /// changes nothing, so that it can be repeated after whatever went wrong.
    pub async fn apply(&mut self, policy: &NetworkPolicy) -> Result<(), NetError> {
        let rules = rules(&self.plan, &self.config, policy, &[]);
        let netns = self.plan.netns_path();
        netns::on_own_thread(move || {
            netns::enter(&netns)?;
            apply(&rules)
        })
        .await
    }

    /// What the guest was denied since the slot was made.
    pub async fn denials(&self) -> Result<Denials, NetError> {
        let Account { counts, addresses } = self.account().await?;
        Ok(Denials { counts, addresses, names: Vec::new() })
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
