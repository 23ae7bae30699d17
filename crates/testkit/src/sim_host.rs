//! A simulated host agent: the real RPC contract over real mutual TLS, sandboxes that exist only in memory, and
//! switches that make it fail in every way that a host can.
//!
//! - this file: one host's life. It binds, is enrolled with the certificate that the control plane signed, crashes and
//!   comes back with its sandboxes still there.
//! - `sim_host/faults.rs`: what can be made to go wrong, and when.
//! - `sim_host/inventory.rs`: the sandboxes and templates it holds.
//! - `sim_host/life.rs`: pause, resume, snapshots, forks, deadlines and figures of those.
//! - `sim_host/logs.rs`: what happened in them, as a test says.
//! - `sim_host/transfer.rs`: templates on their way from it and to it.
//! - `sim_host/volumes.rs`: its volumes, and who has them.
//! - `sim_host/service.rs`: the RPCs.
//! - `sim_host/tunnel.rs`: ports of its guests; `sim_host/import.rs`: images that become templates.
//! - `sim_host/exec.rs`: commands; `sim_host/guest.rs`: the programs that its guests know.
//!
//! Nothing of the control plane is used here, so that this side of the contract is a second opinion on it.

mod exec;
mod faults;
mod guest;
mod import;
mod inventory;
mod life;
mod logs;
mod processes;
mod service;
mod transfer;
mod tunnel;
mod volumes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use connectrpc::{Router, Server};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use sandbar_proto::host as rpc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

pub use faults::{Fault, Gate, Rpc, Times};
pub use sandbar_proto::host::error_detail::Reason;
pub use sandbar_proto::host::{LogLevel, SandboxState};

use inventory::Inventory;

/// A host agent of which nothing but its speech is real.
pub struct SimHost {
    agent: Arc<Agent>,
    key: KeyPair,
    address: SocketAddr,
    /// Keeps the port for this host while its agent is dead: another host of the same process might be given it. Nothing listens on it.
    _port: TcpSocket,
    serving: Mutex<Serving>,
}

/// What the RPC handlers share.
struct Agent {
    inventory: Mutex<Inventory>,
    faults: faults::Faults,
    processes: guest::Processes,
    ports: tunnel::Ports,
    logs: logs::Logs,
}

/// Where the agent stands with its port.
#[derive(Default)]
enum Serving {
    /// The port is held, but nothing answers: the host has no certificate yet.
    Bound(TcpListener),
    /// Serving with this identity.
    Up(Arc<ServerConfig>, JoinHandle<()>),
    /// The process is dead; its sandboxes are not.
    Down(Arc<ServerConfig>),
    /// Between two of the above.
    #[default]
    Changing,
}

impl SimHost {
    /// A host that holds a port on the loopback address and waits to be enrolled.
    pub async fn bind() -> anyhow::Result<Self> {
        let port = socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = port.local_addr()?;
        let listener = listen(address)?;
        Ok(Self {
            agent: Arc::new(Agent {
                inventory: Mutex::new(Inventory::default()),
                faults: faults::Faults::default(),
                processes: guest::Processes::default(),
                ports: tunnel::Ports::default(),
                logs: logs::Logs::default(),
            }),
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            address,
            _port: port,
            serving: Mutex::new(Serving::Bound(listener)),
        })
    }

    /// The address at which the control plane reaches it.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Something happened in a sandbox.
    pub fn log(&self, id: &str, level: LogLevel, message: &str, fields: &[(&str, &str)]) {
        self.agent.logs.add(id, level, message, fields);
    }

    /// Nothing more will happen in a sandbox: whoever follows its log hears its end.
    pub fn end_log(&self, id: &str) {
        self.agent.logs.end(id);
    }

    /// A certificate signing request for its key, in PEM.
    pub fn csr(&self) -> anyhow::Result<String> {
        Ok(CertificateParams::new(Vec::new())?.serialize_request(&self.key)?.pem()?)
    }

