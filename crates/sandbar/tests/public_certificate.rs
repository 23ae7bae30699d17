//! `sandbar up` with a public authority's certificate: as a process that is killed in the middle of its order, and started again.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sandbar_testkit::TestDatabase;
use sandbar_testkit::acme::{Authority, DOMAIN, KEY, NameServer, SECRET, is_installed};
use tokio::time::sleep;

/// Time between two looks at what changes by itself, and how often there is one.
const LOOK: (Duration, u32) = (Duration::from_millis(100), 1800);

struct Up(Child);

impl Up {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_killed_while_it_orders_is_followed_by_one_that_serves_the_certificate() {
    if !is_installed() {
        return;
    }
    let names = NameServer::start();
    let authority = Authority::start(names.address(), 90 * 24 * 3600);
    let database = TestDatabase::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (https, metrics) = (free(), free());
    let command = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbar"));
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("SANDBAR_")) {
            command.env_remove(variable);
        }
        let (listen, https, metrics) = (free().to_string(), https.to_string(), metrics.to_string());
        let resolver = names.address().to_string();
        command.args(["up", "--no-host", "--listen", &listen, "--https-listen", &https, "--domain", DOMAIN]);
        command.args(["--metrics-listen", &metrics, "--acme-email", "ops@example.org"]);
        command.args(["--acme-directory", &authority.directory(), "--acme-resolver", &resolver]);
        command.arg("--acme-ca").arg(authority.trusted()).arg("--data-dir").arg(folder.path().join("data"));
        command.args(more).env("DATABASE_URL", database.url()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };

    // Nothing is started with settings that cannot work.
    let refused = command(&["--acme-hook", "/nowhere"]).output().unwrap();
    assert!(!refused.status.success());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("/nowhere is not a program"), "{told}");

    // A program that sets its record and never ends; the control plane dies meanwhile.
    let hook = folder.path().join("hook");
    let script = format!(
        "#!/bin/sh -e\nprintf 'server {}\\nzone {DOMAIN}.\\nadd %s 1 TXT %s\\nsend\\n' \"$2\" \"$3\" | knsupdate -k {}\n\
         read -r end < {fifo}\n",
        names.address().ip(),
        names.key_file().display(),
        fifo = folder.path().join("fifo").display(),
    );
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Command::new("mkfifo").arg(folder.path().join("fifo")).status().unwrap().success());
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut first = command(&["--acme-hook", hook.to_str().unwrap()]);
    let mut first = Up(first.stderr(log.try_clone().unwrap()).spawn().unwrap());
    let challenge = format!("_acme-challenge.{DOMAIN}");
    let logged = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    for _ in 0..LOOK.1 {
        if !names.texts(&challenge).is_empty() {
            break;
        }
        sleep(LOOK.0).await;
    }
    assert_eq!(names.texts(&challenge).len(), 1, "{}", logged());
    first.kill();
    // Lets the program go.
    drop(std::fs::OpenOptions::new().write(true).open(folder.path().join("fifo")).unwrap());

    let server = names.address().to_string();
    let mut second = command(&["--acme-dns-server", &server, "--acme-dns-key", KEY]);
    let _second = Up(second.env("SANDBAR_ACME_DNS_SECRET", SECRET).stderr(log).spawn().unwrap());
    let root = reqwest::Certificate::from_pem(authority.root().await.as_bytes()).unwrap();
    let name = format!("api.{DOMAIN}");
    let client = reqwest::Client::builder().tls_certs_only([root]).resolve(&name, https).build().unwrap();
    let url = format!("https://{name}:{}/healthz", https.port());
    let mut answered = None;
    for _ in 0..LOOK.1 {
        answered = client.get(&url).send().await.ok();
        if answered.is_some() {
            break;
        }
        sleep(LOOK.0).await;
    }
    assert!(answered.is_some_and(|answer| answer.status().is_success()), "{}", logged());
    assert!(names.texts(&challenge).is_empty(), "what the first has left is removed");
    let figures = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
    assert!(figures.contains("sandbar_certificate_expiry_timestamp_seconds "), "{figures}");
    assert!(!logged().contains(SECRET));
}
