//! `guest-agent unpack`: files out of an archive that the host sends on standard input, for the step `COPY` of a recipe.
//!
//! A process of its own, so that whatever is in an archive costs that process alone: tar, as it is or compressed by gzip, of which the agent takes
//! what the patterns name ([`Pattern`]). What is there is merged with: files and links are replaced, folders are kept.
//!
//! No archive leads out of where it is unpacked: names with `..` or from the root, devices, FIFOs, and names below a link of the archive's own are
//! refused. A hard link is one to a file that is copied as well.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use sandbar_types::recipe::{Pattern, Placed};
use tar::{Archive, Entry, EntryType};

use crate::users::Owner;

/// Most entries of an archive.
const MAX_ENTRIES: u64 = 500_000;
/// What is read at a time.
const BUFFER_BYTES: usize = 128 * 1024;
/// What folders are given that the archive does not tell of.
const FOLDER_MODE: u32 = 0o755;

/// What is to be unpacked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where to: a folder where it ends in a slash, and where it is one.
    pub into: String,
    /// Whose the files are to be, `USER[:GROUP]`, by names or numbers.
    pub owner: String,
    /// Their permission bits; none = as they are in the archive.
    pub mode: Option<u32>,
    /// What of the archive.
    pub sources: Vec<Pattern>,
}

/// Why an archive was not unpacked. What came before the fault may be there.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// No such owner.
    #[error("there is no owner {0:?}")]
    Owner(String),
    /// It is no archive, or a part of one.
    #[error("the archive cannot be read: {0}")]
    Archive(#[source] io::Error),
    /// It ends in the middle of a file.
    #[error("the archive ends within {0:?}")]
    Cut(PathBuf),
    /// There are too many files.
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A name that leads elsewhere.
    #[error("the archive has {0:?}, which leads out of it")]
    Outside(PathBuf),
    /// A name that leads through a link that came in the same archive.
    #[error("the archive has {0:?}, which leads through one of its links")]
    ThroughLink(PathBuf),
    /// Neither file nor folder nor link.
    #[error("the archive has {0:?}, which is neither a file nor a folder nor a link")]
    Kind(PathBuf),
    /// A hard link to what is not there.
    #[error("{0:?} is a hard link to {1:?}, which is not copied before it: copy both")]
    HardLink(PathBuf, PathBuf),
    /// There is no such file.
    #[error("{0} is not among the files of the build")]
    Missing(Pattern),
    /// A folder where a file goes.
    #[error("{0:?} is a folder")]
    IsFolder(PathBuf),
    /// A file where a folder goes.
    #[error("{0:?} is not a folder")]
    NotAFolder(PathBuf),
    /// A file cannot be written.
    #[error("{path:?} cannot be written: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UnpackError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Write { path: path.clone(), source }
    }
}

/// Unpacks what comes: how many files and links that were.
///
/// # Errors
/// If the archive is none, leads anywhere else, lacks a source, or something cannot be written.
pub fn unpack(order: &Order, mut input: impl Read) -> Result<u64, UnpackError> {
    let owner = Owner::find(&order.owner).ok_or_else(|| UnpackError::Owner(order.owner.clone()))?;
    let into = Path::new(&order.into);
    let is_folder = order.into.ends_with('/')
        || order.sources.len() > 1
        || order.sources.iter().any(Pattern::has_wildcards)
        || into.is_dir();
    let mut work = Work {
        order,
        owner,
        into,
        is_folder,
        found: vec![false; order.sources.len()],
        made: HashSet::new(),
        links: HashSet::new(),
        count: 0,
        buffer: vec![0; BUFFER_BYTES],
    };
    let mut magic = Vec::new();
    input.by_ref().take(2).read_to_end(&mut magic).map_err(UnpackError::Archive)?;
    let is_gzip = magic == [0x1f, 0x8b];
    let input = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(magic).chain(input));
    if is_gzip { work.all(MultiGzDecoder::new(input)) } else { work.all(input) }?;
    Ok(work.count)
}

