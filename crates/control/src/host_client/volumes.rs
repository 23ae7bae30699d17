//! Calls about volumes.

use std::time::Duration;

use sandbar_proto::host;
use sandbar_types::Id;
use sandbar_types::id::Volume;

use super::client::{HostClient, within};
use super::{HostError, Reason};

impl HostClient {
    /// Makes a volume. One of that id is a success.
    pub async fn create_volume(
        &self,
        id: Id<Volume>,
        size_bytes: u64,
        limit: Duration,
    ) -> Result<(), HostError> {
        let request = host::CreateVolumeRequest { id: id.to_string(), size_bytes, ..Default::default() };
        self.call(self.rpc().create_volume_with_options(request, within(limit))).await?;
        Ok(())
    }

    /// Removes a volume with all that is in it. An unknown one is a success.
    pub async fn delete_volume(&self, id: Id<Volume>, limit: Duration) -> Result<(), HostError> {
        let request = host::DeleteVolumeRequest { id: id.to_string(), ..Default::default() };
        match self.call(self.rpc().delete_volume_with_options(request, within(limit))).await {
            // A host may also put it as a refusal.
            Err(error) if error.reason() != Some(Reason::REASON_VOLUME_NOT_FOUND) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
