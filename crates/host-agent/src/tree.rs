//! A guest's folders: listed, made, removed.

use connectrpc::{ConnectError, ErrorCode};
use sandbar_proto::filesystem::{
    EntryInfo, FileType, ListDirRequest, MakeDirRequest, RemoveRequest, StatRequest,
};
use sandbar_proto::host::{Entry, EntryKind};

use crate::error::Error;
use crate::guest::GuestClient;

/// The longest listing, as long as what the control plane takes of its hosts in one answer: an entry is no longer there than here.
const LISTING_BYTES: usize = 8 << 20;

/// The entries of a folder, and of the folders in it down to `depth`.
pub(crate) async fn list(
    guest: &GuestClient,
    path: String,
    user: &str,
    depth: u32,
) -> Result<Vec<Entry>, Error> {
    let request = ListDirRequest { path, depth, ..Default::default() };
    let options = GuestClient::options_for(user).with_max_message_size(LISTING_BYTES);
    let answer = guest.filesystem().list_dir_with_options(request, options).await;
    let answer = answer.map_err(|error| match error.code {
        // Either the guest would not list so many, or they are more than such an answer takes.
        ErrorCode::ResourceExhausted => Error::BadInput(
            "too many entries to list at once: ask for less depth, or for folders in it".into(),
        ),
        _ => failed(&error),
    })?;
    Ok(answer.into_owned().entries.into_iter().map(entry).collect())
}

/// Makes a folder and those above it. One that is there is as good.
pub(crate) async fn make(guest: &GuestClient, path: String, user: &str) -> Result<Entry, Error> {
    let request = MakeDirRequest { path: path.clone(), ..Default::default() };
    let made = guest.filesystem().make_dir_with_options(request, GuestClient::options_for(user)).await;
    let found = match made {
        Ok(answer) => answer.into_owned().entry,
        Err(error) if error.code == ErrorCode::AlreadyExists => {
            let request = StatRequest { path, ..Default::default() };
            let options = GuestClient::options_for(user);
            let answer =
                guest.filesystem().stat_with_options(request, options).await.map_err(|e| failed(&e))?;
            answer.into_owned().entry
        }
        Err(error) => return Err(failed(&error)),
    };
    let found = found.into_option();
    found.map(entry).ok_or_else(|| Error::GuestUnreachable("its answer names no folder".into()))
}

/// Removes a file, or a folder with all that is in it. Nothing there is as good.
pub(crate) async fn remove(guest: &GuestClient, path: String, user: &str) -> Result<(), Error> {
    let request = RemoveRequest { path, ..Default::default() };
    let options = GuestClient::options_for(user);
    guest.filesystem().remove_with_options(request, options).await.map_err(|e| failed(&e))?;
    Ok(())
}

fn entry(info: EntryInfo) -> Entry {
    let modified = info.modified_time.into_option().unwrap_or_default();
    Entry {
        name: info.name,
        kind: match info.r#type.as_known() {
            Some(FileType::FILE_TYPE_FILE) => EntryKind::ENTRY_KIND_FILE,
            Some(FileType::FILE_TYPE_DIRECTORY) => EntryKind::ENTRY_KIND_DIRECTORY,
            Some(FileType::FILE_TYPE_SYMLINK) => EntryKind::ENTRY_KIND_SYMLINK,
            Some(FileType::FILE_TYPE_UNSPECIFIED) | None => EntryKind::ENTRY_KIND_UNSPECIFIED,
        }
        .into(),
        path: info.path,
        size: u64::try_from(info.size).unwrap_or_default(),
        mode: info.mode,
        permissions: info.permissions,
        owner: info.owner,
        group: info.group,
        modified_at_unix_ms: modified.seconds * 1000 + i64::from(modified.nanos) / 1_000_000,
        symlink_target: info.symlink_target.unwrap_or_default(),
        ..Default::default()
    }
}

/// What a failed call means. The host always sends the right token, so a guest that says `unauthenticated` speaks of the user.
fn failed(error: &ConnectError) -> Error {
    let message = error.message.clone().unwrap_or_default();
    match error.code {
        ErrorCode::InvalidArgument | ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => {
            Error::BadInput(message)
        }
        ErrorCode::NotFound => Error::FileNotFound(message),
        ErrorCode::ResourceExhausted => Error::GuestDiskFull(message),
        ErrorCode::DeadlineExceeded => Error::Timeout("the guest did not answer in time".into()),
        _ => Error::GuestUnreachable(format!("{}: {message}", error.code.as_str())),
    }
}
