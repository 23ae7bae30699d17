//! What callers say about a file in `X-Metadata-<key>` headers, kept as the file's extended attributes `user.e2b.<key>`.
//!
//! So it belongs to the file, not to the agent: it survives a rename, a restart and a snapshot, and `getfattr` shows it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use http::HeaderMap;
use rustix::buffer::spare_capacity;
use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;

const HEADER_PREFIX: &str = "x-metadata-";
const ATTRIBUTE_PREFIX: &str = "user.e2b.";
/// Linux's limit of an attribute's name, less the prefix.
const KEY_BYTES_MAX: usize = 255 - ATTRIBUTE_PREFIX.len();
/// Keys and values of one file together. ext4 has one block of 4 KiB for all attributes of a file; half of it is the
/// callers', so that what is accepted fits on any disk.
const BYTES_MAX: usize = 2048;
/// Linux's limits of what a file's attributes and their names may take.
const ATTRIBUTE_BYTES_MAX: usize = 64 * 1024;

/// Keys and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata(BTreeMap<String, String>);

/// Why metadata was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("a header 'X-Metadata-' has no key")]
    NoKey,
    #[error("metadata key '{0}' is longer than {KEY_BYTES_MAX} bytes")]
    LongKey(String),
    #[error("metadata key '{0}' is given twice")]
    Twice(String),
    #[error("the value of metadata key '{0}' is not printable text")]
    NotText(String),
    #[error("metadata is larger than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("the filesystem does not keep metadata")]
    NotKept,
    #[error("metadata cannot be stored: {0}")]
    Failed(io::Error),
}

impl From<Errno> for MetadataError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::OPNOTSUPP => Self::NotKept,
            Errno::TOOBIG | Errno::RANGE => Self::TooLarge,
            other => Self::Failed(other.into()),
        }
    }
}

impl Metadata {
    /// Collects a request's headers. Their names come in lower case.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, MetadataError> {
        let mut metadata = BTreeMap::new();
        let mut bytes = 0;
        for (name, value) in headers {
            let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            if key.is_empty() {
                return Err(MetadataError::NoKey);
            }
            if key.len() > KEY_BYTES_MAX {
                return Err(MetadataError::LongKey(key.to_owned()));
            }
            let value = std::str::from_utf8(value.as_bytes())
                .ok()
                .filter(|value| !value.chars().any(char::is_control))
                .ok_or_else(|| MetadataError::NotText(key.to_owned()))?;
            bytes += key.len() + value.len();
            if metadata.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(MetadataError::Twice(key.to_owned()));
            }
        }
        if bytes > BYTES_MAX {
            return Err(MetadataError::TooLarge);
        }
        Ok(Self(metadata))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys and values.
    pub(crate) fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }

    /// What a file has. A file that cannot be asked has none.
    pub(crate) fn read(path: &Path) -> Self {
        let mut names = Vec::with_capacity(1024);
        match listxattr(path, spare_capacity(&mut names)) {
            Ok(_) => {}
            Err(Errno::RANGE) => {
                names.reserve_exact(ATTRIBUTE_BYTES_MAX);
                if listxattr(path, spare_capacity(&mut names)).is_err() {
                    return Self::default();
                }
            }
            Err(_) => return Self::default(),
        }
        let value = |name: &str| {
            let mut value = Vec::with_capacity(BYTES_MAX);
            if getxattr(path, name, spare_capacity(&mut value)) == Err(Errno::RANGE) {
                // Not put there by the agent, but there.
                value.reserve_exact(ATTRIBUTE_BYTES_MAX);
                getxattr(path, name, spare_capacity(&mut value)).ok()?;
            }
            Some(String::from_utf8_lossy(&value).into_owned())
        };
        Self(
            attributes(&names)
                .filter_map(|(attribute, key)| Some((key.to_owned(), value(attribute)?)))
                .collect(),
        )
    }

    /// Makes this the file's metadata, and takes away what it had before. If it fails, the file has what it had.
    pub(super) fn replace(&self, file: impl AsFd) -> Result<(), MetadataError> {
        let file = file.as_fd();
        let before = Self::of_file(file)?;
        if before == *self {
            return Ok(());
        }
        self.swap_in(file, &before).inspect_err(|_| {
            // The attributes that it had fitted a moment ago.
            let _ = before.swap_in(file, self);
        })
    }

    fn swap_in(&self, file: BorrowedFd<'_>, before: &Self) -> Result<(), MetadataError> {
        // First away with the old, so that there is room for the new.
        for key in before.0.keys().filter(|key| !self.0.contains_key(*key)) {
            match fremovexattr(file, attribute(key)) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (key, value) in &self.0 {
            fsetxattr(file, attribute(key), value.as_bytes(), XattrFlags::empty())?;
        }
        Ok(())
    }

    fn of_file(file: BorrowedFd<'_>) -> Result<Self, MetadataError> {
        let mut names = Vec::with_capacity(ATTRIBUTE_BYTES_MAX);
        match flistxattr(file, spare_capacity(&mut names)) {
            Ok(_) => {}
            Err(Errno::OPNOTSUPP) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        }
        let mut metadata = BTreeMap::new();
        for (attribute, key) in attributes(&names) {
            let mut value = Vec::with_capacity(ATTRIBUTE_BYTES_MAX);
            rustix::fs::fgetxattr(file, attribute, spare_capacity(&mut value))?;
            metadata.insert(key.to_owned(), String::from_utf8_lossy(&value).into_owned());
        }
        Ok(Self(metadata))
    }
}