    /// Takes the identity that the control plane answered to the registration, and begins to serve.
    ///
    /// An agent that has one already drops it and its connections: it has been registered anew.
    pub async fn enroll(&self, host_id: &str, cert_pem: &str, ca_pem: &str) -> anyhow::Result<()> {
        let tls = self.tls(cert_pem, ca_pem)?;
        host_id.clone_into(&mut self.agent.inventory().host_id);
        let listener = match self.take_serving() {
            Serving::Bound(listener) => listener,
            Serving::Up(_, task) => {
                end(task).await;
                listen(self.address)?
            }
            Serving::Down(_) | Serving::Changing => listen(self.address)?,
        };
        self.serve(listener, tls);
        Ok(())
    }

    /// Kills the agent as SIGKILL would: every connection and call breaks, the sandboxes live on.
    pub async fn crash(&self) -> anyhow::Result<()> {
        match self.take_serving() {
            Serving::Up(tls, task) => {
                end(task).await;
                *self.serving() = Serving::Down(tls);
                Ok(())
            }
            Serving::Bound(_) | Serving::Down(_) | Serving::Changing => {
                anyhow::bail!("only an agent that serves can crash")
            }
        }
    }

    /// Starts the agent again, on the same port, with the sandboxes that it had.
    pub async fn restart(&self) -> anyhow::Result<()> {
        match self.take_serving() {
            Serving::Down(tls) => {
                let listener = listen(self.address)?;
                self.agent.inventory().changed();
                self.serve(listener, tls);
                Ok(())
            }
            Serving::Bound(_) | Serving::Up(..) | Serving::Changing => {
                anyhow::bail!("only a crashed agent is started again")
            }
        }
    }

    fn serve(&self, listener: TcpListener, tls: Arc<ServerConfig>) {
        let router = Router::new().add_service(Arc::new(service::Service::new(Arc::clone(&self.agent))));
        let server = Server::from_listener(listener).with_tls(Arc::clone(&tls));
        let task = tokio::spawn(async move {
            // It ends only when its listener is broken: then calls fail, as they should.
            let _ = server.serve(router).await;
        });
        *self.serving() = Serving::Up(tls, task);
    }

    /// Only a caller with a client certificate of the same authority is let in.
    fn tls(&self, cert_pem: &str, ca_pem: &str) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(ca?)?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let chain = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Makes the next calls of `rpc` go wrong.
    pub fn inject(&self, rpc: Rpc, fault: Fault, times: Times) {
        self.agent.faults.inject(rpc, fault, times);
    }

    /// Holds calls of `rpc` at the door until the gate is opened.
    #[must_use]
    pub fn hold(&self, rpc: Rpc) -> Gate {
        let gate = Gate::default();
        self.agent.faults.inject(rpc, Fault::Hold(gate.clone()), Times::Once);
        gate
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.agent.faults.clear();
    }

    /// How many calls of `rpc` have arrived.
    #[must_use]
    pub fn calls(&self, rpc: Rpc) -> usize {
        self.agent.faults.calls(rpc)
    }

    /// Waits until `count` calls of `rpc` have arrived.
    pub async fn arrived(&self, rpc: Rpc, count: usize) {
        self.agent.faults.arrived(rpc, count).await;
    }

