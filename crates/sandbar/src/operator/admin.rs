//! `sandbar admin`: who administers the platform, what teams may have, and a way back in for who lost theirs.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sandbar_control::people::PlatformRole;
use sandbar_control::quotas::{NewLimit, Quota};
use sandbar_control::{Control, OpContext};
use sandbar_types::{Id, PerResource, Resource, id};
use secrecy::{ExposeSecret as _, SecretString};

use super::DatabaseArgs;

/// Bytes of a password that is made here, in hexadecimal.
const PASSWORD_BYTES: usize = 12;

/// Decide who administers the platform and what teams may have, or give somebody another password
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
    /// Show what a team may have and has, or set it; without a restart, and nothing that runs is ended
    Quota(QuotaArgs),
    /// Sign tokens with a new key from now on; nobody is signed out
    RotateTokenKey,
}

#[derive(Debug, Args)]
struct Who {
    /// The address that they sign in with
    email: String,
}

/// A limit to set: a number, or `default` for the platform's.
#[derive(Debug, Clone, Copy)]
struct Limit(NewLimit);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self(NewLimit::Default)),
            number => {
                number.parse().map(|limit| Self(NewLimit::At(limit))).map_err(|_| "a number, or `default`")
            }
        }
    }
}

#[derive(Debug, Args)]
struct QuotaArgs {
    /// The team's id, team-...
    team: Id<id::Team>,

    /// Sandboxes that run, or are about to
    #[arg(long, value_name = "N|default")]
    sandboxes: Option<Limit>,

    /// Virtual CPUs of those
    #[arg(long, value_name = "N|default")]
    vcpus: Option<Limit>,

    /// Memory of those, in MiB
    #[arg(long, value_name = "N|default")]
    memory_mb: Option<Limit>,

    /// Snapshots
    #[arg(long, value_name = "N|default")]
    snapshots: Option<Limit>,

    /// Builds of templates that wait or run
    #[arg(long, value_name = "N|default")]
    builds: Option<Limit>,

    /// Secrets
    #[arg(long, value_name = "N|default")]
    secrets: Option<Limit>,

    /// Volumes
    #[arg(long, value_name = "N|default")]
    volumes: Option<Limit>,

    /// What these may hold together, in MiB
    #[arg(long, value_name = "N|default")]
    volume_mb: Option<Limit>,
}

impl QuotaArgs {
    async fn run(self, control: &Control, ctx: &OpContext) -> anyhow::Result<()> {
        let Self { team, sandboxes, vcpus, memory_mb, snapshots, builds, secrets, volumes, volume_mb } = self;
        let new = |limit: Option<Limit>| limit.map_or(NewLimit::Kept, |limit| limit.0);
        let new = PerResource {
            sandboxes: new(sandboxes),
            vcpus: new(vcpus),
            memory_mb: new(memory_mb),
            snapshots: new(snapshots),
            builds: new(builds),
            secrets: new(secrets),
            volumes: new(volumes),
            volume_mb: new(volume_mb),
        };
        let quotas = control.admin_set_team_quotas(ctx, team, &new).await?;
        for resource in Resource::ALL {
            let Quota { set, used, .. } = quotas.of(resource);
            // The default is the running platform's to know.
            let limit = set.map_or_else(|| "default".to_owned(), |limit| limit.to_string());
            println!("{:<10} {used:>10} of {limit}", resource.as_str());
        }
        Ok(())
    }
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
            AdminCommand::Quota(args) => args.run(&control, &ctx).await?,
            AdminCommand::RotateTokenKey => {
                control.rotate_token_key(&ctx).await?;
                println!("Tokens are signed with a new key.");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
