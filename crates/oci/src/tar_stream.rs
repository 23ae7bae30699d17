//! Entries of a tar stream, with the long names and attributes that precede them merged in.
//!
//! The `tar` crate reads the blocks; what lies between them is read here, since that would otherwise be taken into memory as long as a
//! stream says it is.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;

use tar::{Archive, EntryType, PaxExtensions};

use crate::error::ImageError;

/// The most bytes of names and attributes that may precede an entry.
const EXTENSION_BYTES: u64 = 1 << 20;
/// Where tar keeps extended attributes.
const XATTR: &str = "SCHILY.xattr.";
/// Times that ext4 can tell, in seconds.
const LAST_SECOND: i64 = (1 << 34) - 1 - (1 << 31);

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File { size: u64 },
    Folder,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// An entry's description. Its content, if it is a file, is read beside it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// As it is written: not checked in any way.
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    /// Permission bits, with set-user-id and the like.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) modified: i64,
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
    /// Where in the stream its content begins.
    pub(crate) position: u64,
}

/// What preceded an entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<i64>,
    size: Option<u64>,
    attributes: BTreeMap<String, Vec<u8>>,
    /// Of all that is read of these.
    bytes: u64,
}

/// Calls `each` with every entry of a stream, and what a file holds. Returns when the archive says that it ends; the stream may go on.
pub(crate) fn entries<R: Read>(
    archive: &mut Archive<R>,
    mut each: impl FnMut(Entry, &mut dyn Read) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut extensions = Extensions::default();
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => {}
            EntryType::XHeader => {
                let content = extensions.take(&mut entry)?;
                extensions.read_pax(&content)?;
            }
            EntryType::GNULongName => extensions.path = Some(until_zero(extensions.take(&mut entry)?)),
            EntryType::GNULongLink => extensions.link = Some(until_zero(extensions.take(&mut entry)?)),
            _ => {
                let position = entry.raw_file_position();
                let description = describe(entry.header(), std::mem::take(&mut extensions), position)?;
                each(description, &mut entry)?;
            }
        }
    }
    Ok(())
}

/// What cannot be read is not what it should be: the file that it is in is read by others.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
pub(crate) fn unreadable(error: std::io::Error) -> ImageError {
    ImageError::broken(format!("it cannot be read: {error}"))
}

fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

impl Extensions {
    /// The content of an entry that describes the next one.
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, ImageError> {
        let size = entry.header().entry_size().map_err(unreadable)?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > EXTENSION_BYTES {
            return Err(ImageError::TooLarge("a name or an attribute has more than 1 MiB".to_owned()));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        Ok(content)
    }

    fn read_pax(&mut self, content: &[u8]) -> Result<(), ImageError> {
        fn number<T: std::str::FromStr>(value: &[u8]) -> Result<T, ImageError> {
            let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            parsed.ok_or_else(|| ImageError::broken("an attribute that should be a number is none"))
        }
        for extension in PaxExtensions::new(content) {
            let extension = extension.map_err(unreadable)?;
            let key = extension.key().map_err(|_| ImageError::broken("an attribute's name is no text"))?;
            let value = extension.value_bytes();
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "uid" => self.uid = Some(number(value)?),
                "gid" => self.gid = Some(number(value)?),
                "size" => self.size = Some(number(value)?),
                "mtime" => {
                    let seconds = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                    self.modified = Some(number(seconds)?);
                }
                key if key.starts_with("GNU.sparse.") => return Err(sparse()),
                key => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        self.attributes.insert(name.to_owned(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

fn sparse() -> ImageError {
    ImageError::broken("it has a sparse file, which tools for images do not write")
}

fn describe(header: &tar::Header, extensions: Extensions, position: u64) -> Result<Entry, ImageError> {
    let Extensions { path, link, uid, gid, modified, size: extended_size, attributes, bytes: _ } = extensions;
    let size = header.entry_size().map_err(unreadable)?;
    if extended_size.is_some_and(|extended| extended != size) {
        return Err(ImageError::TooLarge("it has a file of more than 8 GiB".to_owned()));
    }
    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
    let target = || {
        let target = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        if target.is_empty() { Err(ImageError::broken("it has a link to nothing")) } else { Ok(target) }
    };
    let device = || -> Result<(u32, u32), ImageError> {
        let major = header.device_major().map_err(unreadable)?;
        let minor = header.device_minor().map_err(unreadable)?;
        Ok((major.unwrap_or_default(), minor.unwrap_or_default()))
    };
    let what = match header.entry_type() {
        // Before there were types, a slash at the end made a folder.
        EntryType::Regular if path.ends_with(b"/") => What::Folder,
        EntryType::Regular | EntryType::Continuous => What::File { size },
        EntryType::Directory => What::Folder,
        EntryType::Symlink => What::Symlink { target: target()? },
        EntryType::Link => What::HardLink { target: target()? },
        EntryType::Char => {
            let (major, minor) = device()?;
            What::Character { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            What::Block { major, minor }
        }
        EntryType::Fifo => What::Fifo,
        EntryType::GNUSparse => return Err(sparse()),
        other => {
            let name = String::from_utf8_lossy(&path).into_owned();
            return Err(ImageError::broken(format!(
                "{name:?} is of a kind that nobody knows ({:?})",
                other.as_byte()
            )));
        }
    };
    let id = |extended: Option<u64>, plain: std::io::Result<u64>| {
        let id = extended.map_or_else(|| plain.map_err(unreadable), Ok)?;
        // The last number means "no change" to the system.
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| ImageError::broken(format!("{id} is no owner")))
    };
    let seconds =
        modified.unwrap_or_else(|| i64::try_from(header.mtime().unwrap_or_default()).unwrap_or_default());
    Ok(Entry {
        what,
        mode: header.mode().map_err(unreadable)? & 0o7777,
        uid: id(uid, header.uid())?,
        gid: id(gid, header.gid())?,
        modified: seconds.clamp(0, LAST_SECOND),
        attributes,
        position,
        path,
    })
}

/// A path of an archive, as components. `.` and doubled slashes are dropped, and so is a slash at the beginning; `..` is refused, for
/// no tool writes it.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&std::ffi::OsStr>, ImageError> {
    /// Linux's own bounds, and one on how deep a tree may be.
    const PATH_BYTES: usize = 4096;
    const NAME_BYTES: usize = 255;
    let shown = || format!("{:?}", String::from_utf8_lossy(path.get(..200).unwrap_or(path)));
    if path.len() >= PATH_BYTES || path.contains(&0) {
        return Err(ImageError::broken(format!("the name {} is too long or no name", shown())));
    }
    let mut found = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                return Err(ImageError::broken(format!("{} leads out of the folder that it is in", shown())));
            }
            name if name.len() > NAME_BYTES => {
                return Err(ImageError::broken(format!("the name {} is too long", shown())));
            }
            name => found.push(std::ffi::OsStr::from_bytes(name)),
        }
    }
    Ok(found)
}
