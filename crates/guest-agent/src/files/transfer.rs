//! Bytes between a stream and a file, in pieces large enough that the hop to a thread that may block does not count, and one
//! piece ahead, so that the disk and the network work at the same time.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use axum::BoxError;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use rustix::buffer::spare_capacity;
use rustix::io::retry_on_intr;
use tokio::task::{JoinHandle, spawn_blocking};

/// What is read at a time.
const READ_BYTES: usize = 256 * 1024;
/// What is collected while a write is under way.
const COLLECT_BYTES: usize = 1024 * 1024;
/// Linux's limit of pieces in one write.
const PIECES_MAX: usize = 1024;

/// Why a file was not filled.
pub(super) enum FillError {
    /// The stream failed.
    Content(BoxError),
    /// The file failed.
    File(io::Error),
}

/// A file that is written in turns.
enum Disk {
    Idle(File),
    Writing(JoinHandle<io::Result<File>>),
}

/// Writes a stream to a file, from where the file is.
pub(super) async fn fill(
    file: File,
    content: impl Stream<Item = Result<Bytes, BoxError>> + Send,
) -> Result<File, FillError> {
    let mut content = std::pin::pin!(content.fuse());
    let mut disk = Disk::Idle(file);
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    loop {
        match disk {
            Disk::Idle(file) if pieces.is_empty() => {
                let Some(piece) = content.next().await else { return Ok(file) };
                pieces.push(piece.map_err(FillError::Content)?);
                disk = Disk::Idle(file);
            }
            Disk::Idle(file) => {
                let pieces = std::mem::take(&mut pieces);
                bytes = 0;
                disk = Disk::Writing(spawn_blocking(move || write_all(file, &pieces)));
            }
            Disk::Writing(ref mut writing) => {
                let has_room = bytes < COLLECT_BYTES && pieces.len() < PIECES_MAX;
                tokio::select! {
                    written = writing => {
                        let file = written.map_err(io::Error::other).flatten().map_err(FillError::File)?;
                        disk = Disk::Idle(file);
                    }
                    Some(piece) = content.next(), if has_room => {
                        let piece = piece.map_err(FillError::Content)?;
                        bytes += piece.len();
                        pieces.push(piece);
                    }
                }
            }
        }
    }
}

fn write_all(mut file: File, pieces: &[Bytes]) -> io::Result<File> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut left = slices.as_mut_slice();
    // Empty pieces at the front would look like a file that takes nothing.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(file)
}

/// Reads a file from where it is to its end, or for so many bytes if it is longer.
pub(super) fn chunks(file: File, limit: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    // Nothing is read before somebody asks; from then on one chunk is read while another is sent.
    let first = stream::once(async move { (file, limit) }).map(|(file, limit)| read_ahead(file, limit));
    first.flat_map(|reading| {
        stream::unfold(Some(reading), async |reading| {
            let read = reading?.await.map_err(io::Error::other).flatten();
            match read {
                Ok((_, _, chunk)) if chunk.is_empty() => None,
                Ok((file, limit, chunk)) => Some((Ok(chunk), Some(read_ahead(file, limit)))),
                Err(error) => Some((Err(error), None)),
            }
        })
    })
}

fn read_ahead(file: File, limit: u64) -> JoinHandle<io::Result<(File, u64, Bytes)>> {
    spawn_blocking(move || {
        let room = usize::try_from(limit).map_or(READ_BYTES, |limit| limit.min(READ_BYTES));
        if room == 0 {
            return Ok((file, limit, Bytes::new()));
        }
        let mut chunk = Vec::with_capacity(room);
        let read = retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut chunk)))?;
        Ok((file, limit - read as u64, chunk.into()))
    })
}
