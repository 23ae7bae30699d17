//! The key that seals the database's secrets: a file in the data folder, or an environment variable in its place.

use anyhow::{Context as _, bail};
use sandbar_control::secrets::MasterKey;

use crate::data_dir::DataDir;

/// Gives the master key, in place of the file in the data folder.
pub(crate) const VARIABLE: &str = "SANDBAR_MASTER_KEY";

/// The key of a platform that is started; made at its first start.
pub(crate) fn load_or_create(data: &DataDir) -> anyhow::Result<MasterKey> {
    match std::env::var(VARIABLE) {
        Ok(text) => MasterKey::from_hex(&text).context(VARIABLE),
        Err(_) => Ok(MasterKey::load_or_create(&data.master_key())?),
    }
}

/// The key of a platform that exists. Making one would only hide that it is the wrong folder.
pub(crate) fn existing(data: &DataDir) -> anyhow::Result<MasterKey> {
    let path = data.master_key();
    if std::env::var_os(VARIABLE).is_none() && !path.exists() {
        bail!("{} does not exist: name the platform's --data-dir, or set {VARIABLE}", path.display());
    }
    load_or_create(data)
}
