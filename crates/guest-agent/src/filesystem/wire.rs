//! What the service's values and errors are on the wire.

use buffa_types::google::protobuf::Timestamp;
use connectrpc::ConnectError;
use sandbar_proto::filesystem::{EntryInfo, EventType, FileType, FilesystemEvent};

use super::entry::{Entry, Kind};
use super::tree::TreeError;
use super::watch::{Change, Event, WatchError};
use crate::files::WriteError;
use crate::paths::PathError;

/// An entry as a message.
pub(super) fn info(entry: Entry) -> EntryInfo {
    let name = entry.name().to_string_lossy().into_owned();
    let kind = match entry.kind {
        Kind::File => FileType::FILE_TYPE_FILE,
        Kind::Folder => FileType::FILE_TYPE_DIRECTORY,
        Kind::DanglingLink => FileType::FILE_TYPE_SYMLINK,
        Kind::Other => FileType::FILE_TYPE_UNSPECIFIED,
    };
    let Entry {
        path,
        kind: _,
        size,
        mode,
        permissions,
        owner,
        group,
        modified: (seconds, nanos),
        target,
        metadata,
    } = entry;
    let modified =
        Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or_default(), ..Default::default() };
    EntryInfo {
        name,
        r#type: kind.into(),
        path: path.to_string_lossy().into_owned(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        mode,
        permissions,
        owner,
        group,
        modified_time: modified.into(),
        symlink_target: target.map(|target| target.to_string_lossy().into_owned()),
        metadata: metadata.into_iter().collect(),
        ..Default::default()
    }
}

/// What a watch saw, as a message.
pub(super) fn event(event: Event) -> FilesystemEvent {
    let Event { name, change, entry } = event;
    let kind = match change {
        Change::Create => EventType::EVENT_TYPE_CREATE,
        Change::Write => EventType::EVENT_TYPE_WRITE,
        Change::Remove => EventType::EVENT_TYPE_REMOVE,
        Change::Rename => EventType::EVENT_TYPE_RENAME,
        Change::Chmod => EventType::EVENT_TYPE_CHMOD,
    };
    FilesystemEvent {
        name: name.to_string_lossy().into_owned(),
        r#type: kind.into(),
        entry: entry.map(info).into(),
        ..Default::default()
    }
}

impl From<PathError> for ConnectError {
    fn from(error: PathError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<TreeError> for ConnectError {
    fn from(error: TreeError) -> Self {
        let message = error.to_string();
        match error {
            TreeError::NotFound(_) => Self::not_found(message),
            TreeError::Exists(_) => Self::already_exists(message),
            TreeError::NotAFolder(_) | TreeError::IsRoot(_) | TreeError::Invalid { .. } => {
                Self::invalid_argument(message)
            }
            TreeError::TooMany(_) => Self::resource_exhausted(message),
            TreeError::Failed { .. } => Self::internal(message),
        }
    }
}

impl From<WriteError> for ConnectError {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        match error {
            WriteError::IsFolder(_)
            | WriteError::NotAFolder(_)
            | WriteError::Invalid { .. }
            | WriteError::Metadata { .. }
            | WriteError::Body(_) => Self::invalid_argument(message),
            WriteError::NoSpace => Self::resource_exhausted(message),
            WriteError::Refused(_) => Self::permission_denied(message),
            WriteError::Changed(_) => Self::failed_precondition(message),
            WriteError::Failed { .. } => Self::internal(message),
        }
    }
}

impl From<WatchError> for ConnectError {
    fn from(error: WatchError) -> Self {
        let message = error.to_string();
        match error {
            WatchError::NotFound(_) | WatchError::NoWatcher(_) => Self::not_found(message),
            WatchError::NotAFolder(_) | WatchError::Network(_) => Self::invalid_argument(message),
            WatchError::Refused(_) => Self::permission_denied(message),
            WatchError::TooMany | WatchError::Exhausted(_) | WatchError::Lost => {
                Self::resource_exhausted(message)
            }
            WatchError::Failed { .. } => Self::internal(message),
        }
    }
}
