//! A database per test, cloned from a migrated template.
//!
//! The template is made once per set of migrations: its name carries their hash, so a changed migration makes a new one. An
//! advisory lock lets one of several test processes make it while the others wait; it is made under another name and renamed
//! last, so one that was left half-made is never cloned.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::str::FromStr as _;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::POSTGRES_VARIABLE;

/// The store's migrations. Read from the source tree when tests run, not linked in: the store's own tests use this crate.
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/migrations");

/// Key of the advisory lock under which the template is made.
const TEMPLATE_LOCK: i64 = 0x5a4d_ba12;

/// A fresh, migrated database. Dropping this drops the database, whatever is still connected to it.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: PgConnectOptions,
    pool: PgPool,
}

impl TestDatabase {
    /// Clones the template; makes that first when this is the run's first test.
    ///
    /// # Panics
    /// When there is no server to use, or it refuses: a test cannot go on without.
    pub async fn new() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let server = server();
        let template = TEMPLATE.get_or_init(|| make_template(&server)).await;
        Self::cloned(server, template).await
    }

    /// The same on another server than the one that all share.
    pub(crate) async fn on(server: PgConnectOptions) -> Self {
        let template = make_template(&server).await;
        Self::cloned(server, &template).await
    }

    async fn cloned(server: PgConnectOptions, template: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = connect(&server).await;
        // Its files are copied as they are, which costs half of what writing each page to the log does, as servers from 15 on would.
        let how = if connection.server_version_num() >= Some(150_000) { "STRATEGY file_copy" } else { "" };
        run(&mut connection, &format!("CREATE DATABASE {name} TEMPLATE {template} {how}")).await;
        let pool = PgPool::connect_lazy_with(server.clone().database(&name));
        Self { name, server, pool }
    }

    /// Connections to it.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Its URL, for code that connects by itself.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.clone().database(&self.name).to_url_lossy().to_string()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // `drop` cannot await, and the test's own runtime may be the one that this thread blocks.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime to drop the database with");
            runtime.block_on(async {
                let mut connection = PgConnection::connect_with(&server).await?;
                sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await
            })
        });
        // A panic in here would hide the test's own: the server is thrown away after the run anyway.
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("cannot drop the test's database {}: {error}", self.name);
        }
    }
}

fn server() -> PgConnectOptions {
    let Ok(url) = std::env::var(POSTGRES_VARIABLE) else {
        panic!(
            "{POSTGRES_VARIABLE} is not set, so there is no server to test against: run the tests through `make test`, or \
             `cargo run -p sandbar-testkit --bin with-postgres -- cargo test ...`"
        );
    };
    let options = PgConnectOptions::from_str(&url);
    options.unwrap_or_else(|error| panic!("{POSTGRES_VARIABLE} is no URL of a database: {error}"))
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    let connection = PgConnection::connect_with(options).await;
    connection.unwrap_or_else(|error| {
        panic!("cannot connect to the server that {POSTGRES_VARIABLE} names: {error}")
    })
}

/// Runs a statement that takes no parameters, with names that this module made.
async fn run(connection: &mut PgConnection, statement: &str) {
    let result = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(connection).await;
    result.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn make_template(server: &PgConnectOptions) -> String {
    let migrations = Migrator::new(Path::new(MIGRATIONS)).await;
    let migrations = migrations.unwrap_or_else(|error| panic!("cannot read {MIGRATIONS}: {error}"));
    let mut hasher = DefaultHasher::new();
    for migration in migrations.iter() {
        (migration.version, migration.checksum.as_ref()).hash(&mut hasher);
    }
    let template = format!("template_{:016x}", hasher.finish());
    let unfinished = format!("{template}_unfinished");

    let mut connection = connect(server).await;
    // Held until the connection closes.
    run(&mut connection, &format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("cannot list databases: {error}"));
    if !exists {
        run(&mut connection, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        run(&mut connection, &format!("CREATE DATABASE {unfinished}")).await;
        let mut inside = connect(&server.clone().database(&unfinished)).await;
        let migrated = migrations.run(&mut inside).await;
        migrated.unwrap_or_else(|error| panic!("cannot migrate: {error}"));
        // A template with a client cannot be cloned.
        inside.close().await.unwrap_or_else(|error| panic!("cannot leave the template: {error}"));
        run(&mut connection, &format!("ALTER DATABASE {unfinished} RENAME TO {template}")).await;
    }
    connection.close().await.unwrap_or_else(|error| panic!("cannot give back the template's lock: {error}"));
    template
}
