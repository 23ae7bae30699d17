//! Commands for whoever operates the platform, on its machine: they go to the database, not through the API, and so work for an operator
//! who cannot sign in. Whoever reads the database and the master key is trusted with everything anyway.

mod admin;
mod audit;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use sandbar_control::{Config, Control};
use sandbar_postgres::{DATABASE, Durability, Options, Server};
use sandbar_store::Store;

use crate::data_dir::{self, DataDir};
use crate::master_key;

pub(crate) use admin::AdminArgs;
pub(crate) use audit::AuditArgs;

/// Where the platform's database is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Platform")]
pub(crate) struct DatabaseArgs {
    /// Data folder of the platform
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "FOLDER", default_value = data_dir::DEFAULT, global = true)]
    data_dir: PathBuf,

    /// The platform's PostgreSQL, where it is not the private one of the `sandbar up` of this machine
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, global = true)]
    database_url: Option<String>,
}

impl DatabaseArgs {
    /// The control plane on the platform's database, for one command.
    async fn control(&self) -> anyhow::Result<Control> {
        let data = DataDir::at(&self.data_dir);
        let url = match &self.database_url {
            Some(url) => url.clone(),
            None => {
                let options = Options::in_folder(&data.postgres(), Durability::On);
                let Some(server) = Server::find(&options).await? else {
                    bail!(
                        "no platform runs on {}: start it with `sandbar up`, or name its database in DATABASE_URL",
                        self.data_dir.display()
                    );
                };
                server.url(DATABASE)
            }
        };
        let master_key = master_key::existing(&data)?;
        let store = Store::connect(&url).await.context("cannot connect to PostgreSQL")?;
        Ok(Control::start(store, &master_key, Config::default()).await?)
    }
}
