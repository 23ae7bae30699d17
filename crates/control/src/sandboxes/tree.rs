//! Folders of a sandbox: listed, made, removed.

use chrono::{DateTime, Utc};
use sandbar_proto::host::{self, EntryKind as Wire};

use super::{CallSite, FileTarget, Sandbox, SandboxError};
use crate::host_client::HostError;
use crate::{Control, OpContext, reported};

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Entry {
    pub name: String,
    pub path: String,
    pub kind: EntryKind,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The same as `ls -l` prints them.
    pub permissions: String,
    pub owner: String,
    pub group: String,
    pub modified_at: DateTime<Utc>,
    pub symlink_target: Option<String>,
}

/// What an entry is, behind links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Directory,
    /// A link to nothing.
    Symlink,
    /// A device, a socket, a pipe.
    Other,
}

impl Control {
    /// The entries of a folder, and of those in it down to `depth`.
    pub async fn sandbox_list_folder(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        target: &FileTarget,
        depth: u32,
    ) -> Result<Vec<Entry>, SandboxError> {
        target.validate()?;
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "listing a folder")?;
        let failed = |error| self.host_failed(CallSite::of(sandbox, "the listing", limit), error);
        let entries = client.list_folder(sandbox.id, target, depth, limit).await.map_err(failed)?;
        Ok(entries.into_iter().map(Entry::from).collect())
    }

    /// Makes a folder and those above it. One that is there is as good.
    pub async fn sandbox_make_folder(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        target: &FileTarget,
    ) -> Result<Entry, SandboxError> {
        target.validate()?;
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "making a folder")?;
        let failed = |error: HostError| self.host_failed(CallSite::of(sandbox, "the change", limit), error);
        Ok(client.make_folder(sandbox.id, target, limit).await.map_err(failed)?.into())
    }

    /// Removes a file, or a folder with all that is in it. Nothing there is as good.
    pub async fn sandbox_remove(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        target: &FileTarget,
    ) -> Result<(), SandboxError> {
        target.validate()?;
        let limit = self.config().call_deadline;
        let client = self.client_of_running(sandbox, "removing a file")?;
        let failed = |error| self.host_failed(CallSite::of(sandbox, "the change", limit), error);
        client.remove_path(sandbox.id, target, limit).await.map_err(failed)
    }
}

impl From<host::Entry> for Entry {
    fn from(entry: host::Entry) -> Self {
        Self {
            name: entry.name,
            path: entry.path,
            kind: match entry.kind.as_known() {
                Some(Wire::ENTRY_KIND_FILE) => EntryKind::File,
                Some(Wire::ENTRY_KIND_DIRECTORY) => EntryKind::Directory,
                Some(Wire::ENTRY_KIND_SYMLINK) => EntryKind::Symlink,
                Some(Wire::ENTRY_KIND_UNSPECIFIED) | None => EntryKind::Other,
            },
            size: entry.size,
            mode: entry.mode,
            permissions: entry.permissions,
            owner: entry.owner,
            group: entry.group,
            modified_at: reported::time(entry.modified_at_unix_ms).unwrap_or(DateTime::UNIX_EPOCH),
            symlink_target: (!entry.symlink_target.is_empty()).then_some(entry.symlink_target),
        }
    }
}
