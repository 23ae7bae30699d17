//! Which releases of Firecracker will do.

use std::{fmt, path::Path};

use tokio::process::Command;

use crate::VmmError;

/// A release, as `--version` names it. One that is not released yet carries a word behind its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: (u32, u32, u32),
    word: Option<Box<str>>,
}

/// The oldest release: its predecessors save pages above 3 GB at the wrong place, or leave devices dead after a restore.
pub(super) const OLDEST: Version = Version { numbers: (1, 16, 1), word: None };

impl Version {
    /// Understands `v1.16.1` and `v1.17.0-dev`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix('v')?;
        let (numbers, word) = match text.split_once('-') {
            Some((numbers, word)) => (numbers, Some(word.into())),
            None => (text, None),
        };
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let numbers = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(Self { numbers, word })
    }

    /// Whether it is at least as new as `other`. A version's preparations count as the version.
    fn is_at_least(&self, other: &Self) -> bool {
        self.numbers >= other.numbers
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        self.word.iter().try_for_each(|word| write!(f, "-{word}"))
    }
}

/// Asks Firecracker and its jailer for their version, which has to be the same and new enough.
pub(super) async fn of(firecracker: &Path, jailer: &Path) -> Result<Version, VmmError> {
    let (version, jailers) = tokio::try_join!(ask(firecracker, "Firecracker"), ask(jailer, "Jailer"))?;
    if !version.is_at_least(&OLDEST) {
        return Err(VmmError::TooOld { binary: firecracker.to_owned(), found: version, needed: OLDEST });
    }
    if version != jailers {
        let (firecracker, jailer) = (firecracker.to_owned(), jailer.to_owned());
        return Err(VmmError::OtherJailer { firecracker, version, jailer, jailers });
    }
    Ok(version)
}

async fn ask(binary: &Path, name: &str) -> Result<Version, VmmError> {
    let output = Command::new(binary)
        .arg("--version")
        .env_clear()
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| VmmError::Start { binary: binary.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.lines().next().unwrap_or_default();
    answer
        .strip_prefix(name)
        .and_then(Version::parse)
        .ok_or_else(|| VmmError::UnknownBuild { binary: binary.to_owned(), answer: answer.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_printed() {
        for text in ["v1.16.1", "v0.25.2", "v1.17.0-dev", "v1.16.1-12-g0123abc"] {
            assert_eq!(format!("v{}", Version::parse(text).unwrap()), text);
        }
        for text in ["", "1.16.1", "v1.16", "v1.16.1.2", "v1.x.1", "v-1.2.3"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let at_least = |text| Version::parse(text).unwrap().is_at_least(&OLDEST);
        assert!(at_least("v1.16.1") && at_least("v1.16.2") && at_least("v1.100.0") && at_least("v2.0.0"));
        assert!(at_least("v1.17.0-dev"));
        assert!(!at_least("v1.16.0") && !at_least("v1.9.9") && !at_least("v0.99.99"));
    }
}
