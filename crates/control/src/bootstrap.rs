//! What a new installation needs: the platform team, its first person and key, and the `base` template.

use sandbar_store::StoreError;
use sandbar_store::api_keys::NewApiKeyRow;
use sandbar_store::templates::{CompleteTemplate, NewTemplateRow};
use sandbar_types::id::{Host, Team, Template, User};
use sandbar_types::{Id, TemplateKind, TemplateName, limits};
use secrecy::{ExposeSecret as _, SecretString};

use crate::auth::{is_api_key, new_api_key, shown_prefix};
use crate::host_client::{HostError as HostCallError, TemplateSize};
use crate::people::{NewAccount, PeopleError, check_email};
use crate::secrets::{random_token, token_hash};
use crate::{Control, OpContext};

/// The platform's template, and the image that it is made of.
pub(crate) const BASE: &str = "base";

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
    /// The base template's name is not one.
    #[error("{BASE:?} is not a template's name")]
    Name,
    /// The account could not be made.
    #[error("the account could not be made")]
    Account(#[from] PeopleError),
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
        Self { password: random_token::<12>(""), api_key: new_api_key() }
    }
}

impl Control {
    /// Whether anybody has an account.
    pub async fn has_users(&self) -> Result<bool, BootstrapError> {
        Ok(self.store().users_exist().await?)
    }

    /// Makes the first person (administrator of the platform), their team and an API key, in one transaction. None when anybody
    /// has an account already: then nothing is changed.
    pub async fn first_run(
        &self,
        email: &str,
        team_name: &str,
        secrets: &FirstRunSecrets,
    ) -> Result<Option<FirstRun>, BootstrapError> {
        let name = display_name(email).ok_or_else(|| BootstrapError::Email { email: email.to_owned() })?;
        let FirstRunSecrets { password, api_key } = secrets;
        if !is_api_key(api_key.expose_secret()) {
            return Err(BootstrapError::ApiKey);
        }
        if self.has_users().await? {
            return Ok(None);
        }
        let password_hash = self.passwords().hash(password.clone()).await?;
        let mut tx = self.store().begin().await?;
        if tx.users_exist_locked().await? {
            return Ok(None);
        }
        let account = NewAccount { email, name, password_hash: Some(&password_hash), team_name };
        let (user_id, team_id) = self.account_insert(&mut tx, &OpContext::system(), &account, true).await?;
        tx.api_key_insert(&NewApiKeyRow {
            id: Id::new(),
            team_id,
            name: "first key",
            key_hash: &token_hash(api_key),
            key_prefix: shown_prefix(api_key.expose_secret()),
            created_by: Some(user_id),
            expires_at: None,
        })
        .await?;
        tx.commit().await?;
        Ok(Some(FirstRun { user_id, team_id }))
    }

    /// Makes sure that a host has the platform's template `base`, asking the host itself what it has. The template's id is decided
    /// before the host is asked to make it, and making is idempotent by id: this may be repeated after an end at any moment.
    pub async fn ensure_base_template(&self, host: Id<Host>) -> Result<Id<Template>, BootstrapError> {
        let row = self.store().host_find(host).await?;
        let (arch, vmm, address) = row
            .and_then(|row| Some((row.arch?, row.vmm?, row.address?)))
            .ok_or(BootstrapError::NoHost { id: host })?;
        let name: TemplateName = BASE.parse().map_err(|_| BootstrapError::Name)?;
        let reserved = NewTemplateRow {
            id: Id::new(),
            team_id: Id::PLATFORM,
            name: &name,
            kind: TemplateKind::Snapshot,
            vcpus: limits::DEFAULT_VCPUS,
            memory_mb: limits::DEFAULT_MEMORY_MB,
            arch,
            vmm,
        };
        let mut tx = self.store().begin().await?;
        let id = tx.template_reserve(&reserved).await?;
        tx.commit().await?;

        let client = self.host_clients().get(host, &address);
        let failed = |source| BootstrapError::Template { id: host, source };
        // The host makes it only where it has none, or none that is as it would make it now: after an upgrade of the guest's
        // kernel or agent, of the image or of the VMM.
        let size = TemplateSize { vcpus: reserved.vcpus, memory_mb: reserved.memory_mb };
        let limit = self.config().template_deadline;
        let template = client.create_template(id, BASE, size, limit).await.map_err(failed)?;
        let complete = CompleteTemplate {
            vcpus: template.vcpus,
            memory_mb: template.memory_mb,
            disk_mb: template.disk_mb,
            size_bytes: template.size_bytes,
            compatibility: &template.compatibility,
        };
        let mut tx = self.store().begin().await?;
        tx.template_complete(id, host, &complete).await?;
        tx.commit().await?;
        Ok(id)
    }
}

/// What to call a person of whom only the address is known. None when it is no address.
fn display_name(email: &str) -> Option<&str> {
    check_email(email).ok()?;
    email.split('@').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_a_name_and_garbage_none() {
        assert_eq!(display_name("admin@localhost"), Some("admin"));
        for bad in ["", "admin", "@x", "a@", "a@b@c", "a b@c", &format!("{}@x", "a".repeat(65))] {
            assert_eq!(display_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn generated_secrets_differ_and_are_long_enough() {
        let (a, b) = (FirstRunSecrets::generate(), FirstRunSecrets::generate());
        assert_ne!(a.password.expose_secret(), b.password.expose_secret());
        assert!(a.password.expose_secret().len() >= 16);
        assert!(is_api_key(a.api_key.expose_secret()));
    }
}
