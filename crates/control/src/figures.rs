//! Figures for `/metrics` that are read when somebody asks for them. What is counted is counted where it happens.

use sandbar_store::StoreError;
use sandbar_store::stats::PoolUse;
use sandbar_types::SandboxStatus;

use crate::Control;

/// As the database has them.
const HOST_STATES: [&str; 5] = ["pending", "online", "offline", "draining", "unreachable"];

impl Control {
    /// Brings the gauges up to date. Where the database does not answer, those that it has stay as they were.
    pub async fn record_figures(&self) {
        let PoolUse { used, idle, most } = self.store().pool_use();
        metrics::gauge!("sandbar_database_connections", "state" => "used").set(used);
        metrics::gauge!("sandbar_database_connections", "state" => "idle").set(idle);
        metrics::gauge!("sandbar_database_connections_max").set(most);
        if let Err(error) = self.record_counts().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "sandboxes and hosts cannot be counted");
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 sandboxes")]
    async fn record_counts(&self) -> Result<(), StoreError> {
        let sandboxes = self.store().sandboxes_by_status().await?;
        for status in SandboxStatus::ALL.into_iter().filter(|status| !status.is_end()) {
            let count = sandboxes.iter().find_map(|(of, count)| (*of == status).then_some(*count));
            metrics::gauge!("sandbar_sandboxes", "status" => status.as_str()).set(count.unwrap_or(0) as f64);
        }
        let hosts = self.store().hosts_by_status().await?;
        for status in HOST_STATES {
            let count = hosts.iter().find_map(|(of, count)| (of == status).then_some(*count));
            metrics::gauge!("sandbar_hosts", "status" => status).set(count.unwrap_or(0) as f64);
        }
        Ok(())
    }
}
