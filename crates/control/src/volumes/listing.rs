//! What `find` says of files, as a volume's listing tells it.

use chrono::{DateTime, Utc};

/// What `find` is to print of each file: ten fields, each with a NUL behind it, since a name may hold anything else.
pub(super) const FORMAT: &str = r"%y\0%s\0%m\0%U\0%G\0%A@\0%T@\0%C@\0%l\0%P\0";
const FIELDS: usize = 10;

/// A file, folder or link in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeEntry {
    /// Its own name; that of the volume's root is `/`.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Where in the volume, from `/` on.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its rights: the twelve bits of `chmod`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was last read.
    pub atime: DateTime<Utc>,
    /// When its contents were last changed.
    pub mtime: DateTime<Utc>,
    /// When anything about it was last changed.
    pub ctime: DateTime<Utc>,
    /// Where a link points to.
    pub target: Option<String>,
}

/// What something in a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// Reads what `find` printed from the folder `base` of the volume on. None where that makes no sense. In the order of their paths.
pub(super) fn read(base: &str, printed: &[u8]) -> Option<Vec<VolumeEntry>> {
    let Some(printed) = printed.strip_suffix(b"\0") else { return printed.is_empty().then(Vec::new) };
    let fields: Vec<&[u8]> = printed.split(|byte| *byte == 0).collect();
    if !fields.len().is_multiple_of(FIELDS) {
        return None;
    }
    let entries: Option<Vec<_>> = fields.chunks_exact(FIELDS).map(|fields| entry(base, fields)).collect();
    let mut entries = entries?;
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Some(entries)
}

fn entry(base: &str, fields: &[&[u8]]) -> Option<VolumeEntry> {
    let &[kind, size, mode, uid, gid, atime, mtime, ctime, target, below] = fields else { return None };
    let text = |field| std::str::from_utf8(field).ok();
    // A name may be any bytes; what is no text is shown as well as it can be.
    let (target, below) = (String::from_utf8_lossy(target), String::from_utf8_lossy(below));
    let path = match (base, &*below) {
        (base, "") => base.to_owned(),
        ("/", below) => format!("/{below}"),
        (base, below) => format!("{base}/{below}"),
    };
    let kind = match kind {
        b"f" => EntryKind::File,
        b"d" => EntryKind::Directory,
        b"l" => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/");
    Some(VolumeEntry {
        name: name.to_owned(),
        kind,
        size: text(size)?.parse().ok()?,
        mode: u32::from_str_radix(text(mode)?, 8).ok()?,
        uid: text(uid)?.parse().ok()?,
        gid: text(gid)?.parse().ok()?,
        atime: moment(text(atime)?)?,
        mtime: moment(text(mtime)?)?,
        ctime: moment(text(ctime)?)?,
        target: (kind == EntryKind::Symlink).then(|| target.into_owned()),
        path,
    })
}

/// Seconds with a fraction.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    DateTime::from_timestamp(seconds.parse().ok()?, nanos.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_whatever_their_names() {
        let of = |kind: &str, target: &str, below: &str| {
            format!("{kind}\0{}\0644\01000\01001\01.5\02.0000000010\03.0\0{target}\0{below}\0", below.len())
        };
        let printed = [of("l", "to \n it", "z"), of("f", "", "a\n\tb"), of("d", "", "")].concat();
        let entries = read("/x", printed.as_bytes()).unwrap();
        let told: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.name.as_str(), e.kind)).collect();
        assert_eq!(
            told,
            [
                ("/x", "x", EntryKind::Directory),
                ("/x/a\n\tb", "a\n\tb", EntryKind::File),
                ("/x/z", "z", EntryKind::Symlink)
            ]
        );
        let file = &entries[1];
        assert_eq!((file.size, file.mode, file.uid, file.gid), (4, 0o644, 1000, 1001));
        assert_eq!((file.atime.timestamp_millis(), file.mtime.timestamp_subsec_nanos()), (1500, 1));
        assert_eq!(entries[2].target.as_deref(), Some("to \n it"));
        let root = read("/", of("d", "", "").as_bytes()).unwrap();
        assert_eq!((root[0].path.as_str(), root[0].name.as_str()), ("/", "/"));
        assert_eq!(read("/", b"").unwrap(), []);
        for bad in ["f\0", "f", &of("f", "", "a").replace("644", "9")] {
            assert_eq!(read("/", bad.as_bytes()), None);
        }
    }
}
