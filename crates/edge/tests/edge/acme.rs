//! Certificates of a public authority: a real one's protocol, a real name server, and the handshakes of clients that trust its root alone.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{RootCertStore, ServerConfig};
use sandbar_control::secrets::MasterKey;
use sandbar_control::{Config, Control};
use sandbar_edge::acme::{AcmeError, Hook, Keeper, Pace, Records, Settings, UpdateError, UpdateServer};
use sandbar_edge::{local_authority, tls};
use sandbar_store::Store;
use sandbar_testkit::TestDatabase;
use sandbar_testkit::acme::{ALIAS, Authority, DELEGATED, DOMAIN, KEY, NameServer, SECRET, is_installed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::tls::{connect, greet};

/// A long life: nothing is renewed.
const YEAR: u64 = 365 * 24 * 3600;
/// Time between two looks at what changes by itself, and how often there is one.
const LOOK: (Duration, u32) = (Duration::from_millis(100), 1200);

struct World {
    names: NameServer,
    authority: Authority,
    database: TestDatabase,
}

/// One control plane's listener and keeper.
struct Plane {
    server: Arc<ServerConfig>,
    keeper: Arc<Keeper>,
    local: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    /// None where the distribution has no such authority to test with.
    async fn new(validity: u64) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let names = NameServer::start();
        let authority = Authority::start(names.address(), validity);
        Some(Self { names, authority, database: TestDatabase::new().await })
    }

    fn settings(&self, domain: &str, records: Records) -> Settings {
        Settings {
            domain: domain.to_owned(),
            email: "ops@example.org".to_owned(),
            directory: self.authority.directory(),
            trusted: Some(self.authority.trusted()),
            records,
            resolvers: vec![self.names.address()],
            pace: Pace {
                first_retry: Duration::from_millis(100),
                longest_retry: Duration::from_millis(400),
                ..Pace::default()
            },
        }
    }

    fn updates(&self, secret: &str) -> Records {
        let server = self.names.address().to_string();
        Records::Update(UpdateServer::new(&server, KEY, "hmac-sha256", &secret.to_owned().into()).unwrap())
    }

    /// Another control plane on the same database.
    async fn plane(&self, settings: Settings) -> Plane {
        let store = Store::connect(&self.database.url()).await.unwrap();
        let master_key = MasterKey::from_hex(&"17".repeat(32)).unwrap();
        let control = Control::start(store, &master_key, Config::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let made = local_authority::ensure(folder.path(), &settings.domain).unwrap();
        let (server, served) = tls::replaceable_config(made.server).unwrap();
        let keeper = Arc::new(Keeper::new(control, settings, served).unwrap());
        Plane { server, keeper, local: made.authority, _folder: folder }
    }

    async fn root(&self) -> RootCertStore {
        roots(CertificateDer::from_pem_slice(self.authority.root().await.as_bytes()).unwrap())
    }

    async fn count(&self, names: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM platform_secrets WHERE name LIKE $1")
            .bind(names)
            .fetch_one(self.database.pool())
            .await
            .unwrap()
    }
}

impl Plane {
    /// One attempt; those that end since the authority, as it was told to, refused good nonces too often do not count.
    async fn attempt(&self) -> Result<bool, AcmeError> {
        loop {
            match self.keeper.attempt().await {
                Err(AcmeError::Authority { source: instant_acme::Error::Api(problem), .. })
                    if problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":badNonce")) => {}
                other => return other,
            }
        }
    }
}

fn roots(root: CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    roots
}

fn local(plane: &Plane) -> RootCertStore {
    roots(CertificateDer::from_pem_file(&plane.local).unwrap())
}

/// Waits for a handshake with a certificate of an authority that is not `before`.
async fn await_other(
    plane: &Plane,
    roots: &RootCertStore,
    before: Option<&CertificateDer<'static>>,
) -> CertificateDer<'static> {
    for _ in 0..LOOK.1 {
        match greet(&plane.server, roots, DOMAIN).await {
            Ok(served) if Some(&served) != before => return served,
            _ => sleep(LOOK.0).await,
        }
    }
    panic!("no other certificate is served");
}

