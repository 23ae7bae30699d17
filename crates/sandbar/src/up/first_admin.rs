//! The first admin, team and API key of a new installation.
//!
//! The secrets are on the disk before the database has them. A kill in between is repaired by the next start, which finds the
//! file and a database without users, and uses the file's secrets.

use anyhow::Context as _;
use sandbar_control::Control;
use sandbar_control::bootstrap::FirstRunSecrets;

use crate::data_dir::DataDir;
use crate::first_run::FirstRunFile;

/// Name of the first team.
const TEAM_NAME: &str = "Default";

/// Makes them unless there are users; gives what the first user needs, where this machine knows it.
pub(super) async fn ensure(
    data: &DataDir,
    control: &Control,
    url: &str,
    email: &str,
) -> anyhow::Result<Option<FirstRunFile>> {
    let path = data.first_run();
    let found = FirstRunFile::read(&path)?;
    if control.has_users().await? {
        // The address may be another one this time.
        return match found {
            Some(file) if file.url != url => {
                let file = FirstRunFile { url: url.to_owned(), ..file };
                file.write(&path)?;
                Ok(Some(file))
            }
            found => Ok(found),
        };
    }
    let file = match found {
        Some(file) => FirstRunFile { url: url.to_owned(), ..file },
        None => {
            let FirstRunSecrets { password, api_key } = FirstRunSecrets::generate();
            FirstRunFile { url: url.to_owned(), email: email.to_owned(), password, api_key }
        }
    };
    file.write(&path)?;
    let secrets = FirstRunSecrets { password: file.password.clone(), api_key: file.api_key.clone() };
    let made = control.first_run(&file.email, TEAM_NAME, &secrets).await;
    // `None`: another replica on the same database was first, and its file has the secrets that count.
    match made.context("cannot make the first admin")? {
        Some(_) => Ok(Some(file)),
        None => {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            Ok(None)
        }
    }
}
