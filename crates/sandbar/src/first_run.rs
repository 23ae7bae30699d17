//! `first-run.json`: the sign-in and API key of a new installation.
//!
//! It is written before the database knows these secrets, and used again if the database still does not when it is found: a
//! kill in between loses nothing, and never leaves an account that nobody can enter.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::data_dir::replace_private;

/// What a newcomer needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FirstRunFile {
    pub(crate) url: String,
    pub(crate) email: String,
    #[serde(serialize_with = "exposed")]
    pub(crate) password: SecretString,
    #[serde(serialize_with = "exposed")]
    pub(crate) api_key: SecretString,
}

impl FirstRunFile {
    /// `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => {
                let file = serde_json::from_slice(&bytes);
                file.map(Some).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        replace_private(path, &json).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn is_private_round_trips_and_is_told_apart_from_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("first-run.json");
        assert!(FirstRunFile::read(&path).unwrap().is_none());
        let file = FirstRunFile {
            url: "http://127.0.0.1:8080".into(),
            email: "admin@sandbar.local".into(),
            password: "secret".into(),
            api_key: "e2b_0".into(),
        };
        file.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"url": "http://127.0.0.1:8080", "email": "admin@sandbar.local", "password": "secret",
                "api_key": "e2b_0"})
        );
        assert_eq!(FirstRunFile::read(&path).unwrap().unwrap().password.expose_secret(), "secret");
        fs::write(&path, "{").unwrap();
        assert!(FirstRunFile::read(&path).is_err());
    }
}
