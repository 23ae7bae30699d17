//! What the layers of an image have taken so far, and when it is enough.

use std::cell::Cell;
use std::io::{self, Read};

use crate::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::image::{Bounds, Unpacked, Watch};

/// Files take room in blocks, and small ones are many.
const BLOCK: u64 = 4096;
/// How often whoever watches is told.
const STEP: u64 = 4 << 20;
/// What a layer may have beside its files' content, in multiples of what it may have of that: headers and padding.
const OVERHEAD: u64 = 2;

/// Counts, over all layers of an image. Shared by the stream that is read and what is made of it.
pub(crate) struct Meter<'a> {
    bounds: Bounds,
    watch: &'a dyn Watch,
    entries: Cell<u64>,
    bytes: Cell<u64>,
    read: Cell<u64>,
    told: Cell<u64>,
    /// Why reading was ended from here: an error of reading cannot say it.
    stopped: Cell<Option<ImageError>>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(bounds: Bounds, watch: &'a dyn Watch) -> Self {
        let zero = || Cell::new(0);
        Self {
            bounds,
            watch,
            entries: zero(),
            bytes: zero(),
            read: zero(),
            told: zero(),
            stopped: Cell::new(None),
        }
    }

    pub(crate) const fn taken(&self) -> Unpacked {
        Unpacked { bytes: self.bytes.get(), entries: self.entries.get() }
    }

    /// Counts one more entry, with so many bytes of content.
    pub(crate) fn charge(&self, content: u64) -> Result<(), ImageError> {
        let Bounds { bytes: most_bytes, entries: most_entries } = self.bounds;
        let entries = self.entries.get() + 1;
        let bytes = self.bytes.get().saturating_add(content.div_ceil(BLOCK).saturating_mul(BLOCK));
        if entries > most_entries {
            return Err(ImageError::TooLarge(format!("a disk of this size takes {most_entries} files")));
        }
        if bytes > most_bytes {
            let most = most_bytes >> 20;
            return Err(ImageError::TooLarge(format!(
                "its files take more than the {most} MiB that fit on the disk"
            )));
        }
        self.entries.set(entries);
        self.bytes.set(bytes);
        Ok(())
    }

    /// Bytes that came out of decompression.
    fn came(&self, bytes: u64) -> Result<(), ImageError> {
        let read = self.read.get().saturating_add(bytes);
        self.read.set(read);
        let headers = self.bounds.entries.saturating_mul(BLOCK);
        if read > self.bounds.bytes.saturating_mul(OVERHEAD).saturating_add(headers) {
            return Err(ImageError::TooLarge(
                "its layers, decompressed, are far larger than the disk".to_owned(),
            ));
        }
        if read - self.told.get() >= STEP {
            self.told.set(read);
            self.watch.step(read)?;
        }
        Ok(())
    }

    /// Why it was ended from here, or what reading says.
    pub(crate) fn why(&self, error: ImageError) -> ImageError {
        self.stopped.take().unwrap_or(error)
    }
}

/// A layer's content, counted and hashed on its way.
pub(crate) struct Metered<'m, 'a, R> {
    inner: R,
    hasher: Hasher,
    meter: &'m Meter<'a>,
}

impl<'m, 'a, R: Read> Metered<'m, 'a, R> {
    pub(crate) fn new(inner: R, meter: &'m Meter<'a>) -> Self {
        Self { inner, hasher: Hasher::default(), meter }
    }

    /// Reads what follows the archive's end, and says what all of it was.
    pub(crate) fn finish(mut self) -> Result<Digest, ImageError> {
        match io::copy(&mut self, &mut io::sink()) {
            Ok(_) => Ok(self.hasher.finish()),
            Err(error) => Err(self.meter.why(crate::tar_stream::unreadable(error))),
        }
    }
}

impl<R: Read> Read for Metered<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        if let Err(stopped) = self.meter.came(read as u64) {
            self.meter.stopped.set(Some(stopped));
            return Err(io::ErrorKind::Other.into());
        }
        Ok(read)
    }
}
