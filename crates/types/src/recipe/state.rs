//! What the steps of a recipe find: environment, folder and user, as those before have left them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FilesName, Step};

/// Where programs are, as long as nobody says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Who runs steps until `USER` says otherwise, and where: as in a Dockerfile.
const BUILDER: (&str, &str) = ("root", "/");

/// What commands of a sandbox have where they do not say otherwise. A template keeps it for its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    /// Environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working folder; none = the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// User; none = the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Where a recipe stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    defaults: Defaults,
}

/// What is to be done for a step, besides what it changes for those after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Run a shell line to its end.
    Run {
        /// The line.
        command: String,
        /// For at most this long.
        timeout: Option<Duration>,
    },
    /// Start a shell line, and leave it running.
    Start {
        /// The line.
        command: String,
    },
    /// Make a folder, unless it is there.
    MakeFolder {
        /// Where.
        path: String,
    },
    /// Copy files out of an archive.
    Copy {
        /// Which; none = nobody has said.
        files: Option<FilesName>,
        /// What of it.
        sources: Vec<String>,
        /// Where to: an absolute path, a folder where it ends in a slash.
        dest: String,
        /// Whose they are to be, `USER` or `USER:GROUP`.
        owner: String,
        /// Their permission bits, where they are said.
        mode: Option<u32>,
    },
}

impl State {
    /// Before the first step, on a base that has these.
    #[must_use]
    pub const fn new(defaults: Defaults) -> Self {
        Self { defaults }
    }

    /// Takes a step: what it changes counts from now on.
    pub fn take(&mut self, step: &Step) -> Action {
        match step {
            Step::Run { command, timeout } => Action::Run { command: command.clone(), timeout: *timeout },
            Step::Start { command } => Action::Start { command: command.clone() },
            Step::Env { variables } => {
                for (name, value) in variables {
                    let value = value.resolve(&self.known());
                    self.defaults.env.insert(name.clone(), value);
                }
                Action::None
            }
            Step::Workdir { path } => {
                let path = joined(self.workdir(), &path.resolve(&self.known()));
                self.defaults.workdir = Some(path.clone());
                Action::MakeFolder { path }
            }
            Step::User { name } => {
                self.defaults.user = Some(name.resolve(&self.known()));
                Action::None
            }
            Step::Copy { files, sources, dest, owner, mode } => {
                let known = self.known();
                let owner =
                    owner.as_ref().map_or_else(|| self.user().to_owned(), |owner| owner.resolve(&known));
                Action::Copy {
                    files: *files,
                    sources: sources.iter().map(|source| source.resolve(&known)).collect(),
                    dest: destination(&joined(self.workdir(), &dest.resolve(&known))),
                    owner,
                    mode: *mode,
                }
            }
        }
    }

    /// The variables that a step may name.
    fn known(&self) -> BTreeMap<String, String> {
        let mut known = self.defaults.env.clone();
        known.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
        known
    }

    /// The environment of a step.
    #[must_use]
    pub const fn env(&self) -> &BTreeMap<String, String> {
        &self.defaults.env
    }

    /// Where a step runs.
    #[must_use]
    pub fn workdir(&self) -> &str {
        self.defaults.workdir.as_deref().unwrap_or(BUILDER.1)
    }

    /// As whom.
    #[must_use]
    pub fn user(&self) -> &str {
        self.defaults.user.as_deref().unwrap_or(BUILDER.0)
    }

    /// What sandboxes of the template have.
    #[must_use]
    pub fn into_defaults(self) -> Defaults {
        self.defaults
    }
}

/// `path`, seen from `base`.
fn joined(base: &str, path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", base.trim_end_matches('/')) }
}

/// A destination that says that it is a folder ends in a slash.
fn destination(path: &str) -> String {
    match path.strip_suffix('.') {
        Some(folder) if folder.ends_with('/') => folder.to_owned(),
        _ if path.ends_with("/..") => format!("{path}/"),
        _ => path.to_owned(),
    }
}
