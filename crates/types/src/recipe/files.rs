//! Names of the archives that `COPY` takes files from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Before the digits of a name that is the client's.
const CLIENT: &str = "client:";

/// The name of an archive. As a text 64 hexadecimal digits, with `client:` before them where the name is the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FilesName {
    /// The SHA-256 of the archive.
    Content([u8; 32]),
    /// What the client that brought it calls it; what is in it is not held against that.
    Client([u8; 32]),
}

/// Text that names no archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an archive: write its SHA-256, 64 hexadecimal digits in lower case")]
pub struct InvalidFilesName;

impl FilesName {
    /// The name of an archive with this content, from 64 hexadecimal digits.
    pub fn content(digits: &str) -> Result<Self, InvalidFilesName> {
        hash(digits).map(Self::Content)
    }

    /// A client's own name, from 64 hexadecimal digits.
    pub fn client(digits: &str) -> Result<Self, InvalidFilesName> {
        hash(digits).map(Self::Client)
    }
}

fn hash(digits: &str) -> Result<[u8; 32], InvalidFilesName> {
    let digits = digits.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return Err(InvalidFilesName);
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(InvalidFilesName),
            };
            *byte = *byte << 4 | value;
        }
    }
    Ok(hash)
}

impl FromStr for FilesName {
    type Err = InvalidFilesName;

    fn from_str(text: &str) -> Result<Self, InvalidFilesName> {
        match text.strip_prefix(CLIENT) {
            Some(digits) => Self::client(digits),
            None => Self::content(text),
        }
    }
}

impl TryFrom<String> for FilesName {
    type Error = InvalidFilesName;

    fn try_from(text: String) -> Result<Self, InvalidFilesName> {
        text.parse()
    }
}

impl From<FilesName> for String {
    fn from(name: FilesName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for FilesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, hash) = match self {
            Self::Content(hash) => ("", hash),
            Self::Client(hash) => (CLIENT, hash),
        };
        f.write_str(before)?;
        hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
