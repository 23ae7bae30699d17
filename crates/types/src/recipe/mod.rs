//! Recipes: what a template is built of. Lines of text in, steps out; nothing here runs anything.
//!
//! ```text
//!   FROM base                     what the build starts from: a template, a registry's image, or one in an archive (./image.tar)
//!   # a comment
//!   RUN --timeout=5m make all     a shell line, as is any line that begins with no word of ours
//!   RUN --user=root id            as somebody else than the other steps
//!   apt-get install -y \
//!       git                       goes on where a line ends in a backslash
//!   ENV NAME="two words" B=$NAME  for all that follows, and for sandboxes made of the template
//!   WORKDIR src                   the same; relative to the one before
//!   USER app                      the same
//!   COPY --chown=app src *.toml app/   files that the client brought; a folder is what is in it
//!   START server --port 8000      a process that goes on, and lives in the template
//! ```
//!
//! A Dockerfile of these is a recipe. What of one changes nothing in a template (`EXPOSE`, `LABEL`, `MAINTAINER`) is passed over, and
//! what cannot be done is refused with its line.
//!
//! - `parse.rs`: from text, with the numbers of lines. [`Recipe`]'s `Display` is the way back.
//! - `base.rs`: what a build starts from.
//! - `value.rs`: quoting and variables.
//! - `files.rs`, `pattern.rs`: the archives that `COPY` copies from, what of them it means, and where that goes.
//! - `state.rs`: what environment, folder and user a step finds.
//! - `e2b.rs`: the steps of E2B's template builder, which come as words and not as text.

mod base;
mod e2b;
mod files;
mod parse;
mod pattern;
mod state;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use base::{Base, Origin, UnknownBase};
pub use e2b::E2bFault;
pub use files::{FilesName, InvalidFilesName};
pub use parse::{MAX_STEPS, RecipeError, RecipeFault};
pub use pattern::{Outside, Pattern, Placed, name_matches};
pub use state::{Action, Defaults, Dialect, State};
pub use value::{Part, Value};

/// A recipe that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What it starts from, where it says so.
    pub from: Option<Origin>,
    /// In order.
    pub steps: Vec<Step>,
}

/// One step. Written as JSON it is the same when it is read again, whatever is in it; as a line, if a line can say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A shell line, to its end.
    Run {
        /// The line.
        command: String,
        /// After this long it is killed, and the build has failed; in whole seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<Duration>,
        /// As whom, where that is not who the steps before have said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// A shell line that goes on in the background.
    Start {
        /// The line.
        command: String,
    },
    /// Variables of the environment.
    Env {
        /// In order: a later one may name an earlier.
        variables: Vec<(String, Value)>,
    },
    /// The working folder, which is made.
    Workdir {
        /// Where it is, relative to the one before.
        path: Value,
    },
    /// Whose rights apply.
    User {
        /// The name.
        name: Value,
    },
    /// Files out of an archive.
    Copy {
        /// Which; none = the build's.
        files: Option<FilesName>,
        /// What of it, at least one: [`Pattern`]s.
        sources: Vec<Value>,
        /// Where to: relative to the working folder, a folder where it ends in a slash.
        dest: Value,
        /// Whose they are to be, `USER` or `USER:GROUP`; none = that of the user whose rights apply.
        owner: Option<Value>,
        /// Their permission bits; none = as they are in the archive.
        mode: Option<u32>,
    },
}

impl Recipe {
    /// Has every `COPY` that does not name its archive take its files from this one.
    #[must_use]
    pub fn with_files(mut self, of_build: Option<FilesName>) -> Self {
        for step in &mut self.steps {
            if let Step::Copy { files: files @ None, .. } = step {
                *files = of_build;
            }
        }
        self
    }

    /// The archives that it copies from, as far as they are named, and whether all are.
    #[must_use]
    pub fn files(&self) -> (BTreeSet<FilesName>, bool) {
        let named = self.steps.iter().filter_map(|step| match step {
            Step::Copy { files, .. } => Some(*files),
            _ => None,
        });
        (named.clone().flatten().collect(), named.clone().all(|files| files.is_some()))
    }

    /// Its lines, one for each step, such that they are read as the same recipe.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let from = self.from.iter().map(|origin| format!("FROM {origin}"));
        from.chain(self.steps.iter().map(ToString::to_string)).collect()
    }
}

impl Step {
    /// As its author reads it: without the name of the archive that it copies from.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Copy { sources, dest, owner, mode, .. } => {
                let (sources, dest, owner) = (sources.clone(), dest.clone(), owner.clone());
                Self::Copy { files: None, sources, dest, owner, mode: *mode }.to_string()
            }
            step => step.to_string(),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { command, timeout, user } => {
                f.write_str("RUN ")?;
                if let Some(timeout) = timeout {
                    write!(f, "--timeout={}s ", timeout.as_secs())?;
                }
                if let Some(user) = user {
                    write!(f, "--user={user} ")?;
                }
                f.write_str(command)
            }
            Self::Start { command } => write!(f, "START {command}"),
            Self::Env { variables } => {
                f.write_str("ENV")?;
                variables.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Self::Workdir { path } => write!(f, "WORKDIR {path}"),
            Self::User { name } => write!(f, "USER {name}"),
            Self::Copy { files, sources, dest, owner, mode } => {
                f.write_str("COPY")?;
                files.iter().try_for_each(|files| write!(f, " --files={files}"))?;
                owner.iter().try_for_each(|owner| write!(f, " --chown={owner}"))?;
                mode.iter().try_for_each(|mode| write!(f, " --chmod={mode:04o}"))?;
                sources.iter().try_for_each(|source| write!(f, " {source}"))?;
                write!(f, " {dest}")
            }
        }
    }
}
