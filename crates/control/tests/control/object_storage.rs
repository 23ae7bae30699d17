//! Copies of snapshots in object storage, against a real S3 server: moto, which `tests/object-storage/install.sh` installs.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sandbar_control::Config;
use sandbar_control::config::SnapshotStore;
use sandbar_control::templates::Template;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::config;
use crate::transfer::{FILES, Two, create};

const BUCKET: &str = "sandbar-test";

/// An S3 server of this test's own.
pub(crate) struct S3 {
    _server: Child,
    address: SocketAddr,
}

impl S3 {
    pub(crate) async fn start() -> Self {
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("object-storage-venv");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/object-storage");
        let wanted = std::fs::read(folder.join("requirements.txt")).unwrap();
        assert!(
            std::fs::read(venv.join("installed")).is_ok_and(|installed| installed == wanted),
            "the S3 server is not installed in the version that is wanted: run tests/object-storage/install.sh"
        );
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let server: PathBuf = venv.join("bin/moto_server");
        let mut command = Command::new(server);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let this = Self { _server: server, address };
        // Python takes its time.
        let made = tokio::time::timeout(Duration::from_secs(120), async {
            while this.ask("PUT", "").await.is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        made.await.expect("the S3 server answers");
        this
    }

    /// The body of its answer to a request without credentials, which it does not ask for; none where it does not answer.
    async fn ask(&self, method: &str, query: &str) -> Option<String> {
        let mut connection = TcpStream::connect(self.address).await.ok()?;
        let request = format!(
            "{method} /{BUCKET}{query} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        connection.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    }

    /// The names of all objects.
    pub(crate) async fn objects(&self) -> Vec<String> {
        let list = self.ask("GET", "?list-type=2").await.expect("a list");
        let keys = list.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned());
        keys.collect()
    }

    fn place(&self, address: SocketAddr) -> SnapshotStore {
        format!("s3://{BUCKET}/a/prefix")
            .parse::<SnapshotStore>()
            .unwrap()
            .with("endpoint", &format!("http://{address}"))
            .with("allow_http", "true")
            .with("region", "us-east-1")
            .with("access_key_id", "key")
            .with("secret_access_key", "secret")
    }

    pub(crate) fn config(&self) -> Config {
        Config { snapshot_store: Some(self.place(self.address)), ..config() }
    }
}

/// Passes connections on to a server, and breaks them in the middle of their requests for as long as it is told to.
struct Flaky {
    address: SocketAddr,
    /// Requests that still pass.
    passing: Arc<AtomicUsize>,
}

impl Flaky {
    async fn before(server: SocketAddr, passing: usize) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let passing = Arc::new(AtomicUsize::new(passing));
        let left = Arc::clone(&passing);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, Arc::clone(&left)));
            }
        });
        Self { address, passing }
    }

    fn heal(&self) {
        self.passing.store(usize::MAX / 2, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: SocketAddr, left: Arc<AtomicUsize>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from_client.read(&mut buffer).await else { return };
        let is_put = buffer.starts_with(b"PUT ");
        if is_put
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        {
            // A part of it has arrived; the rest never does.
            let _broken = to_server.write_all(&buffer[..read / 2]).await;
            return;
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

impl Two {
    /// The snapshot, as it is now.
    async fn kept(&self) -> Template {
        self.world.control.template_resolve(&self.world.ctx, "kept").await.unwrap()
    }

    /// The host that has the files is gone for good.
    async fn lose_the_host(&self) {
        self.world.host.crash().await.unwrap();
        self.world.execute("UPDATE hosts SET status = 'unreachable' WHERE draining").await;
    }
}

#[tokio::test]
async fn a_copied_snapshot_outlives_its_host_and_is_deleted_with_it() {
    let s3 = S3::start().await;
    let two = Two::with(s3.config()).await;
    assert!(!two.kept().await.durable);
    let kept = two.world.control.keep_copies().await.unwrap();
    assert_eq!(
        (kept.copied, kept.failed),
        (1, 0),
        "the snapshot alone: the platform's template is made anew"
    );
    assert!(two.kept().await.durable);
    let objects = s3.objects().await;
    let folder = format!("a/prefix/templates/{}/", two.snapshot.id);
    assert!(objects.iter().all(|object| object.starts_with(&folder)), "{objects:?}");
    assert_eq!(objects.len(), FILES + 1);
    assert_eq!(two.world.control.keep_copies().await.unwrap().copied, 0, "once");

    two.lose_the_host().await;
    let sandbox = create(&two.world).await.unwrap();
    assert_eq!(sandbox.host_id, Some(two.other_id));
    assert_eq!(two.world.read(&sandbox, "/home/user/5").await, "content 5");

    two.world.control.snapshot_delete(&two.world.ctx, &two.snapshot.name).await.unwrap();
    let kept = two.world.control.keep_copies().await.unwrap();
    assert_eq!((kept.deleted, kept.failed), (1, 0));
    assert_eq!(s3.objects().await, [""; 0]);
    assert_eq!(copies(&two).await, 0);
}

#[tokio::test]
async fn a_copy_that_broke_goes_on_where_it_was_and_is_none_before_it_is_complete() {
    let s3 = S3::start().await;
    let flaky = Flaky::before(s3.address, 3).await;
    let two = Two::with(Config { snapshot_store: Some(s3.place(flaky.address)), ..config() }).await;
    let kept = two.world.control.keep_copies().await.unwrap();
    assert_eq!((kept.copied, kept.failed), (0, 1));
    assert!(!two.kept().await.durable);
    assert_eq!(s3.objects().await.len(), 3, "what had arrived stays");
    assert_eq!(two.world.control.keep_copies().await.unwrap().failed, 0, "it is left alone for a while");
    two.lose_the_host().await;
    create(&two.world).await.unwrap_err();

    two.world.host.restart().await.unwrap();
    two.world.execute("UPDATE hosts SET status = 'online'").await;
    two.world.execute("UPDATE template_copies SET copier_until = now() - interval '1 second'").await;
    flaky.heal();
    let before = two.world.host.calls(sandbar_testkit::sim_host::Rpc::ReadTemplatePart);
    assert_eq!(two.world.control.keep_copies().await.unwrap().copied, 1);
    let read = two.world.host.calls(sandbar_testkit::sim_host::Rpc::ReadTemplatePart) - before;
    assert_eq!(read, FILES - 3, "what was there was not asked for again");
    assert_eq!(s3.objects().await.len(), FILES + 1);
    two.lose_the_host().await;
    create(&two.world).await.unwrap();
}

#[tokio::test]
async fn deleting_what_object_storage_does_not_take_back_is_owed() {
    let s3 = S3::start().await;
    let two = Two::with(s3.config()).await;
    two.world.control.keep_copies().await.unwrap();
    two.world.control.snapshot_delete(&two.world.ctx, &two.snapshot.name).await.unwrap();
    // A control plane that cannot reach it: nothing answers there.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let cut_off = two.world.replica_with(Config { snapshot_store: Some(s3.place(nobody)), ..config() }).await;
    assert_eq!(cut_off.keep_copies().await.unwrap().failed, 1);
    assert_eq!(copies(&two).await, 1, "the debt is written down");
    two.world.execute("UPDATE template_copies SET copier_until = now() - interval '1 second'").await;
    assert_eq!(two.world.control.keep_copies().await.unwrap().deleted, 1);
    assert_eq!((s3.objects().await.len(), copies(&two).await), (0, 0));
}

#[tokio::test]
async fn what_a_teams_own_host_has_is_not_copied() {
    let s3 = S3::start().await;
    let two = Two::with(s3.config()).await;
    two.world
        .execute(
            "UPDATE hosts SET kind = 'byoc', team_id = (SELECT team_id FROM templates WHERE name = 'kept')",
        )
        .await;
    assert_eq!(two.world.control.keep_copies().await.unwrap().copied, 0);
    assert_eq!(s3.objects().await, [""; 0]);
}

pub(crate) async fn copies(two: &Two) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM template_copies")
        .fetch_one(two.world.database.pool())
        .await
        .unwrap()
}
