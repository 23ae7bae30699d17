//! The connection pool, transactions, migrations and why a statement fails.

use std::str::FromStr as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Postgres, Transaction};

/// The migrations, embedded. Applied ones are never edited: their checksums are compared.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections of one control plane. PostgreSQL's own default allows 100 in all.
const POOL_SIZE: u32 = 24;
/// How long a request waits for a free connection, or for a database that is away, before it fails.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(10);
/// No statement of ours takes this long on a healthy database; a stuck one must not hold a connection for ever.
const STATEMENT_LIMIT_MS: &str = "30000";

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    options: PgConnectOptions,
}

/// A transaction: all of its changes, or, when it is dropped without [`Tx::commit`], none.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Postgres>,
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or is just starting or stopping. Whether a change was made that was under way is not known.
    #[error("the database does not answer")]
    Away(#[source] sqlx::Error),
    /// The database refused.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// A row of the same name exists.
    #[error("{constraint} is taken")]
    Taken {
        /// The unique constraint that it would break.
        constraint: String,
    },
    /// The team that something was to be made for is deleted.
    #[error("the team does not exist any more")]
    TeamGone,
    /// The migrations could not be applied.
    #[error("the database could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row holds a value that this version does not know.
    #[error("{column} holds {value:?}, which this version does not know")]
    Unknown {
        /// Table and column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let of_database = error.as_database_error();
        if of_database.and_then(|error| error.constraint()) == Some("team_must_live") {
            return Self::TeamGone;
        }
        let constraint = of_database
            .filter(|error| error.is_unique_violation())
            .and_then(|error| error.constraint())
            .map(str::to_owned);
        match constraint {
            Some(constraint) => Self::Taken { constraint },
            None if is_away(&error) => Self::Away(error),
            None => Self::Database(error),
        }
    }
}

/// Whether an error says nothing of the statement, but that nobody was there to take it, or to answer.
fn is_away(error: &sqlx::Error) -> bool {
    /// Connections that break or are refused, and a server that stops, crashed or starts.
    const CODES: [&str; 4] = ["57P01", "57P02", "57P03", "53300"];
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| CODES.contains(&&*code) || code.starts_with("08"))
        }
        _ => false,
    }
}

impl Store {
    /// Connects to `postgres://...`. Fails when the database does not answer.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options =
            PgConnectOptions::from_str(url)?.application_name("sandbar").disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(POOL_SIZE)
            .acquire_timeout(ACQUIRE_LIMIT)
            .connect_with(options.clone().options([("statement_timeout", STATEMENT_LIMIT_MS)]))
            .await?;
        Ok(Self { pool, options })
    }

    /// Applies the migrations that are missing. Several replicas may do so at once: one works, the others wait.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // On a connection of its own, without the limit on statements: an index on a large table takes its time.
        let mut connection = PgConnection::connect_with(&self.options).await?;
        MIGRATIONS.run(&mut connection).await.map_err(StoreError::Migrate)?;
        connection.close().await?;
        Ok(())
    }

    /// Opens a transaction.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(Tx { inner: self.pool.begin().await? })
    }

    /// The database's clock, by which rows are stamped: ages of rows are told by it, not by the clock of whoever asks.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(&self.pool).await?)
    }

    /// Closes all connections, once what runs on them is done.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Tx {
    /// Makes the changes count.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.inner.commit().await?)
    }

    /// Lets this transaction's commit return before it is on disk. A crash of the database server (not of ours) may then undo it
    /// whole, up to a fraction of a second after. Only for changes whose loss is repaired by itself.
    pub async fn relax_durability(&mut self) -> Result<(), StoreError> {
        sqlx::query("SET LOCAL synchronous_commit = off").execute(self.connection()).await?;
        Ok(())
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}
