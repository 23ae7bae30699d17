//! The log of one step: what it writes goes to the database as it comes, in pieces, as text, without the secrets that the step was given, and up to
//! a bound.

use std::time::Duration;

use sandbar_store::builds::{Claim, LogChunk};
use sandbar_store::{Store, StoreError};
use tokio::time::Instant;

use super::mask::{Mask, Masked};

/// Bytes kept of what one step writes, both streams together.
const STEP_BYTES: usize = 1 << 20;
/// What has come is written down after this long, or when there is this much.
const PIECE_AFTER: Duration = Duration::from_millis(250);
const PIECE_BYTES: usize = 64 * 1024;

/// Which of a command's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// See the module.
pub(super) struct StepLog<'a> {
    store: &'a Store,
    claim: Claim,
    step: u32,
    begun: Instant,
    mask: Mask,
    /// Of standard output and standard error.
    masked: [Masked; 2],
    text: Text,
    /// When what has come is to be written down; none = nothing has.
    due: Option<Instant>,
}

impl<'a> StepLog<'a> {
    /// Begins the log of a step.
    pub(super) async fn begin(
        store: &'a Store,
        claim: Claim,
        step: u32,
        cmd: &str,
        mask: Mask,
    ) -> Result<Self, StoreError> {
        store.build_log_begin(claim, step, cmd).await?;
        let (begun, masked, text) = (Instant::now(), Default::default(), Text::default());
        Ok(Self { store, claim, step, begun, mask, masked, text, due: None })
    }

    /// Takes what the step wrote.
    pub(super) async fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), StoreError> {
        let [out, err] = &mut self.masked;
        let masked = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        self.text.take(stream, &self.mask.take(masked, bytes));
        let due = *self.due.get_or_insert_with(|| Instant::now() + PIECE_AFTER);
        if self.text.len() >= PIECE_BYTES || due <= Instant::now() { self.write().await } else { Ok(()) }
    }

    /// Ends when something is to be written down. May be dropped at any time.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes down what has come.
    pub(super) async fn write(&mut self) -> Result<(), StoreError> {
        self.due = None;
        let chunk = self.text.drain();
        if chunk == LogChunk::default() {
            return Ok(());
        }
        self.store.build_log_add(self.claim, self.step, &chunk).await
    }

    /// Writes down the rest, and how the step ended.
    pub(super) async fn end(mut self, exit_code: Option<i32>) -> Result<(), StoreError> {
        let [out, err] = &mut self.masked;
        for (stream, masked) in [(Stream::Stdout, out), (Stream::Stderr, err)] {
            self.text.take(stream, &self.mask.finish(masked));
        }
        self.text.finish();
        self.write().await?;
        let duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.store.build_log_end(self.claim, self.step, exit_code, duration_ms).await
    }
}

/// Bytes on their way to text.
#[derive(Debug, Default)]
struct Text {
    chunk: LogChunk,
    /// The beginnings of characters whose ends have not come.
    partial: [Vec<u8>; 2],
    taken: usize,
}

impl Text {
    fn len(&self) -> usize {
        self.chunk.stdout.len() + self.chunk.stderr.len()
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let kept = bytes.len().min(STEP_BYTES - self.taken);
        self.chunk.truncated |= kept < bytes.len();
        self.taken += kept;
        let Self { chunk, partial: [out, err], .. } = self;
        let (text, partial) = match stream {
            Stream::Stdout => (&mut chunk.stdout, out),
            Stream::Stderr => (&mut chunk.stderr, err),
        };
        partial.extend_from_slice(&bytes[..kept]);
        let whole = decode(partial, text);
        partial.drain(..whole);
    }

    /// Nothing more will come: what was begun stays so.
    fn finish(&mut self) {
        let Self { chunk, partial: [out, err], .. } = self;
        for (partial, text) in [(out, &mut chunk.stdout), (err, &mut chunk.stderr)] {
            if !partial.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                partial.clear();
            }
        }
    }

    fn drain(&mut self) -> LogChunk {
        std::mem::take(&mut self.chunk)
    }
}

/// Appends what of `bytes` is text, with a mark for what is none: how many bytes that were, all but the beginning of a character at
/// their end.
fn decode(bytes: &[u8], text: &mut String) -> usize {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let (valid, bad) = match std::str::from_utf8(rest) {
            Ok(valid) => (valid, None),
            Err(error) => {
                let valid = str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default();
                (valid, Some(error.error_len()))
            }
        };
        // The database takes no NUL in a text.
        text.extend(valid.chars().map(|char| if char == '\0' { char::REPLACEMENT_CHARACTER } else { char }));
        at += valid.len();
        match bad {
            None | Some(None) => return at,
            Some(Some(length)) => {
                text.push(char::REPLACEMENT_CHARACTER);
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn decoded(pieces: &[Vec<u8>]) -> LogChunk {
        let mut text = Text::default();
        pieces.iter().for_each(|piece| text.take(Stream::Stdout, piece));
        text.finish();
        text.drain()
    }

    #[test]
    fn what_is_beyond_the_bound_is_dropped_and_told() {
        let mut text = Text::default();
        text.take(Stream::Stdout, &vec![b'x'; STEP_BYTES - 1]);
        text.take(Stream::Stderr, b"y");
        assert!(!text.drain().truncated);
        text.take(Stream::Stderr, b"z");
        let chunk = text.drain();
        assert_eq!((chunk.stderr.as_str(), chunk.truncated), ("", true));
    }

    #[test]
    fn what_is_no_text_is_marked() {
        let chunk = decoded(&[b"a\xff\0b\xc3".to_vec()]);
        assert_eq!(chunk.stdout, "a\u{fffd}\u{fffd}b\u{fffd}");
    }

    proptest! {
        #[test]
        fn text_is_the_same_however_it_is_cut(text in "[^\\x00]{0,60}", cuts in vec(0_usize..200, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<Vec<u8>> = cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect();
            prop_assert_eq!(decoded(&pieces).stdout, text);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in vec(vec(any::<u8>(), 0..20), 0..10)) {
            prop_assert!(!decoded(&pieces).stdout.contains('\0'));
        }
    }
}
