//! A process's last output: chunks in the order in which they were read, the oldest thrown out when there are too many.
//!
//! Offsets count every byte since the process started, all streams together, so that one number is a place in the output.

use std::collections::VecDeque;

use bytes::Bytes;

/// What a chunk costs beyond its bytes. Without it, a program that writes single bytes would be held at many times the
/// ring's size.
const CHUNK_OVERHEAD: usize = 64;

/// Where a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
    Pty,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Offset of its first byte.
    pub(crate) offset: u64,
    /// Which stream it was written to.
    pub(crate) source: Source,
    /// What was written. Never empty.
    pub(crate) bytes: Bytes,
}

impl Chunk {
    /// Offset of the byte after its last.
    pub(crate) fn end(&self) -> u64 {
        self.offset + length(&self.bytes)
    }
}

/// What a reader gets for an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// The next chunk, cut where the reader's offset lies within it.
    pub(crate) chunk: Chunk,
    /// Bytes between the reader's offset and the chunk, which are gone.
    pub(crate) dropped: u64,
}

/// The buffer.
#[derive(Debug)]
pub(crate) struct Ring {
    chunks: VecDeque<Chunk>,
    capacity: usize,
    held: usize,
    end: u64,
}

impl Ring {
    /// A ring that holds up to `capacity` bytes, overhead included, but always the newest chunk.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { chunks: VecDeque::new(), capacity, held: 0, end: 0 }
    }

    /// From the next push on, holds up to this much.
    pub(crate) fn limit_to(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Offset of the next byte to come.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held, overhead included.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Offset of the oldest byte that would be left after a push of `length` bytes.
    pub(crate) fn start_after(&self, length: usize) -> u64 {
        let mut held = self.held + length + CHUNK_OVERHEAD;
        for chunk in &self.chunks {
            if held <= self.capacity {
                return chunk.offset;
            }
            held -= cost(chunk);
        }
        self.end
    }

    /// Appends, throwing out the oldest chunks that no longer fit.
    pub(crate) fn push(&mut self, source: Source, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let chunk = Chunk { offset: self.end, source, bytes };
        self.end = chunk.end();
        self.held += cost(&chunk);
        self.chunks.push_back(chunk);
        while self.held > self.capacity && self.chunks.len() > 1 {
            if let Some(oldest) = self.chunks.pop_front() {
                self.held -= cost(&oldest);
            }
        }
    }

    /// The first chunk at or after `offset`; nothing while the reader has it all.
    pub(crate) fn read(&self, offset: u64) -> Option<Read> {
        let next = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let mut chunk = self.chunks.get(next)?.clone();
        let dropped = chunk.offset.saturating_sub(offset);
        let seen = usize::try_from(offset.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        chunk.offset = chunk.offset.max(offset);
        chunk.bytes = chunk.bytes.slice(seen..);
        Some(Read { chunk, dropped })
    }
}

fn cost(chunk: &Chunk) -> usize {
    chunk.bytes.len() + CHUNK_OVERHEAD
}

fn length(bytes: &Bytes) -> u64 {
    bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn push(ring: &mut Ring, text: &'static str) {
        ring.push(Source::Stdout, Bytes::from_static(text.as_bytes()));
    }

    #[test]
    fn a_reader_in_the_middle_of_a_chunk_gets_the_rest_of_it() {
        let mut ring = Ring::new(1000);
        push(&mut ring, "hello");
        let read = ring.read(2).unwrap();
        assert_eq!((read.chunk.offset, &read.chunk.bytes[..], read.dropped), (2, &b"llo"[..], 0));
        assert_eq!(ring.read(5), None);
        assert_eq!(ring.read(u64::MAX), None);
    }

    #[test]
    fn a_chunk_larger_than_the_ring_is_kept_alone() {
        let mut ring = Ring::new(10);
        push(&mut ring, "a");
        push(&mut ring, "longer than ten bytes");
        let read = ring.read(0).unwrap();
        assert_eq!((read.chunk.offset, read.dropped), (1, 1));
    }

    proptest! {
        /// Whatever is pushed and wherever reading starts: what is read plus what is said to be dropped is everything
        /// that was written from there on, in order, and the ring never holds more than it may.
        #[test]
        fn every_byte_is_read_or_counted_as_dropped(
            writes in vec((vec(any::<u8>(), 0..300), any::<bool>()), 0..60),
            capacity in 0_usize..3000,
            from in 0_u64..4000,
        ) {
            let mut ring = Ring::new(capacity);
            let mut all = Vec::new();
            let mut newest = 0;
            for (bytes, to_stderr) in &writes {
                let start = ring.start_after(bytes.len());
                let source = if *to_stderr { Source::Stderr } else { Source::Stdout };
                ring.push(source, Bytes::copy_from_slice(bytes));
                all.extend_from_slice(bytes);
                if !bytes.is_empty() {
                    prop_assert_eq!(ring.read(0).unwrap().chunk.offset, start);
                    newest = bytes.len() + CHUNK_OVERHEAD;
                }
                prop_assert!(ring.held() <= capacity.max(newest));
            }
            prop_assert_eq!(ring.end(), all.len() as u64);

            let mut at = from;
            while let Some(Read { chunk, dropped }) = ring.read(at) {
                prop_assert_eq!(chunk.offset, at + dropped);
                let range = usize::try_from(chunk.offset).unwrap()..usize::try_from(chunk.end()).unwrap();
                prop_assert_eq!(&chunk.bytes[..], &all[range]);
                prop_assert!(!chunk.bytes.is_empty());
                at = chunk.end();
            }
            prop_assert_eq!(at, ring.end().max(from));
        }
    }
}
