//! Where the database comes from.

use sandbar_postgres::Binaries;

use super::Finding;

const CHECK: &str = "PostgreSQL";

pub(super) async fn check(external: bool) -> Finding {
    if external {
        return Finding::ok(CHECK, "DATABASE_URL names a server: no binaries are needed here");
    }
    match tokio::task::spawn_blocking(Binaries::newest).await {
        Ok(Ok(Binaries { folder, major })) => {
            Finding::ok(CHECK, format!("server binaries of version {major} in {}", folder.display()))
        }
        Ok(Err(error)) => Finding::fail(CHECK, "no server binaries", error.to_string()),
        Err(error) => Finding::fail(CHECK, error.to_string(), "this is a fault of Sandbar's: report it"),
    }
}
