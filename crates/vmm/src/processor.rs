//! The host's processor.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{VmmError, error::file};

/// The host's processor as a guest sees it that may use all of it: the model, and a hash of its features.
pub(crate) fn of_host() -> Result<String, VmmError> {
    let path = Path::new("/proc/cpuinfo");
    let text = std::fs::read_to_string(path).map_err(file("read", path))?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
            .unwrap_or_default()
            .trim()
    };
    let features = hex::encode(Sha256::digest(value("flags")));
    Ok(format!("{} (features {})", value("model name"), &features[..8]))
}
