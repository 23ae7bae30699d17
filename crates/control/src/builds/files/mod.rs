//! Build files: archives (tar, also compressed by gzip) that clients bring for the `COPY` steps of their builds, or with an image that a build
//! starts from.
//!
//! ```text
//!   client ──stream──► parts, in object storage or a folder ──► row `ready` ──► a step, or a host, reads the parts in order
//!              │             ▲
//!              └─ breaks off ┴─ another goes on after the whole parts that are kept
//! ```
//!
//! What there is, the rows say ([`sandbar_store::builds::BuildFilesRow`]): one is there before its first part, and counts when it is whole. Nothing here
//! looks into an archive: the guest that it is for does.
//!
//! - A name is a [`FilesName`]: the archive's SHA-256, which is held against what arrives, or the client's own word. It is the team's.
//! - [`Control::build_files_has`], [`Control::build_files_put`]: for whoever may build.
//! - [`Control::build_files_ticket`], [`Control::build_files_put_by_ticket`]: for clients that upload without a credential, to a URL that they are told.
//! - `place`: where the parts are. `ticket`: what stands in such a URL.

mod place;
mod ticket;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use sandbar_store::StoreError;
use sandbar_store::builds::BuildFilesRow;
use sandbar_types::id::Team;
use sandbar_types::recipe::FilesName;
use sandbar_types::{ErrorCode, Id};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub(crate) use place::FilesPlace;
pub use place::PlaceError;
pub(crate) use ticket::TicketKey;

use super::{BuildError, BuildScope};
use crate::{Control, OpContext};

/// The largest archive: images are large.
pub const MAX_ARCHIVE_BYTES: u64 = 8 << 30;
/// The largest of which nobody says beforehand how large it is: room for as much is reserved.
const MAX_UNSAID_BYTES: u64 = 512 << 20;
/// What is kept as one: as much of an upload as is in memory.
const PART_BYTES: usize = 4 << 20;
/// An upload that brings nothing for this long has died.
const SILENCE: Duration = Duration::from_secs(120);

/// An archive that builds may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildFiles {
    /// Its name.
    pub name: FilesName,
    /// Its size.
    pub bytes: u64,
}

/// What came of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesPut {
    /// It is there now.
    Stored(BuildFiles),
    /// It was there before; what was sent was not looked at.
    Present(BuildFiles),
}

/// Why an archive was not taken, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no place for it.
    #[error(
        "this platform has no place for files of builds: its operator starts it with --snapshot-store, or with a data folder"
    )]
    NoPlace,
    /// No such archive.
    #[error("there is no archive {name}: upload it, and build again")]
    Missing {
        /// Which.
        name: FilesName,
    },
    /// A step copies, and nobody says from what.
    #[error("the recipe has COPY: say with `files` which archive its files are in")]
    Unnamed,
    /// It is too large.
    #[error(
        "an archive may have at most {} MiB, and {} where the upload does not say its length",
        MAX_ARCHIVE_BYTES >> 20,
        MAX_UNSAID_BYTES >> 20
    )]
    TooLarge,
    /// The team has as much as it may have.
    #[error("the archives of the team take {used} of {limit} bytes: what is not used for a day makes room")]
    Full {
        /// What they take.
        used: u64,
        /// What they may take.
        limit: u64,
    },
    /// It is not what its name says.
    #[error("the archive is not {name}: its SHA-256 is {is}")]
    Mismatch {
        /// What it was called.
        name: FilesName,
        /// What it is.
        is: FilesName,
    },
    /// It ended too soon.
    #[error("the upload broke off")]
    Cut(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// It goes on behind the length that it said.
    #[error("the archive is longer than the upload said")]
    Longer,
    /// It goes on elsewhere than where the one before broke off.
    #[error("the upload goes on at byte {received}, not {from}")]
    Elsewhere {
        /// How much is kept.
        received: u64,
        /// Where it was to go on.
        from: u64,
    },
    /// It cannot go on from anywhere.
    #[error(
        "only an upload that says its length, of an archive that is named by its SHA-256, goes on after the beginning"
    )]
    NotToBeContinued,
    /// The ticket is none of ours, or came too late.
    #[error("this upload was not asked for, or an hour ago: ask for another URL")]
    Ticket,
    /// It cannot be kept or read.
    #[error("files of builds cannot be kept or read")]
    Place(#[from] PlaceError),
}

