//! A log's files: `N.log`, N counting up. The last is written to; when it is full the next one begins, and of those before it one stays.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file grows no further.
pub(super) const SEGMENT_BYTES: u64 = 4 << 20;
/// Files of one log.
const SEGMENTS: usize = 2;
/// What of the end is read to go on from: many entries of the longest kind.
const TAIL_BYTES: u64 = 256 << 10;

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    number: u64,
    file: File,
    bytes: u64,
}

impl Segments {
    /// Opens the log, or begins it, with the last lines that are in it. A line that was cut off, by a kill or a full disk, is removed.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<u8>)> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let numbers = numbers(dir)?;
        let number = numbers.last().copied().unwrap_or(1);
        let file = open(dir, number)?;
        let mut segments = Self { dir: dir.to_owned(), number, bytes: file.metadata()?.len(), file };
        let mut tail = Vec::new();
        if let [.., before, _] = numbers.as_slice()
            && segments.bytes < TAIL_BYTES
        {
            tail = read_tail(&File::open(path(dir, *before))?)?;
        }
        let last = read_tail(&segments.file)?;
        let whole = last.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let cut = u64::try_from(last.len() - whole).unwrap_or_default();
        if cut > 0 {
            segments.bytes -= cut;
            segments.file.set_len(segments.bytes)?;
        }
        tail.extend_from_slice(last.get(..whole).unwrap_or_default());
        Ok((segments, tail))
    }

    /// Adds whole lines, all or none of them.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        if self.bytes > 0 && self.bytes.saturating_add(length) > SEGMENT_BYTES {
            self.begin_next()?;
        }
        if let Err(error) = self.file.write_all(lines) {
            // Half a line would spoil the next one.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += length;
        Ok(())
    }

    fn begin_next(&mut self) -> io::Result<()> {
        let file = open(&self.dir, self.number + 1)?;
        file.set_len(0)?;
        self.number += 1;
        self.file = file;
        self.bytes = 0;
        let numbers = numbers(&self.dir)?;
        for number in numbers.iter().rev().skip(SEGMENTS) {
            fs::remove_file(path(&self.dir, *number))?;
        }
        Ok(())
    }
}

/// The files that there are, oldest first. None where there is no log yet, or not any more.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// So many bytes of a file from `offset` on; none where it is not there any more.
pub(super) fn read(dir: &Path, number: u64, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path(dir, number)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        file => {
            let mut file = file?;
            file.seek(SeekFrom::Start(offset))?;
            file.take(most).read_to_end(&mut bytes)?;
        }
    }
    Ok(bytes)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.log"))
}

fn open(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path(dir, number))
}

fn read_tail(mut file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_that_a_log_takes_is_bounded_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("logs");
        let (mut segments, tail) = Segments::open(&dir).unwrap();
        assert_eq!(tail, b"");
        let batch = format!("{}\n", "x".repeat(9_999)).repeat(10);
        for _ in 0..200 {
            segments.append(batch.as_bytes()).unwrap();
        }
        segments.append(b"the last\n").unwrap();
        let sizes: Vec<u64> =
            fs::read_dir(&dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), SEGMENTS);
        assert!(sizes.iter().all(|size| *size <= SEGMENT_BYTES), "{sizes:?}");
        let (_, tail) = Segments::open(&dir).unwrap();
        assert!(tail.ends_with(b"x\nthe last\n"));
    }

    #[test]
    fn a_line_that_was_cut_off_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("logs");
        let (mut segments, _) = Segments::open(&dir).unwrap();
        segments.append(b"one\ntwo\n").unwrap();
        segments.append(b"thr").unwrap();
        let (mut segments, tail) = Segments::open(&dir).unwrap();
        assert_eq!(tail, b"one\ntwo\n");
        segments.append(b"four\n").unwrap();
        assert_eq!(read(&dir, 1, 0, 100).unwrap(), b"one\ntwo\nfour\n");
        assert_eq!(read(&dir, 2, 0, 100).unwrap(), b"");
    }
}