fn program(folder: &Path, script: &str) -> Records {
    let path = folder.join("hook");
    std::fs::write(&path, format!("#!/bin/sh -e\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Records::Hook(Hook::new(&path).unwrap())
}

/// A program that changes the zone as the name server's own tool does, and writes down what it was asked.
fn hook_script(world: &World, log: &Path) -> String {
    format!(
        "[ -z \"$SANDBAR_MASTER_KEY$DATABASE_URL\" ]\n\
         case $1 in present) what=add ;; cleanup) what=del ;; *) exit 1 ;; esac\n\
         printf 'server {ip}\\nzone {DELEGATED}.\\n%s %s 1 TXT %s\\nsend\\n' $what \"$2\" \"$3\" | knsupdate -k {key} >&2\n\
         echo \"$1 $2\" >> {log}",
        ip = world.names.address().ip(),
        key = world.names.key_file().display(),
        log = log.display(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_certificate_is_ordered_by_updates_and_served_by_every_control_plane() {
    let Some(world) = World::new(YEAR).await else { return };
    let plane = world.plane(world.settings(DOMAIN, world.updates(SECRET))).await;
    assert!(!plane.keeper.take_up().await.unwrap());
    greet(&plane.server, &local(&plane), DOMAIN).await.expect("until then the local authority's");
    let another = world.plane(world.settings(DOMAIN, world.updates(SECRET))).await;
    let stop = CancellationToken::new();
    let waiting = tokio::spawn({
        let (keeper, stop) = (Arc::clone(&another.keeper), stop.clone());
        async move { keeper.run(stop).await }
    });

    // Whichever of the two has the turn.
    plane.attempt().await.unwrap();
    let root = world.root().await;
    let served = await_other(&another, &root, None).await;
    assert!(plane.attempt().await.unwrap());
    for name in [DOMAIN, "8000-sb-0192f0c15c4e7a3b9d2e3f4a5b6c7d8e.sbx.test"] {
        assert_eq!(greet(&plane.server, &root, name).await.expect(name), served, "one orders, both serve");
    }
    assert!(greet(&plane.server, &root, "a.b.sbx.test").await.is_err());
    assert!(world.names.texts("_acme-challenge.sbx.test").is_empty(), "nothing is left in the zone");

    stop.cancel();
    waiting.await.unwrap();
    let later = world.plane(world.settings(DOMAIN, world.updates(SECRET))).await;
    assert!(later.keeper.take_up().await.unwrap(), "kept, and taken up by the next start");
    assert_eq!(greet(&later.server, &root, DOMAIN).await.unwrap(), served);
    assert_eq!(world.count("acme-%").await, 3, "account, certificate, records");
    let plain = "SELECT count(*) FROM platform_secrets WHERE position('PRIVATE KEY'::bytea IN sealed) > 0";
    let plain: i64 = sqlx::query_scalar(plain).fetch_one(world.database.pool()).await.unwrap();
    assert_eq!(plain, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_served_without_a_dropped_connection() {
    let Some(world) = World::new(24).await else { return };
    let plane = world.plane(world.settings(DOMAIN, world.updates(SECRET))).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (keeper, stop) = (Arc::clone(&plane.keeper), stop.clone());
        async move { keeper.run(stop).await }
    });
    let root = world.root().await;
    let first = await_other(&plane, &root, None).await;
    let (mut client, mut server) = connect(&plane.server, &root, DOMAIN).await.unwrap();
    await_other(&plane, &root, Some(&first)).await;
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_or_away_is_told_and_another_attempt_succeeds() {
    let Some(mut world) = World::new(YEAR).await else { return };
    let wrong = world.plane(world.settings(DOMAIN, world.updates("d3Jvbmc="))).await;
    let refused = wrong.attempt().await.unwrap_err();
    assert!(
        matches!(&refused, AcmeError::Update(UpdateError::Refused { .. })),
        "{refused:?}: the name server does not know the secret"
    );
    let folder = tempfile::tempdir().unwrap();
    let failing = program(folder.path(), "echo no such zone at the provider >&2; exit 3");
    let failing = world.plane(world.settings(DOMAIN, failing)).await;
    let failed = failing.attempt().await.unwrap_err();
    let AcmeError::Hook(failed) = failed else { panic!("{failed:?}") };
    assert!(failed.to_string().contains("no such zone at the provider"), "{failed}");

    let plane = world.plane(world.settings(DOMAIN, world.updates(SECRET))).await;
    world.authority.go_away();
    assert!(matches!(plane.attempt().await, Err(AcmeError::Authority { .. })));
    greet(&plane.server, &local(&plane), DOMAIN).await.expect("what was served is served on");
    // Back without its memory: the account is unknown to it.
    assert_eq!(world.count("acme-account/%").await, 1);
    world.authority.come_back();
    assert!(plane.attempt().await.unwrap());
    greet(&plane.server, &world.root().await, DOMAIN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_sets_the_records_where_an_alias_leads_and_what_a_dead_order_left_is_removed() {
    let Some(world) = World::new(YEAR).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let name = ALIAS;

    // One that sets its first record, and then hangs: its control plane dies.
    let hanging = format!("{}\n[ $1 = cleanup ] || exec sleep 600", hook_script(&world, &log));
    let dying = world.plane(world.settings(DELEGATED, program(folder.path(), &hanging))).await;
    let attempt = tokio::spawn(async move { dying.attempt().await });
    for _ in 0..LOOK.1 {
        if !world.names.texts(name).is_empty() {
            break;
        }
        sleep(LOOK.0).await;
    }
    assert_eq!(world.names.texts(name).len(), 1);
    attempt.abort();
    assert!(attempt.await.unwrap_err().is_cancelled());
    assert_eq!(world.names.texts(name).len(), 1, "nobody removes it");

    let script = hook_script(&world, &log);
    let plane = world.plane(world.settings(DELEGATED, program(folder.path(), &script))).await;
    // The turn of the dead one ends with its connection.
    for _ in 0..LOOK.1 {
        if plane.attempt().await.unwrap() {
            break;
        }
        sleep(LOOK.0).await;
    }
    let root = world.root().await;
    greet(&plane.server, &root, "8000-x.static.test").await.unwrap();
    assert!(world.names.texts(name).is_empty());
    let log = std::fs::read_to_string(&log).unwrap();
    let last: Vec<_> = log.lines().rev().take(4).collect();
    assert_eq!(last[..2], [format!("cleanup {name}."), format!("cleanup {name}.")]);
    assert_eq!(last[2..], [format!("present {name}."), format!("present {name}.")]);
}
