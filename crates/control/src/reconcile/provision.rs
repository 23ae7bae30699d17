//! Hosts that came after the platform's template was made get it, too.
//!
//! Each host makes the template by itself, of the same image and under the same id, for its own processor and virtual machine monitor. It
//! takes minutes where processors are emulated, so the round does not wait for it. A host that has not the image gets the template from
//! another that is like it. One control plane at a time has it made: the location's
//! row in the state `fetching` is its lease, which ends by itself where that control plane dies.

use sandbar_store::StoreError;
use sandbar_types::Id;
use sandbar_types::id::Host;

use crate::Control;
use crate::bootstrap::{BASE, BootstrapError};
use crate::host_client::Reason;

impl Control {
    /// Has a host make the platform's template, if it lacks it and nobody is at it.
    pub(super) async fn provision(&self, host: Id<Host>) -> Result<(), StoreError> {
        let lease = self.config().template_deadline;
        let Some(template) = self.store().template_claim(host, Id::PLATFORM, BASE, lease).await? else {
            return Ok(());
        };
        tracing::info!(%host, %template, "a host is to make the platform's template");
        let control = self.clone();
        // No shutdown waits for it: it may take minutes, and whoever cuts it off loses nothing that the claim's end does not mend.
        tokio::spawn(async move {
            let Err(error) = control.ensure_base_template(host).await else {
                tracing::info!(%host, "a host has the platform's template");
                return;
            };
            let has_no_image = matches!(&error, BootstrapError::Template { source, .. }
                if source.reason() == Some(Reason::REASON_TEMPLATE_NOT_FOUND));
            if !has_no_image {
                tracing::warn!(%host, error = &error as &dyn std::error::Error,
                    "a host could not make the platform's template; the next round asks again");
            }
            if let Err(error) = control.store().template_claim_end(template, host).await {
                tracing::error!(%host, error = &error as &dyn std::error::Error,
                    "cannot write that down: it is asked again when the claim ends by itself");
                return;
            }
            if has_no_image {
                let fetched = control.fetch_template(template, host, lease).await;
                tracing::info!(%host, ?fetched, "a host without an image was to get the platform's template from another");
            }
        });
        Ok(())
    }
}
