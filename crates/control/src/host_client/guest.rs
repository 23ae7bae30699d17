//! Calls about a sandbox's processes and folders.

use std::time::Duration;

use sandbar_proto::host;
use sandbar_types::Id;
use sandbar_types::id::Sandbox;

use super::HostError;
use super::client::{HostClient, within};
use crate::sandboxes::FileTarget;

impl HostClient {
    /// The processes that were started from outside and run.
    pub async fn list_processes(
        &self,
        id: Id<Sandbox>,
        limit: Duration,
    ) -> Result<Vec<host::Process>, HostError> {
        let request = host::ListProcessesRequest { id: id.to_string(), ..Default::default() };
        Ok(self
            .call(self.rpc().list_processes_with_options(request, within(limit)))
            .await?
            .into_owned()
            .processes)
    }

    /// Kills one of them.
    pub async fn kill_process(
        &self,
        id: Id<Sandbox>,
        process: host::ProcessSelector,
        limit: Duration,
    ) -> Result<(), HostError> {
        let request =
            host::KillProcessRequest { id: id.to_string(), process: process.into(), ..Default::default() };
        self.call(self.rpc().kill_process_with_options(request, within(limit))).await?;
        Ok(())
    }

    /// The entries of a folder.
    pub async fn list_folder(
        &self,
        id: Id<Sandbox>,
        target: &FileTarget,
        depth: u32,
        limit: Duration,
    ) -> Result<Vec<host::Entry>, HostError> {
        let request = host::ListFolderRequest {
            id: id.to_string(),
            path: target.path.clone(),
            user: target.user.clone().unwrap_or_default(),
            depth,
            ..Default::default()
        };
        Ok(self.call(self.rpc().list_folder_with_options(request, within(limit))).await?.into_owned().entries)
    }

    /// Makes a folder.
    pub async fn make_folder(
        &self,
        id: Id<Sandbox>,
        target: &FileTarget,
        limit: Duration,
    ) -> Result<host::Entry, HostError> {
        let request = host::MakeFolderRequest {
            id: id.to_string(),
            path: target.path.clone(),
            user: target.user.clone().unwrap_or_default(),
            ..Default::default()
        };
        let answer =
            self.call(self.rpc().make_folder_with_options(request, within(limit))).await?.into_owned();
        answer.entry.into_option().ok_or(HostError::Protocol("no folder in the answer"))
    }

    /// Removes a file or folder.
    pub async fn remove_path(
        &self,
        id: Id<Sandbox>,
        target: &FileTarget,
        limit: Duration,
    ) -> Result<(), HostError> {
        let request = host::RemovePathRequest {
            id: id.to_string(),
            path: target.path.clone(),
            user: target.user.clone().unwrap_or_default(),
            ..Default::default()
        };
        self.call(self.rpc().remove_path_with_options(request, within(limit))).await?;
        Ok(())
    }
}