impl FilesError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoPlace
            | Self::Missing { .. }
            | Self::Unnamed
            | Self::Mismatch { .. }
            | Self::Cut(_)
            | Self::Longer
            | Self::NotToBeContinued => ErrorCode::InvalidRequest,
            Self::Elsewhere { .. } => ErrorCode::InvalidState,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::Full { .. } => ErrorCode::RateLimited,
            Self::Ticket => ErrorCode::Forbidden,
            Self::Place(_) => ErrorCode::InternalError,
        }
    }
}

impl Control {
    /// A team's archive, if it is there. For a day from now on it stays.
    pub async fn build_files_has(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        name: &FilesName,
    ) -> Result<Option<BuildFiles>, BuildError> {
        let team = self.builder(ctx, scope).await?;
        Ok(self.store().build_files_use(team, name).await?.map(|row| files(name, &row)))
    }

    /// How much is kept of an upload of this archive that broke off: where another may go on. All of it where the archive is there.
    pub async fn build_files_received(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        name: &FilesName,
    ) -> Result<u64, BuildError> {
        let team = self.builder(ctx, scope).await?;
        match self.store().build_files_use(team, name).await? {
            Some(row) => Ok(row.size),
            None => Ok(self.store().build_files_received(team, name).await?),
        }
    }

    /// What lets whoever has it upload this one archive for this team, within an hour. It can stand in a URL as it is.
    pub async fn build_files_ticket(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        name: &FilesName,
    ) -> Result<SecretString, BuildError> {
        let team = self.builder(ctx, scope).await?;
        self.files_place()?;
        Ok(self.ticket_key().seal(team, name, self.store().now().await?))
    }