    /// The sandboxes it has, whatever their state.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<rpc::Sandbox> {
        self.agent.inventory().list()
    }

    /// Waits until it has `count` sandboxes.
    pub async fn sandboxes_are(&self, count: usize) {
        let mut counted = self.agent.inventory().counted();
        // The inventory, and with it the sender, lives as long as `self`.
        let _ = counted.wait_for(|now| *now == count).await;
    }

    /// The generation that a heartbeat reports.
    #[must_use]
    pub fn inventory_generation(&self) -> u64 {
        self.agent.inventory().generation
    }

    /// The VMM of `id` dies by itself.
    pub fn kill_vmm(&self, id: &str) {
        self.agent.inventory().set_state(id, SandboxState::SANDBOX_STATE_STOPPED, "the VMM ended by itself");
    }

    /// The host loses every trace of `id`.
    pub fn forget(&self, id: &str) {
        self.agent.inventory().remove(id);
    }

    /// A running sandbox that no control plane asked for, made this long ago.
    pub fn plant(&self, id: &str, age: std::time::Duration) {
        self.agent.inventory().plant(id, age);
    }

    /// From now on its clock says so many milliseconds more than ours.
    pub fn set_clock_ahead(&self, ms: i64) {
        self.agent.inventory().clock.ahead_ms = ms;
    }

    /// `id` was idle for its time-out, and the host pauses it by itself.
    pub fn auto_pause(&self, id: &str) {
        // A sandbox that cannot be paused now is one that is not idle.
        let _ = self.agent.inventory().expire(id);
    }

    /// `id` goes on although nobody knows that it was asked to: a request that came late.
    pub fn resume_late(&self, id: &str) {
        let _ = self.resume_of(id, 0);
    }

    /// A request to resume `id` comes that was made when its row had this generation, 0 = by somebody who does not say. Whether it goes on.
    pub fn resume_of(&self, id: &str, row_generation: u64) -> Result<(), connectrpc::ConnectError> {
        let request = rpc::ResumeSandboxRequest { id: id.to_owned(), row_generation, ..Default::default() };
        self.agent.inventory().resume(&request).map(|_| ())
    }

    /// The templates whose files it has.
    #[must_use]
    pub fn templates(&self) -> Vec<rpc::Template> {
        self.agent.inventory().list_templates()
    }

    /// The volumes that it has.
    #[must_use]
    pub fn volumes(&self) -> Vec<rpc::Volume> {
        self.agent.inventory().list_volumes()
    }

    /// Files of a template that nobody waits for: of a request that was carried out late.
    pub fn plant_template(&self, id: &str) {
        let request =
            rpc::CreateTemplateRequest { id: id.to_owned(), image: "base".to_owned(), ..Default::default() };
        // The image is known, so it cannot be refused.
        let _ = self.agent.inventory().create_template(request);
    }

    /// Something of a template's files is not what it was.
    pub fn spoil_template(&self, id: &str) {
        self.agent.inventory().spoil_template(id);
    }

    /// That many of the children of the coming forks fail by themselves.
    pub fn fail_children(&self, count: usize) {
        self.agent.inventory().failing_children = count;
    }

    /// What the control plane sent to create `id`.
    #[must_use]
    pub fn creation_of(&self, id: &str) -> Option<rpc::CreateSandboxRequest> {
        self.agent.inventory().creation_of(id)
    }

    /// From now on, what listens at `address` here listens on `port` in every guest.
    pub fn listen(&self, port: u16, address: SocketAddr) {
        self.agent.ports.listen(port, address);
    }

    /// The commands that were asked for in its guests, in order.
    #[must_use]
    pub fn commands(&self) -> Vec<rpc::Command> {
        self.agent.processes.all()
    }

    /// Waits until `count` commands run in its guests.
    pub async fn processes_are(&self, count: usize) {
        self.agent.processes.reach(count).await;
    }

    /// Waits until all commands in its guests together were sent these bytes, and no others.
    pub async fn processes_were_sent(&self, bytes: &[u8]) {
        self.agent.processes.were_sent(bytes).await;
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_serving(&self) -> Serving {
        std::mem::take(&mut *self.serving())
    }
}

/// Connections that may wait to be taken.
const BACKLOG: u32 = 1024;

/// A socket at an address that it shares with others of ours.
fn socket(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address).with_context(|| format!("bind {address}"))?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    socket(address)?.listen(BACKLOG).with_context(|| format!("listen at {address}"))
}

/// Ends the server at once: its port is free when this returns, and its connections break with it.
async fn end(server: JoinHandle<()>) {
    server.abort();
    let _ = server.await;
}

impl Drop for SimHost {
    fn drop(&mut self) {
        if let Serving::Up(_, task) = &*self.serving() {
            task.abort();
        }
    }
}

impl Agent {
    fn inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
