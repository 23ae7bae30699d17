//! Records set by a program of the operator's, called as lego calls those of its provider `exec`:
//!
//! ```text
//! PROGRAM present _acme-challenge.sbx.example.com. VALUE
//! PROGRAM cleanup _acme-challenge.sbx.example.com. VALUE
//! ```

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Of what it writes to standard error, the end that an error shows.
const SHOWN: usize = 400;

/// Why the program did not do it.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no program.
    #[error("{path} is not a program that can be run")]
    NoProgram {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be started.
    #[error("{path} cannot be started")]
    Start {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("`{path} {word} {name}` failed ({status}): {told}")]
    Failed {
        /// Which.
        path: PathBuf,
        /// What it was to do.
        word: &'static str,
        /// For which record.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        told: String,
    },
    /// It does not end.
    #[error("`{path} {word}` did not end within {} s, and was killed", LIMIT.as_secs())]
    TooSlow {
        /// Which.
        path: PathBuf,
        /// What it was to do.
        word: &'static str,
    },
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Hook {
    path: PathBuf,
}

impl Hook {
    /// The program must be there.
    pub fn new(path: &Path) -> Result<Self, HookError> {
        let usable = std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
        let absolute = std::path::absolute(path).ok().filter(|_| usable);
        let path = absolute.ok_or_else(|| HookError::NoProgram { path: path.to_owned() })?;
        Ok(Self { path })
    }

    pub(super) async fn present(&self, name: &Name, values: &[String]) -> Result<(), HookError> {
        for value in values {
            self.call("present", name, value).await?;
        }
        Ok(())
    }

    pub(super) async fn clean_up(&self, name: &Name, values: &[String]) -> Result<(), HookError> {
        for value in values {
            self.call("cleanup", name, value).await?;
        }
        Ok(())
    }

    async fn call(&self, word: &'static str, name: &Name, value: &str) -> Result<(), HookError> {
        let path = || self.path.clone();
        let mut command = Command::new(&self.path);
        command.args([word, &name.to_ascii(), value]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).kill_on_drop(true);
        // It has its provider's credentials from the environment; the platform's own are not its business.
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_some_and(|name| name.starts_with("SANDBAR_") || name == "DATABASE_URL") {
                command.env_remove(variable);
            }
        }
        let child = command.spawn().map_err(|source| HookError::Start { path: path(), source })?;
        let Ok(ended) = timeout(LIMIT, child.wait_with_output()).await else {
            return Err(HookError::TooSlow { path: path(), word });
        };
        let output = ended.map_err(|source| HookError::Start { path: path(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let end = output.stderr.len().saturating_sub(SHOWN);
        let told = String::from_utf8_lossy(&output.stderr[end..]).trim().to_owned();
        Err(HookError::Failed { path: path(), word, name: name.to_ascii(), status: output.status, told })
    }
}
