//! A certificate authority that speaks ACME (Pebble), and a zone on a name server of its own (Knot) that takes updates: both the
//! distribution's, each on an address of this machine's own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// How long a server may take to listen on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// A zone that takes updates.
pub const DOMAIN: &str = "sbx.test";
/// A zone whose `_acme-challenge` is an alias of [`ALIAS`], and which takes updates of that name alone.
pub const DELEGATED: &str = "static.test";
/// See [`DELEGATED`].
pub const ALIAS: &str = "challenge.static.test";
/// The key's name at the name server.
pub const KEY: &str = "acme-key";
/// Its secret, in base64.
pub const SECRET: &str = "c2FuZGJhciB0ZXN0cycga2V5LCBrbm93biB0byBhbGw=";

/// Whether the programs are there. Only where the distribution has no package of them may they be missing; the test says so and is over.
///
/// # Panics
/// On Debian 12, which has them.
#[must_use]
pub fn is_installed() -> bool {
    let found = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).exists())
    };
    let missing: Vec<_> =
        ["pebble", "knotd", "knsupdate", "kdig"].into_iter().filter(|program| !found(program)).collect();
    if missing.is_empty() {
        return true;
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    assert!(
        !release.contains("VERSION_CODENAME=bookworm"),
        "missing: {missing:?}; `scripts/install-deps.sh test` installs them"
    );
    eprintln!("NOT TESTED: certificates of a public authority: this distribution has no {missing:?}");
    false
}

struct Process(Option<Child>);

impl Process {
    fn end(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// An authority. Dropping it ends it.
pub struct Authority {
    folder: tempfile::TempDir,
    listens: SocketAddr,
    manages: SocketAddr,
    resolver: SocketAddr,
    process: Process,
}

impl Authority {
    /// Starts one that asks a name server, and whose certificates last for some seconds. It refuses every fifth good nonce.
    ///
    /// # Panics
    /// When it cannot be started: a test cannot go on without.
    #[must_use]
    pub fn start(resolver: SocketAddr, validity_seconds: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder for Pebble");
        let [listens, manages] = free_ports().expect("two ports");
        Self::write(folder.path(), listens, manages, validity_seconds).expect("Pebble's configuration");
        let mut authority = Self { folder, listens, manages, resolver, process: Process(None) };
        authority.come_back();
        authority
    }

    /// The beginning of its protocol.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.listens)
    }

    /// The certificate by which its own server is trusted.
    #[must_use]
    pub fn trusted(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The root of what it issues, in PEM.
    ///
    /// # Panics
    /// When it does not tell.
    pub async fn root(&self) -> String {
        let pem = fs::read(self.trusted()).expect("the certificate");
        let trusted = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = reqwest::Client::builder().tls_certs_merge([trusted]).build().expect("a client");
        let answer = client.get(format!("https://{}/roots/0", self.manages)).send().await;
        answer.expect("the root").text().await.expect("the root")
    }

    /// Kills it. What it knows is lost, its root too.
    pub fn go_away(&mut self) {
        self.process.end();
    }

    /// Starts it again, knowing nothing.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn come_back(&mut self) {
        let mut command = Command::new("pebble");
        command.arg("-config").arg(self.folder.path().join("pebble.json"));
        command.args(["-dnsserver", &self.resolver.to_string()]);
        command.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "20")]);
        let started = start(command, &self.folder.path().join("pebble.log"), &[self.listens, self.manages]);
        self.process = Process(Some(started.unwrap_or_else(|error| panic!("no Pebble: {error:#}"))));
    }

    fn write(folder: &Path, listens: SocketAddr, manages: SocketAddr, validity: u64) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key)?;
        let server_key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_pem(&authority.pem(), key)?;
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&server_key, &issuer)?;
        let at = |name: &str| folder.join(name);
        fs::write(at("ca.pem"), authority.pem())?;
        fs::write(at("server.pem"), server.pem())?;
        fs::write(at("server.key"), server_key.serialize_pem())?;
        let config = json!({ "pebble": {
            "listenAddress": listens.to_string(),
            "managementListenAddress": manages.to_string(),
            "certificate": at("server.pem"),
            "privateKey": at("server.key"),
            "httpPort": 5002,
            "tlsPort": 5001,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": validity,
        }});
        Ok(fs::write(at("pebble.json"), config.to_string())?)
    }
}

