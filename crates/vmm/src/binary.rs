//! Finding a VMM's binary.

use std::path::{Path, PathBuf};

use crate::VmmError;

/// The binary's absolute path: machines are started without an environment, so without a `PATH`.
pub(crate) fn resolve(binary: &Path) -> Result<PathBuf, VmmError> {
    let found = if binary.components().count() > 1 {
        binary.canonicalize().ok()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(binary)).find(|candidate| candidate.is_file())
    };
    found.ok_or_else(|| VmmError::Start {
        binary: binary.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}