struct Work<'a> {
    order: &'a Order,
    owner: Owner,
    into: &'a Path,
    /// Whether files go into it, or one becomes it.
    is_folder: bool,
    /// By source.
    found: Vec<bool>,
    /// The folders that were made here.
    made: HashSet<PathBuf>,
    /// The links that were.
    links: HashSet<PathBuf>,
    count: u64,
    buffer: Vec<u8>,
}

impl Work<'_> {
    fn all(&mut self, input: impl Read) -> Result<(), UnpackError> {
        let mut archive = Archive::new(input);
        let mut entries = 0;
        for entry in archive.entries().map_err(UnpackError::Archive)? {
            let mut entry = entry.map_err(UnpackError::Archive)?;
            if entry.header().entry_type() == EntryType::XGlobalHeader {
                continue;
            }
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(UnpackError::TooMany);
            }
            self.one(&mut entry)?;
        }
        let mut sources = self.order.sources.iter().zip(&self.found);
        match sources.find(|(source, found)| !**found && !source.is_whole()) {
            Some((source, _)) => Err(UnpackError::Missing(source.clone())),
            None => Ok(()),
        }
    }

    fn one<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let name = entry.path_bytes().into_owned();
        let shown = || PathBuf::from(OsStr::from_bytes(&name));
        let path = components(&name).ok_or_else(|| UnpackError::Outside(shown()))?;
        let kind = match entry.header().entry_type() {
            // Before there were types, a slash at the end made a folder.
            EntryType::Regular if name.ends_with(b"/") => EntryType::Directory,
            EntryType::Continuous => EntryType::Regular,
            kind @ (EntryType::Regular | EntryType::Directory | EntryType::Symlink | EntryType::Link) => kind,
            _ => return Err(UnpackError::Kind(shown())),
        };
        if path.is_empty() && kind != EntryType::Directory {
            return Err(UnpackError::Outside(shown()));
        }
        let places = self.places(&path, kind == EntryType::Directory);
        for source in &places.sources {
            self.found[*source] = true;
        }
        for place in &places.paths {
            self.not_through_a_link(place, &shown)?;
        }
        let Some((first, others)) = places.paths.split_first() else { return Ok(()) };
        let meta = Meta::of(entry, self.order.mode).map_err(UnpackError::Archive)?;
        match kind {
            EntryType::Directory => {
                for place in &places.paths {
                    self.folder(place)?;
                    // What the destination itself is like, only the step says.
                    let mode = if place == self.into { self.order.mode } else { Some(meta.mode) };
                    if let (Some(mode), true) = (mode, self.made.contains(place)) {
                        fs::set_permissions(place, Permissions::from_mode(mode))
                            .map_err(UnpackError::at(place))?;
                    }
                }
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                for place in &places.paths {
                    self.vacate(place)?;
                    let failed = UnpackError::at(place);
                    symlink(OsStr::from_bytes(&target), place).map_err(&failed)?;
                    lchown(place, Some(self.owner.uid), Some(self.owner.gid)).map_err(&failed)?;
                    self.links.insert(place.clone());
                }
            }
            EntryType::Link => {
                let link = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self
                    .linked(&link)
                    .ok_or_else(|| UnpackError::HardLink(shown(), PathBuf::from(OsStr::from_bytes(&link))))?;
                for place in places.paths.iter().filter(|place| **place != target) {
                    self.vacate(place)?;
                    fs::hard_link(&target, place).map_err(UnpackError::at(place))?;
                }
            }
            _ => {
                self.vacate(first)?;
                self.file(entry, first, meta)?;
                for other in others {
                    self.vacate(other)?;
                    fs::copy(first, other).map_err(UnpackError::at(other))?;
                    let file = OpenOptions::new().write(true).open(other).map_err(UnpackError::at(other))?;
                    self.finish(&file, meta).map_err(UnpackError::at(other))?;
                }
            }
        }
        self.count += places.paths.len() as u64;
        Ok(())
    }

    /// Where an entry goes, and by which sources.
    fn places(&self, path: &[&[u8]], is_folder: bool) -> Places {
        let mut places = Places::default();
        for (index, source) in self.order.sources.iter().enumerate() {
            let place = match source.place(path, is_folder) {
                None => continue,
                Some(Placed::Named(name)) if self.is_folder => self.into.join(OsStr::from_bytes(name)),
                Some(Placed::Named(_)) => self.into.to_owned(),
                Some(Placed::Below([])) => self.into.to_owned(),
                Some(Placed::Below(names)) => {
                    let below: PathBuf = names.iter().map(|name| OsStr::from_bytes(name)).collect();
                    self.into.join(below)
                }
            };
            places.sources.push(index);
            if !places.paths.contains(&place) {
                places.paths.push(place);
            }
        }
        places
    }

    /// The file that a hard link of the archive is one to, as it was copied.
    fn linked(&self, link: &[u8]) -> Option<PathBuf> {
        let path = components(link)?;
        let mut targets = self.places(&path, false).paths.into_iter();
        targets.find(|target| fs::symlink_metadata(target).is_ok_and(|there| there.is_file()))
    }

    fn not_through_a_link(&self, place: &Path, shown: &impl Fn() -> PathBuf) -> Result<(), UnpackError> {
        let above = place.ancestors().skip(1);
        if !self.links.is_empty() && above.into_iter().any(|folder| self.links.contains(folder)) {
            return Err(UnpackError::ThroughLink(shown()));
        }
        Ok(())
    }

    /// Makes a folder with all above it, unless it is there.
    fn folder(&mut self, path: &Path) -> Result<(), UnpackError> {
        let failed = UnpackError::at(path);
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => return Ok(()),
            Ok(_) => return Err(UnpackError::NotAFolder(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(UnpackError::NotAFolder(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        fs::create_dir(path).map_err(&failed)?;
        lchown(path, Some(self.owner.uid), Some(self.owner.gid)).map_err(&failed)?;
        fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)).map_err(&failed)?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// Makes room for a file or a link.
    fn vacate(&mut self, path: &Path) -> Result<(), UnpackError> {
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() => return Err(UnpackError::IsFolder(path.to_owned())),
            Ok(_) => fs::remove_file(path).map_err(UnpackError::at(path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(UnpackError::at(path)(error)),
        }
        self.links.remove(path);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        meta: Meta,
    ) -> Result<(), UnpackError> {
        let failed = UnpackError::at(path);
        // Nobody else's until it is whole.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(&failed)?;
        let mut left = entry.size();
        while left > 0 {
            let read = entry.read(&mut self.buffer).map_err(UnpackError::Archive)?;
            if read == 0 {
                return Err(UnpackError::Cut(path.to_owned()));
            }
            file.write_all(&self.buffer[..read]).map_err(&failed)?;
            left = left.saturating_sub(read as u64);
        }
        self.finish(&file, meta).map_err(&failed)
    }

    fn finish(&self, file: &File, meta: Meta) -> io::Result<()> {
        fchown(file, Some(self.owner.uid), Some(self.owner.gid))?;
        // After the owner: whose change takes set-user-id away.
        file.set_permissions(Permissions::from_mode(meta.mode))?;
        file.set_modified(meta.modified)
    }
}

/// Where an entry goes.
#[derive(Default)]
struct Places {
    sources: Vec<usize>,
    paths: Vec<PathBuf>,
}

/// What a file is given.
#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    modified: SystemTime,
}

impl Meta {
    fn of<R: Read>(entry: &Entry<'_, R>, mode: Option<u32>) -> io::Result<Self> {
        let mode = mode.map_or_else(|| entry.header().mode(), Ok)? & 0o7777;
        // What ext4 can tell.
        let seconds = entry.header().mtime().unwrap_or_default().min((1 << 34) - 1 - (1 << 31));
        Ok(Self { mode, modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) })
    }
}

/// A name of an archive, part by part; none where it leads out.
fn components(name: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b".." => return None,
            b"" | b"." => {}
            part => found.push(part),
        }
    }
    (!name.starts_with(b"/")).then_some(found)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
