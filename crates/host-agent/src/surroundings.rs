//! What commands in a sandbox find that do not say otherwise: environment, secrets, user, folder. A record has it, and so has what is kept of
//! a sandbox; a template is not told the secrets.

use std::fmt;

use sandbar_storage::TemplateSpec;
use sandbar_types::guest::DEFAULT_USER;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::guest::Defaults;

/// What commands in a guest have that do not say otherwise. A guest's memory holds it; one that boots has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    pub(crate) env: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub(crate) secrets: Secrets,
    /// None: the usual one.
    pub(crate) user: Option<String>,
    /// None: the user's home.
    pub(crate) workdir: Option<String>,
}

/// Environment whose values are nobody's to see. Where they are written down at all, the file is its owner's alone to read.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secrets(Vec<(String, String)>);

impl Secrets {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, String)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Whose a copy of a sandbox is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyOf {
    /// The sandbox itself, elsewhere, or its children: they have its secrets.
    Sandbox,
    /// Whoever may use the template. What the guest itself made of its secrets is in its memory and on its disk.
    Template,
}

impl Surroundings {
    /// Whose commands are run as whom, and where, in a guest that has just booted.
    pub(crate) fn defaults(&self) -> Defaults<'_> {
        Defaults {
            user: Some(self.user.as_deref().unwrap_or(DEFAULT_USER)),
            workdir: self.workdir.as_deref(),
        }
    }

    /// What the guest in a machine's memory was told, where its maker says so.
    pub(crate) fn in_memory_of(machine: &TemplateSpec) -> Result<Self, Error> {
        let Some(told) = &machine.surroundings else { return Ok(Self::default()) };
        Self::deserialize(told).map_err(Error::internal("read what the guest was told"))
    }

    /// As a copy is told of it.
    pub(crate) fn to_json(&self, of: CopyOf) -> serde_json::Value {
        match of {
            CopyOf::Sandbox => serde_json::json!(self),
            CopyOf::Template => serde_json::json!(Self { secrets: Secrets::default(), ..self.clone() }),
        }
    }

    /// The environment, as a guest is told of it.
    pub(crate) fn env(&self) -> Vec<(&str, &str)> {
        let Secrets(secrets) = &self.secrets;
        // Of two of one name the later counts.
        self.env.iter().chain(secrets).map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}
