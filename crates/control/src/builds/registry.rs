//! Credentials for the registry of a build's image: sealed while the build waits and runs, gone when it has ended, and told to nobody but the host
//! that imports the image.

use sandbar_store::builds::Claim;
use sandbar_types::Id;
use sandbar_types::id::Build;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::BuildError;
use super::course::Broken;
use crate::Control;
use crate::host_client::RegistryCredentials;

/// Longest name and password: some registries take a document for one.
const USERNAME_BYTES: usize = 512;
const PASSWORD_BYTES: usize = 16 * 1024;

/// What is sealed.
#[derive(Serialize)]
struct Deposit<'a> {
    username: &'a str,
    password: &'a str,
}

/// The same, opened.
#[derive(Deserialize)]
struct Opened {
    username: String,
    password: SecretString,
}

impl Control {
    /// Seals what a build is given.
    pub(super) fn registry_seal(
        &self,
        build: Id<Build>,
        credentials: &RegistryCredentials,
    ) -> Result<Vec<u8>, BuildError> {
        let RegistryCredentials { username, password } = credentials;
        let password = password.expose_secret();
        let fits = (1..=USERNAME_BYTES).contains(&username.len())
            && (1..=PASSWORD_BYTES).contains(&password.len())
            && !username.contains([':', '\0']);
        let deposit = serde_json::to_vec(&Deposit { username, password });
        match deposit {
            Ok(deposit) if fits => Ok(self.deposit_key().seal(build, &deposit)),
            _ => Err(BuildError::Registry),
        }
    }

    /// What a build was given.
    pub(super) async fn registry_open(&self, claim: Claim) -> Result<Option<RegistryCredentials>, Broken> {
        let Some(sealed) = self.store().build_registry(claim).await? else { return Ok(None) };
        let lost = || Broken::Failed("its registry's credentials cannot be read: build again".to_owned());
        let opened = self.deposit_key().open(claim.build, &sealed).map_err(|error| {
            tracing::error!(build = %claim.build, error = &error as &dyn std::error::Error, "a deposit does not open");
            lost()
        })?;
        let Opened { username, password } = serde_json::from_slice(&opened).map_err(|_| lost())?;
        Ok(Some(RegistryCredentials { username, password }))
    }
}