fn attribute(key: &str) -> String {
    format!("{ATTRIBUTE_PREFIX}{key}")
}

/// The attributes of ours in a list of names as the kernel gives it, each with its key.
fn attributes(names: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    names.split(|byte| *byte == 0).filter_map(|name| {
        let name = std::str::from_utf8(name).ok()?;
        Some((name, name.strip_prefix(ATTRIBUTE_PREFIX)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn of(headers: &[(&str, &[u8])]) -> Result<Metadata, MetadataError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        Metadata::of(&map)
    }

    #[test]
    fn keys_are_in_lower_case_and_other_headers_are_not_metadata() {
        let metadata =
            of(&[("X-Metadata-Author", b"me"), ("x-metadata-A.b_c", b""), ("x-meta", b"no")]).unwrap();
        let expected = [("a.b_c", ""), ("author", "me")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(metadata.into_map(), BTreeMap::from(expected));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let long = format!("x-metadata-{}", "k".repeat(KEY_BYTES_MAX + 1));
        assert!(matches!(of(&[("x-metadata-", b"v")]), Err(MetadataError::NoKey)));
        assert!(matches!(of(&[(&long, b"v")]), Err(MetadataError::LongKey(_))));
        assert!(matches!(of(&[("x-metadata-k", b"\xff")]), Err(MetadataError::NotText(_))));
        assert!(matches!(of(&[("x-metadata-k", b"a\tb")]), Err(MetadataError::NotText(_))));
        assert!(matches!(
            of(&[("x-metadata-k", b"1"), ("X-METADATA-K", b"2")]),
            Err(MetadataError::Twice(_))
        ));
        assert!(of(&[("x-metadata-k", &[b'v'; BYTES_MAX - 1])]).is_ok());
        assert!(matches!(of(&[("x-metadata-k", &[b'v'; BYTES_MAX])]), Err(MetadataError::TooLarge)));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_kept(
            first in proptest::collection::btree_map("[A-Za-z0-9._-]{1,40}", "[ -~é]{0,60}", 0..5),
            second in proptest::collection::btree_map("[A-Za-z0-9._-]{1,40}", "[ -~é]{0,60}", 0..5),
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            for headers in [first, second] {
                let headers: Vec<_> =
                    headers.iter().map(|(k, v)| (format!("X-Metadata-{k}"), v.as_bytes())).collect();
                let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), *v)).collect();
                // Two keys may differ in their case alone.
                let Ok(metadata) = of(&headers) else { continue };
                metadata.replace(file.as_file()).unwrap();
                prop_assert_eq!(Metadata::read(file.path()), metadata);
            }
        }
    }
}
