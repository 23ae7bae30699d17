//! `sandbar secret ...`: values that sandboxes are given as environment, and nobody reads again.

use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use clap::{Args, Subcommand};
use sandbar_types::{SecretName, limits};
use secrecy::SecretString;

use super::run::report;
use super::sandbox::print_json;
use super::{EndpointArgs, table};
use crate::client::{Client, Secret};

/// Keep secrets for sandboxes, list and delete them
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    Set(SetArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Make a secret, or give it another value, and print its name
///
/// The value is what standard input has, or a file; one line end after it is left out. It is no argument, since other programs of the machine may
/// read those. Nobody can read it again: `sandbar sandbox create --secret VARIABLE=NAME` gives it to a sandbox.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  printf %s \"$TOKEN\" | sandbar secret set github-token\n  \
    sandbar secret set deploy-key --from-file id_ed25519\n  sandbar run --secret GITHUB_TOKEN=github-token -- gh repo list")]
struct SetArgs {
    /// Its name: 1 to 128 letters, digits, dots, underscores or dashes; capital letters are taken as small ones
    #[arg(value_name = "NAME")]
    name: SecretName,

    /// Read the value from this file [default: standard input]
    #[arg(long, value_name = "PATH")]
    from_file: Option<PathBuf>,
}

/// List secrets, newest first, without their values
#[derive(Debug, Args)]
struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Delete secrets; sandboxes that were given them keep their copies
#[derive(Debug, Args)]
struct DeleteArgs {
    /// The secrets
    #[arg(value_name = "NAME", required = true)]
    names: Vec<SecretName>,
}

impl SecretArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.endpoint.client()?;
        match self.action {
            Action::Set(args) => set(&client, &args).await,
            Action::List(args) => list(&client, &args).await,
            Action::Delete(args) => Ok(delete(&client, &args).await),
        }
    }
}

async fn set(client: &Client, args: &SetArgs) -> anyhow::Result<ExitCode> {
    let value = match &args.from_file {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            value(file).with_context(|| format!("cannot use {}", path.display()))?
        }
        None => {
            ensure!(
                !io::stdin().is_terminal(),
                "what is typed here would be seen: give the value on standard input from a program or a file, or by --from-file"
            );
            value(io::stdin()).context("cannot use what standard input has")?
        }
    };
    println!("{}", client.set_secret(&args.name, &value).await?.name);
    Ok(ExitCode::SUCCESS)
}

/// Text without one line end after it.
fn value(from: impl Read) -> anyhow::Result<SecretString> {
    // One more than there may be, and a line end of two: what is too long is seen to be.
    let most = limits::SECRET_BYTES + 3;
    let mut text = String::new();
    from.take(most as u64).read_to_string(&mut text)?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    ensure!(
        (1..=limits::SECRET_BYTES).contains(&line.len()) && !line.contains('\0'),
        "a secret has between 1 and {} bytes, without NUL",
        limits::SECRET_BYTES
    );
    Ok(line.into())
}

async fn list(client: &Client, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let secrets = client.secrets().await?;
    if args.json {
        print_json(&secrets)?;
    } else {
        print!("{}", as_table(&secrets));
    }
    Ok(ExitCode::SUCCESS)
}

/// Goes on after a failure: the others are to be deleted all the same.
async fn delete(client: &Client, args: &DeleteArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match client.delete_secret(name).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                code = report(&anyhow::Error::from(error).context(format!("{name} could not be deleted")), 1);
            }
        }
    }
    code
}

fn as_table(secrets: &[Secret]) -> String {
    let now = Utc::now();
    let row = |secret: &Secret| {
        [
            secret.name.clone(),
            secret.version.to_string(),
            table::age(secret.updated_at, now),
            secret.creator_email.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    table::render(["NAME", "VERSION", "SET", "MADE BY"], &secrets.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn one_line_end_is_left_out_and_nothing_else() {
        for (given, kept) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a \nb", " a \nb")]
        {
            assert_eq!(value(given.as_bytes()).unwrap().expose_secret(), kept);
        }
        let longest = "x".repeat(limits::SECRET_BYTES);
        assert_eq!(value(format!("{longest}\r\n").as_bytes()).unwrap().expose_secret(), longest);
        for bad in ["", "\n", "a\0b", &format!("{longest}x")] {
            assert!(value(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(value(&[0xff][..]).is_err());
    }
}
