//! What `/init` set: the token, the environment and the defaults. Kept in a file, so that an agent that init had to
//! restart serves on under the same token.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use sandbar_types::guest;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// The sandbox as the host described it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sandbox {
    /// What every caller must present. Without one the agent serves nothing but `/health` and `/init`.
    pub access_token: Option<AccessToken>,
    /// Environment of every process.
    pub env_vars: BTreeMap<String, String>,
    /// Who runs commands unless they say otherwise.
    pub default_user: Option<String>,
    /// Where commands run unless they say otherwise.
    pub default_workdir: Option<String>,
    /// Whether callers are served.
    pub door: Door,
}

/// Whether callers are served. Beside the token, so that a new token and the end of a seal are one write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Door {
    /// Those with the token.
    #[default]
    Open,
    /// Nobody: the guest is being copied, or is the copy.
    Sealed,
}

impl Sandbox {
    /// Who runs commands unless they say otherwise.
    pub fn default_user(&self) -> &str {
        self.default_user.as_deref().unwrap_or(guest::DEFAULT_USER)
    }
}

/// The sandbox's secret. Compared in constant time, never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessToken(String);

impl AccessToken {
    /// A token, unless it is empty: an empty one would match an empty header.
    pub fn new(token: String) -> Option<Self> {
        (!token.is_empty()).then_some(Self(token))
    }

    /// Whether `candidate` is this token.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// The secret itself, for the computation of signatures.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for AccessToken {}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// The state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the state file {}", path.display())]
pub struct StateError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// The current [`Sandbox`], in memory and on disk.
pub struct State {
    file: PathBuf,
    current: RwLock<Arc<Sandbox>>,
}

/// Whether this agent is the first of its boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// No agent ran before.
    First,
    /// An agent ran before and left its state.
    Again,
}

impl State {
    /// Loads the state of an earlier agent, or starts with none.
    ///
    /// # Errors
    /// If the file exists and cannot be read. To start without a token then would be to forget that there is one.
    pub fn load(file: PathBuf) -> Result<(Self, Start), StateError> {
        let failed = |source| StateError { action: "read", path: file.clone(), source };
        let (sandbox, start) = match fs::read(&file) {
            Ok(bytes) => (serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?, Start::Again),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Sandbox::default(), Start::First),
            Err(error) => return Err(failed(error)),
        };
        Ok((Self { file, current: RwLock::new(Arc::new(sandbox)) }, start))
    }

    /// The state now.
    pub fn current(&self) -> Arc<Sandbox> {
        // A panic while the lock is held cannot leave half a state: it is replaced as a whole.
        Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Replaces the state, on disk first.
    ///
    /// # Errors
    /// If the file cannot be written; the state is then as before.
    pub fn replace(&self, sandbox: Sandbox) -> Result<(), StateError> {
        write_durably(&self.file, &sandbox).map_err(|source| StateError {
            action: "write",
            path: self.file.clone(),
            source,
        })?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(sandbox);
        Ok(())
    }
}

fn write_durably(path: &Path, sandbox: &Sandbox) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    serde_json::to_writer(&mut file, sandbox)?;
    file.flush()?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn survives_a_restart_and_is_readable_by_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (state, start) = State::load(path.clone()).unwrap();
        assert_eq!(start, Start::First);
        assert!(state.current().access_token.is_none());

        let sandbox = Sandbox {
            access_token: AccessToken::new("secret".into()),
            env_vars: BTreeMap::from([("A".into(), "b".into())]),
            ..Sandbox::default()
        };
        state.replace(sandbox.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let (again, start) = State::load(path).unwrap();
        assert_eq!(start, Start::Again);
        assert!(*again.current() == sandbox);
    }

    #[test]
    fn a_broken_file_is_no_reason_to_forget_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, "{\"accessTok").unwrap();
        assert!(State::load(path).is_err());
    }

    #[test]
    fn an_empty_token_is_none() {
        assert!(AccessToken::new(String::new()).is_none());
        assert!(AccessToken::new("a".into()).unwrap().matches(b"a"));
        assert!(!AccessToken::new("a".into()).unwrap().matches(b""));
    }
}