    /// Takes an archive. `from` is where in it this begins, and `length` how long what comes says it is. One that was there under its own SHA-256 stays;
    /// one that bears a client's name is replaced. Of one that breaks off the whole parts are kept for an hour, where it is known by its
    /// SHA-256 and said its length.
    pub async fn build_files_put<S, E>(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        name: &FilesName,
        extent: (u64, Option<u64>),
        contents: S,
    ) -> Result<FilesPut, BuildError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let team = self.builder(ctx, scope).await?;
        self.take_files(team, *name, extent, contents).await
    }

    /// The same, for whoever has a ticket: no other credential is asked for.
    pub async fn build_files_put_by_ticket<S, E>(
        &self,
        ticket: &str,
        length: Option<u64>,
        contents: S,
    ) -> Result<FilesPut, BuildError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let (team, name) =
            self.ticket_key().open(ticket, self.store().now().await?).ok_or(FilesError::Ticket)?;
        self.take_files(team, name, (0, length), contents).await
    }

    async fn take_files<S, E>(
        &self,
        team: Id<Team>,
        name: FilesName,
        (from, length): (u64, Option<u64>),
        contents: S,
    ) -> Result<FilesPut, BuildError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let place = self.files_place()?.clone();
        if let FilesName::Content(_) = name
            && let Some(row) = self.store().build_files_use(team, &name).await?
        {
            return Ok(FilesPut::Present(files(&name, &row)));
        }
        let size = length.map(|length| from.saturating_add(length));
        if size.is_some_and(|size| size > MAX_ARCHIVE_BYTES) {
            return Err(FilesError::TooLarge.into());
        }
        let id = self.begin_files(team, &name, from, size).await?;
        // To its end, though the client goes: what it left is taken back there.
        let control = self.clone();
        self.finish(async move {
            let upload = Upload { control: &control, place: &place, id };
            let received = upload.receive(&name, (from, size), contents).await;
            let stored = match received {
                Ok(bytes) => control.complete_files(id, team, &name, bytes).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &stored {
                let goes_on =
                    is_continued(&name, size) && matches!(error, BuildError::Files(FilesError::Cut(_)));
                if !goes_on || !control.store().build_files_interrupt(id).await? {
                    control.drop_files(&place, id).await;
                }
            }
            stored.map(|bytes| FilesPut::Stored(BuildFiles { name, bytes }))
        })
        .await
    }

    /// Goes on with an upload that broke off, or reserves room for a new one.
    async fn begin_files(
        &self,
        team: Id<Team>,
        name: &FilesName,
        from: u64,
        size: Option<u64>,
    ) -> Result<Uuid, BuildError> {
        let continued = size.filter(|_| is_continued(name, size));
        let kept = match continued {
            Some(size) => self.store().build_files_go_on(team, name, size, from).await?,
            None => None,
        };
        match (kept, continued, from) {
            (Some(id), ..) => Ok(id),
            (None, _, 0) => {
                let id = Uuid::now_v7();
                self.reserve_files(id, team, name, size.unwrap_or(MAX_UNSAID_BYTES)).await?;
                Ok(id)
            }
            (None, Some(_), from) => {
                let received = self.store().build_files_received(team, name).await?;
                Err(FilesError::Elsewhere { received, from }.into())
            }
            (None, None, _) => Err(FilesError::NotToBeContinued.into()),
        }
    }

    async fn reserve_files(
        &self,
        id: Uuid,
        team: Id<Team>,
        name: &FilesName,
        bytes: u64,
    ) -> Result<(), BuildError> {
        let limit = self.config().builds.files_bytes;
        let mut tx = self.store().begin().await?;
        tx.team_lock(team).await?.ok_or(StoreError::TeamGone)?;
        let used = tx.build_files_bytes(team).await?;
        if used.saturating_add(bytes) > limit {
            return Err(FilesError::Full { used, limit }.into());
        }
        tx.build_files_begin(id, team, name, bytes).await?;
        Ok(tx.commit().await?)
    }

    async fn complete_files(
        &self,
        id: Uuid,
        team: Id<Team>,
        name: &FilesName,
        bytes: u64,
    ) -> Result<u64, BuildError> {
        let mut tx = self.store().begin().await?;
        tx.team_lock(team).await?.ok_or(StoreError::TeamGone)?;
        if !tx.build_files_complete(id, team, name, bytes).await? {
            return Err(FilesError::Cut(None).into());
        }
        tx.commit().await?;
        Ok(bytes)
    }

    /// Deletes an archive that is not ready, parts first. What cannot be deleted now is owed: the sweep does it.
    async fn drop_files(&self, place: &FilesPlace, id: Uuid) {
        let dropped: Result<(), BuildError> = async {
            place.delete(id).await.map_err(FilesError::from)?;
            Ok(self.store().build_files_forget(id).await?)
        }
        .await;
        if let Err(error) = dropped {
            tracing::warn!(archive = %id, error = &error as &dyn std::error::Error, "files of a build are not deleted yet");
        }
    }

    /// Deletes the archives that nobody uses.
    pub(super) async fn sweep_files(&self) -> Result<(), StoreError> {
        let Ok(place) = self.files_place() else { return Ok(()) };
        for id in self.store().build_files_over().await? {
            self.drop_files(place, id).await;
        }
        Ok(())
    }

    fn files_place(&self) -> Result<&FilesPlace, FilesError> {
        self.build_files_place().ok_or(FilesError::NoPlace)
    }
}

/// Whether what is kept of an upload that broke off says where to go on, and cannot become another archive.
fn is_continued(name: &FilesName, size: Option<u64>) -> bool {
    matches!(name, FilesName::Content(_)) && size.is_some()
}

fn files(name: &FilesName, row: &BuildFilesRow) -> BuildFiles {
    BuildFiles { name: *name, bytes: row.size }
}

