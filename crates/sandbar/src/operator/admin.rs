//! `sandbar admin`: who administers the platform, and a way back in for who lost theirs.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sandbar_control::OpContext;
use sandbar_control::people::PlatformRole;
use secrecy::{ExposeSecret as _, SecretString};

use super::DatabaseArgs;

/// Bytes of a password that is made here, in hexadecimal.
const PASSWORD_BYTES: usize = 12;

/// Decide who administers the platform, or give somebody another password
///
/// For the operator, on the platform's machine: goes to its database.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,

    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Make somebody an administrator of the platform
    Grant(Who),
    /// End that; one administrator is always left
    Revoke(Who),
    /// Give somebody a new password, which is printed, and end all their sign-ins
    ResetPassword(Who),
    /// Sign tokens with a new key from now on; nobody is signed out
    RotateTokenKey,
}

#[derive(Debug, Args)]
struct Who {
    /// The address that they sign in with
    email: String,
}

impl AdminArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let control = self.database.control().await?;
        let ctx = OpContext::system();
        let find = async |email: &str| {
            let found = control.user_by_email(&ctx, email).await;
            found.map(|user| user.id).with_context(|| email.to_owned())
        };
        match self.command {
            AdminCommand::Grant(Who { email }) => {
                control.user_set_platform_role(&ctx, find(&email).await?, PlatformRole::Admin).await?;
                println!("{email} administers the platform.");
            }
            AdminCommand::Revoke(Who { email }) => {
                control.user_set_platform_role(&ctx, find(&email).await?, PlatformRole::None).await?;
                println!("{email} does not administer the platform.");
            }
            AdminCommand::ResetPassword(Who { email }) => {
                let user = find(&email).await?;
                let mut bytes = [0; PASSWORD_BYTES];
                getrandom::fill(&mut bytes).context("no random bytes")?;
                let password = SecretString::from(hex::encode(bytes));
                control.user_reset_password(&ctx, user, &password).await?;
                println!("{}", password.expose_secret());
                eprintln!("That is the password of {email} now; all their sign-ins are ended.");
            }
            AdminCommand::RotateTokenKey => {
                control.rotate_token_key(&ctx).await?;
                println!("Tokens are signed with a new key.");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
