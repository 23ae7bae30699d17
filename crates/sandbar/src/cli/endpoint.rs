//! Which platform to speak to, and with which key.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use secrecy::SecretString;

use crate::client::Client;
use crate::data_dir::{self, DataDir};
use crate::first_run::FirstRunFile;

/// Options that every user's command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct EndpointArgs {
    /// Address of the platform, such as https://sandbar.example.com
    ///
    /// Without it, that of the `sandbar up` of this machine.
    #[arg(long, env = "SANDBAR_URL", value_name = "URL", global = true)]
    url: Option<String>,

    /// API key (better given in the environment than in the arguments, which other users can see)
    ///
    /// Without it, that which the `sandbar up` of this machine made at its first start; only root can read that one.
    #[arg(long, env = "SANDBAR_API_KEY", value_name = "KEY", hide_env_values = true, global = true)]
    api_key: Option<String>,

    /// Data folder of the `sandbar up` of this machine
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "FOLDER", default_value = data_dir::DEFAULT, global = true)]
    data_dir: PathBuf,
}

impl EndpointArgs {
    /// Reads the first run's file only for what was not given.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let (url, key) = match (&self.url, &self.api_key) {
            (Some(url), Some(key)) => (url.clone(), SecretString::from(key.as_str())),
            (Some(_), None) => {
                // A key goes only to the platform that made it.
                bail!("no API key: with --url or SANDBAR_URL, give the platform's key in SANDBAR_API_KEY");
            }
            (None, key) => {
                let file = self.first_run()?;
                let key = key.as_deref().map_or(file.api_key, SecretString::from);
                (file.url, key)
            }
        };
        Ok(Client::new(&url, key)?)
    }

    /// A client that acts for a person: by the token of a sign-in; without one, by signing in as the first person of the platform of
    /// this machine. Whether that was done.
    pub(crate) async fn person(&self, token: Option<&str>) -> anyhow::Result<(Client, SignedIn)> {
        match (&self.url, token) {
            (Some(url), Some(token)) => Ok((Client::signed_in(url, token.into())?, SignedIn::Before)),
            (Some(_), None) => {
                bail!(
                    "this is for people, not for keys: with --url or SANDBAR_URL, give the token of a sign-in in SANDBAR_TOKEN"
                )
            }
            (None, Some(token)) => {
                Ok((Client::signed_in(&self.first_run()?.url, token.into())?, SignedIn::Before))
            }
            (None, None) => {
                let file = self.first_run()?;
                let client = Client::sign_in(&file.url, &file.email, &file.password).await.context(
                    "cannot sign in with the password of the first start: give the token of a sign-in in SANDBAR_TOKEN",
                )?;
                Ok((client, SignedIn::Here))
            }
        }
    }

    fn first_run(&self) -> anyhow::Result<FirstRunFile> {
        let path = DataDir::at(&self.data_dir).first_run();
        let file = FirstRunFile::read(&path).context(
            "no platform to speak to: set SANDBAR_URL and SANDBAR_API_KEY, or run this as root on the machine that runs `sandbar up`",
        )?;
        file.with_context(|| {
            format!(
                "no platform to speak to: {} does not exist. Start one on this machine with `sandbar up` (with another \
                 --data-dir: name it), or set SANDBAR_URL and SANDBAR_API_KEY",
                path.display()
            )
        })
    }
}

/// Where a sign-in began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignedIn {
    /// Elsewhere: it is not ours to end.
    Before,
    /// By this command.
    Here,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: Option<&str>, api_key: Option<&str>, data_dir: &std::path::Path) -> EndpointArgs {
        EndpointArgs {
            url: url.map(Into::into),
            api_key: api_key.map(Into::into),
            data_dir: data_dir.to_owned(),
        }
    }

    #[test]
    fn a_key_is_never_sent_to_a_platform_that_did_not_make_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = FirstRunFile {
            url: "http://127.0.0.1:8080".into(),
            email: "admin@sandbar.local".into(),
            password: "secret".into(),
            api_key: "e2b_local".into(),
        };
        assert!(args(None, None, folder.path()).client().unwrap_err().to_string().contains("sandbar up"));
        file.write(&folder.path().join("first-run.json")).unwrap();
        assert!(args(None, None, folder.path()).client().is_ok());
        assert!(args(None, Some("e2b_other"), folder.path()).client().is_ok());
        let error = args(Some("http://example.com"), None, folder.path()).client().unwrap_err();
        assert!(error.to_string().contains("SANDBAR_API_KEY"), "{error}");
        let error = args(Some("example.com"), Some("e2b_other"), folder.path()).client().unwrap_err();
        assert!(error.to_string().contains("http://"), "{error}");
    }
}
