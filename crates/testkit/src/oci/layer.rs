//! A layer, entry by entry, sound or not.

use tar::{EntryType, Header};

/// User and group.
pub type Owner = (u32, u32);

/// A tar stream in the making. Names are written as they are given, whatever is in them.
#[derive(Debug, Default, Clone)]
pub struct LayerBuilder {
    bytes: Vec<u8>,
}

impl LayerBuilder {
    /// A folder.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32, owner: Owner) -> Self {
        self.entry(EntryType::Directory, path, "", mode, owner, &[])
    }

    /// A file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, owner: Owner, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", mode, owner, content)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, 0o777, (0, 0), &[])
    }

    /// A second name for a file.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, 0o644, (0, 0), &[])
    }

    /// The removal of what a layer below has at `folder/name`.
    #[must_use]
    pub fn whiteout(self, folder: &str, name: &str) -> Self {
        self.file(&format!("{folder}/.wh.{name}"), 0o644, (0, 0), &[])
    }

    /// The removal of all that the layers below have in a folder.
    #[must_use]
    pub fn opaque(self, folder: &str) -> Self {
        self.whiteout(folder, ".wh..opq")
    }

    /// An attribute of the entry that comes next, in the form that PAX has for it.
    #[must_use]
    pub fn attribute(self, name: &str, value: &[u8]) -> Self {
        let mut record = Vec::new();
        // The length counts itself.
        let mut length = name.len() + value.len() + 3;
        while length != name.len() + value.len() + 3 + length.to_string().len() {
            length = name.len() + value.len() + 3 + length.to_string().len();
        }
        record.extend_from_slice(format!("{length} {name}=").as_bytes());
        record.extend_from_slice(value);
        record.push(b'\n');
        self.entry(EntryType::XHeader, "PaxHeader", "", 0o644, (0, 0), &record)
    }

    /// A device or a pipe.
    #[must_use]
    pub fn node(mut self, kind: EntryType, path: &str, (major, minor): (u32, u32)) -> Self {
        let mut header = header(kind, path, "", 0o660, (0, 0), 0);
        header
            .set_device_major(major)
            .and_then(|()| header.set_device_minor(minor))
            .expect("GNU's header has devices");
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self
    }

    /// Any entry.
    #[must_use]
    pub fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        target: &str,
        mode: u32,
        owner: Owner,
        content: &[u8],
    ) -> Self {
        for (long, text) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, target)] {
            if text.len() > 100 {
                self = self.entry(long, "././@LongLink", "", 0o644, (0, 0), format!("{text}\0").as_bytes());
            }
        }
        let header = header(kind, path, target, mode, owner, content.len() as u64);
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// The end of the archive, and all of it.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

fn header(kind: EntryType, path: &str, target: &str, mode: u32, (uid, gid): Owner, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    let fields = header.as_gnu_mut().expect("it was made so");
    for (field, text) in [(&mut fields.name, path), (&mut fields.linkname, target)] {
        let kept = text.len().min(field.len());
        field[..kept].copy_from_slice(&text.as_bytes()[..kept]);
    }
    header.set_cksum();
    header
}
