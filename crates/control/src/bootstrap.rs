//! What a new installation needs: the platform team, its first person and key, and the `base` template.

use sandbar_store::StoreError;
use sandbar_types::Id;
use sandbar_types::id::{Host, Team, Template, User};
use secrecy::SecretString;

use crate::host_client::HostError as HostCallError;
use crate::Control;

/// Secrets of a first run, made before anything is written, so that the caller can keep them before they count.
#[derive(Debug, Clone)]
pub struct FirstRunSecrets {
    /// The first person's password.
    pub password: SecretString,
    /// The first API key.
    pub api_key: SecretString,
}

/// What the first run made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstRun {
    /// The first person, who administers the platform.
    pub user_id: Id<User>,
    /// Their team.
    pub team_id: Id<Team>,
}

/// Why a new installation could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Not an e-mail address.
    #[error("{email:?} is not an e-mail address")]
    Email {
        /// What was given.
        email: String,
    },
    /// A key that is not one of ours.
    #[error("the API key does not have the form of one")]
    ApiKey,
    /// The password could not be hashed.
    #[error("the password could not be hashed")]
    Hash,
    /// The host is unknown or has not registered.
    #[error("host {id} has not registered")]
    NoHost {
        /// Which.
        id: Id<Host>,
    },
    /// The host could not make the template.
    #[error("host {id} could not make the base template: {}", .source.agent_message())]
    Template {
        /// Which.
        id: Id<Host>,
        /// Why.
        #[source]
        source: HostCallError,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl FirstRunSecrets {
    /// New random secrets.
    #[must_use]
    pub fn generate() -> Self {
        unimplemented!()
    }
}

impl Control {
    /// Whether anybody has an account.
    pub async fn has_users(&self) -> Result<bool, BootstrapError> {
        unimplemented!()
    }

    /// Makes the first person (administrator of the platform), their team and an API key, in one transaction. None when anybody
    /// has an account already: then nothing is changed.
    pub async fn first_run(
        &self,
        email: &str,
        team_name: &str,
        secrets: &FirstRunSecrets,
    ) -> Result<Option<FirstRun>, BootstrapError> {
        unimplemented!()
    }

    /// Makes sure that a host has the platform's template `base`. May be repeated after an end at any moment.
    pub async fn ensure_base_template(&self, host: Id<Host>) -> Result<Id<Template>, BootstrapError> {
        unimplemented!()
    }
}
