//! A real server in a temporary folder.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sandbar_postgres::{DATABASE, Durability, Options, PostgresError, ROLE, Server};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

/// A folder that the server's user may enter. (Temporary folders are closed to others.)
fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("sandbar-pg").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn options(folder: &TempDir) -> Options {
    Options::in_folder(folder.path(), Durability::On)
}

async fn connect(server: &Server) -> PgConnection {
    PgConnection::connect(&server.url(DATABASE)).await.unwrap()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn leavings(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().contains(".initdb-")).collect()
}

#[tokio::test]
async fn keeps_its_data_from_start_to_start() {
    let folder = folder();
    let server = Server::start(&options(&folder)).await.unwrap();
    let mut connection = connect(&server).await;
    let (role, addresses): (String, String) =
        sqlx::query_as("SELECT current_user::text, current_setting('listen_addresses')")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!((role.as_str(), addresses.as_str()), (ROLE, ""));
    sqlx::query("CREATE TABLE kept (n int)").execute(&mut connection).await.unwrap();
    // A client that stays connected must not hold the server up.
    server.stop().await.unwrap();
    assert!(Server::find(&options(&folder)).await.unwrap().is_none());

    let server = Server::start(&options(&folder)).await.unwrap();
    sqlx::query("INSERT INTO kept VALUES (1)").execute(&mut connect(&server).await).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_servers_user_and_root_get_in() {
    let folder = folder();
    let server = Server::start(&options(&folder)).await.unwrap();
    for private in ["run", "data"] {
        let mode = fs::metadata(folder.path().join(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{private}");
    }
    // Root as another role than the one that it is mapped to.
    let other = server.url(DATABASE).replace(ROLE, "postgres");
    assert!(PgConnection::connect(&other).await.is_err());
    // Another user stops at the folder; with that lock open, at the server's own.
    fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o711)).unwrap();
    let psql = std::process::Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "psql",
            "-U",
            ROLE,
            "-c",
            "SELECT 1",
            "-h",
        ])
        .arg(folder.path().join("run"))
        .arg(DATABASE)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&psql.stderr);
    assert!(said.contains("Peer authentication failed"), "{said}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_still_runs_is_taken_over() {
    let folder = folder();
    let first = Server::start(&options(&folder)).await.unwrap();
    let pid = first.pid();
    drop(first);
    let second = Server::start(&options(&folder)).await.unwrap();
    assert_eq!(second.pid(), pid);
    connect(&second).await.ping().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn starts_again_at_once_after_the_server_was_killed() {
    let folder = folder();
    let mut server = Server::start(&options(&folder)).await.unwrap();
    let mut connection = connect(&server).await;
    sqlx::query("CREATE TABLE kept (n int)").execute(&mut connection).await.unwrap();
    kill(server.pid());
    server.ended().await.unwrap();
    let server = Server::start(&options(&folder)).await.unwrap();
    sqlx::query("INSERT INTO kept VALUES (1)").execute(&mut connect(&server).await).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn starts_again_after_a_killed_server_that_nobody_has_reaped() {
    let folder = folder();
    let first = Server::start(&options(&folder)).await.unwrap();
    kill(first.pid());
    // Its lock files name a process that is there, as a zombie, for as long as `first` is.
    while fs::read_link(format!("/proc/{}/cwd", first.pid())).is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let second = Server::start(&options(&folder)).await.unwrap();
    assert_ne!(second.pid(), first.pid());
    connect(&second).await.ping().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_half_made_data_folder_is_made_anew() {
    let folder = folder();
    let unfinished = folder.path().join("data.initdb-99999");
    fs::create_dir_all(unfinished.join("base")).unwrap();
    fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    let server = Server::start(&options(&folder)).await.unwrap();
    assert_eq!(leavings(folder.path()), Vec::<PathBuf>::new());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_given_up_at_any_moment_can_be_tried_again() {
    let folder = folder();
    // Cut in initdb, in the making of the database, and in the start of the server.
    for milliseconds in [20, 200, 600, 1200, 2000] {
        let limit = std::time::Duration::from_millis(milliseconds);
        if let Ok(server) = tokio::time::timeout(limit, Server::start(&options(&folder))).await {
            server.unwrap().stop().await.unwrap();
        }
    }
    let server = Server::start(&options(&folder)).await.unwrap();
    connect(&server).await.ping().await.unwrap();
    assert_eq!(leavings(folder.path()), Vec::<PathBuf>::new());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn says_what_is_wrong() {
    let folder = folder();
    let options = options(&folder);
    fs::create_dir(&options.data_dir).unwrap();
    fs::write(options.data_dir.join("letters"), "not a database").unwrap();
    let error = Server::start(&options).await.unwrap_err();
    assert!(matches!(error, PostgresError::NotADataFolder { .. }), "{error}");

    fs::write(options.data_dir.join("PG_VERSION"), "9\n").unwrap();
    let error = Server::start(&options).await.unwrap_err();
    assert!(matches!(error, PostgresError::VersionMismatch { data: 9, .. }), "{error}");
    fs::remove_dir_all(&options.data_dir).unwrap();

    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Server::start(&options).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unreachable { .. }), "{error}");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();

    let long = Options { socket_dir: folder.path().join("x".repeat(120)), ..options.clone() };
    let error = Server::start(&long).await.unwrap_err();
    assert!(matches!(error, PostgresError::SocketPathTooLong { .. }), "{error}");

    // A server that cannot start: its own words are in the error.
    fs::write(options.data_dir.join("postgresql.auto.conf"), "no_such_setting = 1\n").unwrap();
    let error = Server::start(&options).await.unwrap_err();
    assert!(
        matches!(&error, PostgresError::Ended { tail, .. } if tail.contains("no_such_setting")),
        "{error}"
    );
}
