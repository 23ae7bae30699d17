//! A part of a file, read from its beginning to its end without disturbing others who read the same file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// `len` bytes of a file, from `offset` on.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Section {
    pub(crate) const fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len }
    }

    /// All of a file.
    pub(crate) fn whole(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::new(Arc::new(file), 0, len))
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// A part of it.
    pub(crate) fn part(&self, offset: u64, len: u64) -> Self {
        Self { file: Arc::clone(&self.file), offset: self.offset + offset, len }
    }

    pub(crate) fn reader(&self) -> SectionReader {
        SectionReader { section: self.clone(), at: 0 }
    }

    /// All of it, for what is known to be small.
    pub(crate) fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.reader().read_to_end(&mut content)?;
        Ok(content)
    }
}

#[derive(Debug)]
pub(crate) struct SectionReader {
    section: Section,
    at: u64,
}

impl Read for SectionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.section.len - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = self.section.file.read_at(&mut buffer[..wanted], self.section.offset + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
