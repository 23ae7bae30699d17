//! The log: to standard error, filtered by `RUST_LOG`.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` does not say.
const DEFAULT_FILTER: &str = "info,sqlx=warn,hyper=warn,reqwest=warn,rustls=warn";
/// The same, where a person watches: what goes well is told by other means.
const QUIET_FILTER: &str = "warn";

/// How to log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// Form of the log on standard error; RUST_LOG says how much of it there is
    #[arg(long, env = "SANDBAR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Begins logging. Once per process.
    pub(crate) fn start(&self) {
        let interactive = std::io::stderr().is_terminal();
        let default = if interactive { QUIET_FILTER } else { DEFAULT_FILTER };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => log.with_ansi(interactive).init(),
            LogFormat::Json => log.json().init(),
        }
    }
}
