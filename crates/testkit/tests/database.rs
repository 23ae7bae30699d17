//! Databases of the template, against the run's server.

#![expect(clippy::unwrap_used, reason = "tests")]

use sandbar_testkit::TestDatabase;
use sqlx::{Connection as _, PgConnection};

async fn count(database: &TestDatabase, table: &str) -> i64 {
    let statement = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(database.pool()).await.unwrap()
}

#[tokio::test]
async fn each_is_migrated_and_apart_from_the_others() {
    let (one, other) = tokio::join!(TestDatabase::new(), TestDatabase::new());
    assert!(count(&one, "_sqlx_migrations").await > 0);
    sqlx::query("CREATE TABLE mine (n int)").execute(one.pool()).await.unwrap();
    sqlx::query("INSERT INTO mine VALUES (1)").execute(one.pool()).await.unwrap();
    assert_eq!(count(&one, "mine").await, 1);
    assert!(sqlx::query("SELECT * FROM mine").execute(other.pool()).await.is_err());
}

#[tokio::test]
async fn is_dropped_with_its_connections_open() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    connection.ping().await.unwrap();
    drop(database);
    assert!(connection.ping().await.is_err());
    assert!(PgConnection::connect(&url).await.is_err());
}
