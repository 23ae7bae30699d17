//! What `/init` set: the token, the environment and the defaults. Kept in a file, so that an agent that init had to
//! restart serves on under the same token.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

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

/// The current [`Sandbox`], in memory and in a file.
///
/// The file is on a tmpfs: it is to survive the agent, not the machine, so there is nothing to sync. It stays open and is written in
/// place, since making a file and renaming it is the dearest part of `/init` under emulation, and every restore waits for that.
/// Up to a page this is as good: the kernel writes a page whole, whatever kills the process meanwhile.
pub struct State {
    path: PathBuf,
    file: Mutex<File>,
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
    pub fn load(path: PathBuf) -> Result<(Self, Start), StateError> {
        let failed = |source| StateError { action: "read", path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(failed)?;
        let (sandbox, start) = if content.is_empty() {
            (Sandbox::default(), Start::First)
        } else {
            (serde_json::from_slice(&content).map_err(|e| failed(e.into()))?, Start::Again)
        };
        Ok((Self { path, file: Mutex::new(file), current: RwLock::new(Arc::new(sandbox)) }, start))
    }

    /// The state now.
    pub fn current(&self) -> Arc<Sandbox> {
        // A panic while the lock is held cannot leave half a state: it is replaced as a whole.
        Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Replaces the state, in the file first.
    ///
    /// # Errors
    /// If the file cannot be written; the state is then as before.
    pub fn replace(&self, sandbox: Sandbox) -> Result<(), StateError> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        write(&mut file, &self.path, &sandbox).map_err(|source| StateError {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(sandbox);
        Ok(())
    }
}

/// Writes over what is there with one system call, where both fit a page; else a new file takes its place.
fn write(file: &mut File, path: &Path, sandbox: &Sandbox) -> io::Result<()> {
    const PAGE: usize = 4096;
    let mut content = serde_json::to_vec(sandbox)?;
    let before = file.metadata()?.len();
    if content.len() <= PAGE && before <= PAGE as u64 {
        // Blanks over the rest of what was longer: JSON ends where it ends.
        content.resize(content.len().max(usize::try_from(before).unwrap_or_default()), b' ');
        return file.write_all_at(&content, 0);
    }
    let temporary = path.with_extension("tmp");
    let mut new =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    new.write_all(&content)?;
    fs::rename(&temporary, path)?;
    *file = new;
    Ok(())
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

        // Shorter than before, longer than a page, and back: whatever the way of writing, the last one counts.
        for length in [100, 10, 5000, 9000, 20] {
            let env_vars = BTreeMap::from([("A".into(), "b".repeat(length))]);
            let sandbox = Sandbox { env_vars, ..sandbox.clone() };
            state.replace(sandbox.clone()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let (again, start) = State::load(path.clone()).unwrap();
            assert_eq!(start, Start::Again);
            assert!(*again.current() == sandbox, "{length}");
        }
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
