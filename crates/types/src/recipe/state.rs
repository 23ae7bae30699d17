//! What the steps of a recipe find: environment, folder and user, as those before have left them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FilesName, Step};
use crate::words::words;

/// Where programs are, as long as nobody says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const ROOT: &str = "root";
/// Who everybody is, in the guest, who does not say.
const GUEST_USER: &str = "user";

words! {
    /// Whose words a build's steps are: what they find where nobody has said otherwise.
    Dialect {
        /// A recipe's: root in `/`, as in a Dockerfile.
        Recipe = "recipe",
        /// E2B's: the user `user`, each user in their home.
        E2b = "e2b",
    }
}

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
    dialect: Dialect,
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
        /// As whom, where that is not the state's user.
        user: Option<String>,
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
        /// Whose it is if it is made.
        owner: String,
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
    pub const fn new(dialect: Dialect, defaults: Defaults) -> Self {
        Self { defaults, dialect }
    }

    /// Takes a step: what it changes counts from now on.
    pub fn take(&mut self, step: &Step) -> Action {
        match step {
            Step::Run { command, timeout, user } => {
                Action::Run { command: command.clone(), timeout: *timeout, user: user.clone() }
            }
            Step::Start { command } => Action::Start { command: command.clone() },
            Step::Env { variables } => {
                for (name, value) in variables {
                    let value = value.resolve(&self.known());
                    self.defaults.env.insert(name.clone(), value);
                }
                Action::None
            }
            Step::Workdir { path } => {
                let path = joined(&self.folder(), &path.resolve(&self.known()));
                self.defaults.workdir = Some(path.clone());
                let owner = match self.dialect {
                    Dialect::Recipe => ROOT,
                    Dialect::E2b => self.user(),
                };
                Action::MakeFolder { path, owner: owner.to_owned() }
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
                    dest: destination(&joined(&self.folder(), &dest.resolve(&known))),
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
        if self.dialect == Dialect::E2b {
            known.entry("HOME".to_owned()).or_insert_with(|| self.home());
        }
        known
    }

    /// The environment of a step.
    #[must_use]
    pub const fn env(&self) -> &BTreeMap<String, String> {
        &self.defaults.env
    }

    /// Where a step runs; none = in its user's home.
    #[must_use]
    pub fn workdir(&self) -> Option<&str> {
        let unsaid = match self.dialect {
            Dialect::Recipe => Some("/"),
            Dialect::E2b => None,
        };
        self.defaults.workdir.as_deref().or(unsaid)
    }

    /// As whom.
    #[must_use]
    pub fn user(&self) -> &str {
        self.defaults.user.as_deref().unwrap_or(match self.dialect {
            Dialect::Recipe => ROOT,
            Dialect::E2b => GUEST_USER,
        })
    }

    /// What relative paths are seen from.
    fn folder(&self) -> String {
        self.workdir().map_or_else(|| self.home(), str::to_owned)
    }

    /// Where users have theirs.
    fn home(&self) -> String {
        match self.user() {
            ROOT => "/root".to_owned(),
            user => format!("/home/{user}"),
        }
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