/// An archive on its way in.
struct Upload<'a> {
    control: &'a Control,
    place: &'a FilesPlace,
    id: Uuid,
}

impl Upload<'_> {
    /// Keeps all of it from there on, part by part: its size.
    async fn receive<S, E>(
        &self,
        name: &FilesName,
        (from, size): (u64, Option<u64>),
        mut contents: S,
    ) -> Result<u64, BuildError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut hash, mut index) = self.kept_before(from).await?;
        let (mut part, mut bytes) = (BytesMut::new(), from);
        loop {
            let next = tokio::time::timeout(SILENCE, contents.next());
            let next = next.await.map_err(|elapsed| FilesError::Cut(Some(elapsed.into())))?;
            let Some(chunk) = next else { break };
            let mut chunk = chunk.map_err(|error| FilesError::Cut(Some(error.into())))?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > size.unwrap_or(MAX_UNSAID_BYTES) {
                return Err(if size.is_some() { FilesError::Longer } else { FilesError::TooLarge }.into());
            }
            hash.update(&chunk);
            while !chunk.is_empty() {
                part.extend_from_slice(&chunk.split_to(chunk.len().min(PART_BYTES - part.len())));
                if part.len() == PART_BYTES {
                    self.write(index, part.split().freeze()).await?;
                    index += 1;
                }
            }
        }
        if size.is_some_and(|size| size != bytes) {
            return Err(FilesError::Cut(None).into());
        }
        let is = FilesName::Content(hash.finalize().into());
        if matches!(name, FilesName::Content(_)) && *name != is {
            return Err(FilesError::Mismatch { name: *name, is }.into());
        }
        if !part.is_empty() {
            self.write(index, part.freeze()).await?;
        }
        self.place.settle(self.id).await.map_err(FilesError::from)?;
        Ok(bytes)
    }

    /// What is kept up to there: its hash so far, and how many parts that are.
    async fn kept_before(&self, from: u64) -> Result<(Sha256, u32), BuildError> {
        let (mut hash, mut index, mut bytes) = (Sha256::new(), 0, 0);
        while bytes < from {
            let part = self.place.read(self.id, index).await.map_err(FilesError::from)?;
            if part.len() != PART_BYTES {
                return Err(FilesError::from(PlaceError::Damaged).into());
            }
            hash.update(&part);
            bytes += part.len() as u64;
            index += 1;
        }
        Ok((hash, index))
    }

    async fn write(&self, index: u32, part: Bytes) -> Result<(), BuildError> {
        // What is behind the last whole part is brought again by whoever goes on.
        let whole = u64::from(index) + u64::from(part.len() == PART_BYTES);
        let received = whole * PART_BYTES as u64;
        self.place.write(self.id, index, part).await.map_err(FilesError::from)?;
        match self.control.store().build_files_renew(self.id, received).await? {
            true => Ok(()),
            // It was heard of too late.
            false => Err(FilesError::Cut(None).into()),
        }
    }
}

/// An archive being read.
pub(super) struct FilesReader {
    place: FilesPlace,
    id: Uuid,
    index: u32,
    left: u64,
}

impl FilesReader {
    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FilesError> {
        if self.left == 0 {
            return Ok(None);
        }
        let part = self.place.read(self.id, self.index).await?;
        self.index += 1;
        self.left = match self.left.checked_sub(part.len() as u64) {
            Some(left) if !part.is_empty() => left,
            _ => return Err(PlaceError::Damaged.into()),
        };
        Ok(Some(part))
    }
}

impl Control {
    /// Opens a team's archive, to be read from its beginning.
    pub(super) async fn build_files_open(
        &self,
        team: Id<Team>,
        name: &FilesName,
    ) -> Result<FilesReader, BuildError> {
        let place = self.files_place()?.clone();
        let row = self.store().build_files_use(team, name).await?;
        let row = row.ok_or(FilesError::Missing { name: *name })?;
        Ok(FilesReader { place, id: row.id, index: 0, left: row.size })
    }
}
