//! Files of a sandbox, streamed both ways: memory use does not depend on their size.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sandbar_proto::host;
use sandbar_proto::host::write_file_request::{Open, Request};
use tokio::sync::oneshot;

use super::error::CallSite;
use super::{InvalidSandbox, Sandbox, SandboxError};
use crate::host_client::ReadFileStream;
use crate::{Control, OpContext};

/// Largest chunk of a file in one message.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long one transfer may take: far beyond any file that fits, so that a dead peer does not hold a stream for ever.
const TRANSFER_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Which file.
#[derive(Debug, Clone, Default)]
pub struct FileTarget {
    /// Absolute, or relative to the user's home.
    pub path: String,
    /// Whose rights and home apply; by default the sandbox's default user.
    pub user: Option<String>,
}

/// What must be there for a write to take place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WriteCondition {
    /// Whatever is there is replaced.
    #[default]
    Whatever,
    /// Nothing may be there.
    Nothing,
    /// A file in one of these states, as HTTP's `If-Match` has them.
    States(String),
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWritten {
    /// Its absolute path in the guest.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its state then, as HTTP's `ETag` has it, where the guest tells it.
    pub state: Option<String>,
}

/// A file being read.
pub struct FileContents {
    state: Option<String>,
    first: Option<Bytes>,
    rest: ReadFileStream,
    sandbox: Sandbox,
    control: Control,
}

impl Control {
    /// Writes a file from a stream. It appears whole or not at all: when the stream fails, the call to the host is cut off, never
    /// ended as if it were complete.
    pub async fn sandbox_write_file<S, E>(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        target: &FileTarget,
        condition: WriteCondition,
        contents: S,
    ) -> Result<FileWritten, SandboxError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        target.validate()?;
        let client = self.client_of_running(sandbox, "writing a file")?;
        let (if_match, is_new) = match condition {
            WriteCondition::Whatever => (String::new(), false),
            WriteCondition::Nothing => (String::new(), true),
            WriteCondition::States(states) => (states, false),
        };
        let open = Open {
            id: sandbox.id.to_string(),
            path: target.path.clone(),
            user: target.user.clone().unwrap_or_default(),
            if_match,
            is_new,
            ..Default::default()
        };
        let (broke, broken) = oneshot::channel();
        let requests = requests(open, contents, broke);
        tokio::select! {
            answer = client.write_file(requests, TRANSFER_LIMIT) => {
                let answer = answer.map_err(|error| self.host_failed(CallSite::of(sandbox, "the upload", TRANSFER_LIMIT), error))?;
                let state = Some(answer.etag).filter(|state| !state.is_empty());
                Ok(FileWritten { path: answer.path, bytes: answer.bytes_written, state })
            }
            Ok(error) = broken => Err(SandboxError::Upload(error)),
        }
    }

    /// Reads a file. Returns once its first chunk (or its end) has arrived, so that a file that cannot be read is an error
    /// before anything is answered.
    pub async fn sandbox_read_file(
        &self,
        _ctx: &OpContext,
        sandbox: &Sandbox,
        target: &FileTarget,
    ) -> Result<FileContents, SandboxError> {
        target.validate()?;
        let client = self.client_of_running(sandbox, "reading a file")?;
        let request = host::ReadFileRequest {
            id: sandbox.id.to_string(),
            path: target.path.clone(),
            user: target.user.clone().unwrap_or_default(),
            ..Default::default()
        };
        let failed = |error| self.host_failed(CallSite::of(sandbox, "the download", TRANSFER_LIMIT), error);
        let mut rest = client.read_file(request, TRANSFER_LIMIT).await.map_err(failed)?;
        let first = rest.next().await.map_err(failed)?;
        let (first, state) = first.unzip();
        let first = first.filter(|chunk| !chunk.is_empty());
        Ok(FileContents {
            state: state.flatten(),
            first,
            rest,
            sandbox: sandbox.clone(),
            control: self.clone(),
        })
    }
}

impl FileContents {
    /// The state of the file that is read, as HTTP's `ETag` has it, where the guest tells it.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The next chunk; none at the file's end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SandboxError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let next = self.rest.next().await.map_err(|error| {
            self.control.host_failed(CallSite::of(&self.sandbox, "the download", TRANSFER_LIMIT), error)
        })?;
        Ok(next.map(|(chunk, _)| chunk))
    }
}

impl FileTarget {
    pub(super) fn validate(&self) -> Result<(), InvalidSandbox> {
        super::validate::path("path", &self.path)?;
        self.user.as_deref().map_or(Ok(()), super::validate::user)
    }
}

/// The messages of an upload: `open`, then the chunks. A failure of `contents` goes to `broke`, and the stream then never ends:
/// an end would tell the host that the file is complete.
fn requests<S, E>(
    open: Open,
    contents: S,
    broke: oneshot::Sender<std::io::Error>,
) -> impl Stream<Item = host::WriteFileRequest> + Send + 'static
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let chunks = contents
        .scan(Some(broke), |broke, item| {
            let item = item.map_err(|error| (broke.take(), std::io::Error::other(error)));
            async move {
                match item {
                    Ok(bytes) => Some(bytes),
                    Err((broke, error)) => {
                        if let Some(broke) = broke {
                            // The receiver is gone only when the call ended already.
                            let _ = broke.send(error);
                        }
                        let never: Infallible = std::future::pending().await;
                        match never {}
                    }
                }
            }
        })
        .flat_map(|bytes| futures::stream::iter(split(bytes)))
        .map(|chunk| Request::Chunk(chunk.into()));
    futures::stream::once(std::future::ready(Request::from(open)))
        .chain(chunks)
        .map(|request| host::WriteFileRequest { request: Some(request), ..Default::default() })
}

/// Cuts a chunk into pieces that fit a message.
fn split(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES));
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn splitting_loses_nothing_and_bounds_every_piece(len in 0usize..(3 * CHUNK_BYTES + 2)) {
            let whole: Bytes = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let pieces: Vec<Bytes> = split(whole.clone()).collect();
            prop_assert!(pieces.iter().all(|piece| (1..=CHUNK_BYTES).contains(&piece.len())));
            prop_assert_eq!(pieces.concat(), whole);
        }
    }

    #[tokio::test]
    async fn a_broken_upload_is_reported_and_never_ends() {
        let contents =
            futures::stream::iter(vec![Ok(Bytes::from_static(b"half")), Err("the client went away")]);
        let (broke, broken) = oneshot::channel();
        let mut requests = Box::pin(requests(Open::default(), contents, broke));
        assert!(matches!(requests.next().await.unwrap().request, Some(Request::Open(_))));
        assert!(
            matches!(requests.next().await.unwrap().request, Some(Request::Chunk(chunk)) if chunk == b"half")
        );
        assert!(futures::poll!(requests.next()).is_pending());
        assert_eq!(broken.await.unwrap().to_string(), "the client went away");
        assert!(futures::poll!(requests.next()).is_pending());
    }
}
