//! `COPY`: an archive goes to the guest as the input of its agent's `unpack`, which takes from it what the step names. What is in it nobody reads
//! before the guest that it is for.

use std::collections::BTreeMap;
use std::convert::Infallible;

use sandbar_types::guest;

use super::BuildError;
use super::course::Broken;
use super::files::{FilesError, FilesReader, PlaceError};
use crate::sandboxes::{Command, ExecInput};

/// What is sent at a time.
const PIECE_BYTES: usize = 128 * 1024;

/// What takes the files out of the archive, in the guest.
pub(super) fn command(sources: &[String], dest: &str, owner: &str, mode: Option<u32>) -> Command {
    let mut args: Vec<String> = ["unpack", "--into", dest, "--owner", owner].map(str::to_owned).into();
    if let Some(mode) = mode {
        args.extend(["--mode".to_owned(), format!("{mode:o}")]);
    }
    args.push("--".to_owned());
    args.extend_from_slice(sources);
    Command {
        cmd: guest::AGENT_PATH.to_owned(),
        args,
        env: BTreeMap::new(),
        cwd: Some("/".to_owned()),
        user: Some("root".to_owned()),
    }
}

/// Sends a command its input. Ends only where that cannot be read: how the command ends, its output tells.
pub(super) async fn feed(mut input: ExecInput, archive: Option<FilesReader>) -> Result<Infallible, Broken> {
    if let Some(mut archive) = archive {
        'all: while let Some(mut part) = archive.next().await? {
            while !part.is_empty() {
                // A command that has ended reads no more.
                if input.stdin(part.split_to(part.len().min(PIECE_BYTES))).await.is_err() {
                    break 'all;
                }
            }
        }
        let _ended = input.close_stdin().await;
    }
    std::future::pending().await
}

impl From<BuildError> for Broken {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Files(error) => error.into(),
            BuildError::Store(error) => error.into(),
            error => Self::Again(error.to_string()),
        }
    }
}

impl From<FilesError> for Broken {
    fn from(error: FilesError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "files of a build cannot be read");
        match error {
            FilesError::Place(PlaceError::Bucket(_) | PlaceError::Folder(_)) => {
                Self::Again("the files of the build cannot be read now".to_owned())
            }
            FilesError::Place(error) => Self::Failed(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