/// A name server with the zones above. Dropping it ends it.
pub struct NameServer {
    folder: tempfile::TempDir,
    address: SocketAddr,
    _process: Process,
}

impl NameServer {
    /// Starts one, on port 53 of an address of its own.
    ///
    /// # Panics
    /// When it cannot be started: a test cannot go on without.
    #[must_use]
    pub fn start() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let own = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::new(127, 1 + high % 250, low, own), 53));
        let folder = tempfile::tempdir().expect("a folder for Knot");
        Self::write(folder.path(), address).expect("Knot's configuration");
        let mut command = Command::new("knotd");
        command.arg("-c").arg(folder.path().join("knot.conf"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        let started = start(command, &folder.path().join("knot.log"), &[address]);
        let process = Process(Some(started.unwrap_or_else(|error| panic!("no Knot: {error:#}"))));
        Self { folder, address, _process: process }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The texts that it has for a name.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<String> {
        let server = format!("@{}", self.address.ip());
        let asked = Command::new("kdig").args([&server, "+short", name, "TXT"]).output().expect("kdig");
        assert!(asked.status.success(), "{asked:?}");
        String::from_utf8_lossy(&asked.stdout).lines().map(|line| line.trim_matches('"').to_owned()).collect()
    }

    /// The file of its key, for `knsupdate -k`.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn write(folder: &Path, address: SocketAddr) -> anyhow::Result<()> {
        let (at, ip) = (folder.display(), address.ip());
        let mut config = format!(
            "server:\n  listen: {ip}@53\n  rundir: {at}\n  pidfile: {at}/pid\n\
             database:\n  storage: {at}\n  journal-db-max-size: 16M\n  kasp-db-max-size: 5M\n  timer-db-max-size: 1M\n\
             log:\n  - target: stderr\n    any: info\n\
             key:\n  - id: {KEY}\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             acl:\n  - id: {DOMAIN}\n    key: {KEY}\n    action: update\n  \
               - id: {DELEGATED}\n    key: {KEY}\n    action: update\n    update-owner: name\n    \
                 update-owner-match: equal\n    update-owner-name: {ALIAS}.\n\
             zone:\n"
        );
        for (zone, more) in
            [(DOMAIN, String::new()), (DELEGATED, format!("_acme-challenge CNAME {ALIAS}.\n"))]
        {
            let records = format!(
                "$ORIGIN {zone}.\n$TTL 1\n@ SOA ns admin 1 3600 600 86400 1\n@ NS ns\nns A {ip}\n{more}"
            );
            fs::write(folder.join(zone), records)?;
            config.push_str(&format!(
                "  - domain: {zone}\n    storage: {at}\n    file: {zone}\n    acl: {zone}\n"
            ));
        }
        fs::write(folder.join("key"), format!("hmac-sha256:{KEY}:{SECRET}\n"))?;
        Ok(fs::write(folder.join("knot.conf"), config)?)
    }
}

fn free_ports() -> std::io::Result<[SocketAddr; 2]> {
    let [first, second] = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([first.local_addr()?, second.local_addr()?])
}

/// Starts a server, and waits until it listens.
fn start(mut command: Command, log: &Path, listens: &[SocketAddr]) -> anyhow::Result<Child> {
    let log_file = fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    let mut child = command.spawn().context("start it: `scripts/install-deps.sh test` installs it")?;
    let until = Instant::now() + START_LIMIT;
    while !listens.iter().all(|at| TcpStream::connect(at).is_ok()) {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("it ended: {status}: {}", fs::read_to_string(log)?);
        }
        anyhow::ensure!(Instant::now() < until, "it does not listen: {}", fs::read_to_string(log)?);
        std::thread::sleep(LOOK);
    }
    Ok(child)
}
