//! Calls to host agents: one lazily made connection per host (HTTP/2, mutual TLS), a deadline on every call, and a circuit that is
//! open while a host does not answer, so that nobody waits for it ([`circuit`]).
//!
//! The peer must prove the name of exactly the host that is meant ([`crate::pki::host_name`]), whatever address it answers at, so
//! that a host that takes over another's address is not mistaken for it.

mod circuit;
mod client;
mod connect;
mod error;
mod guest;
mod import;
mod life;
mod logs;
mod measured;
mod network;
mod transfer;
mod tunnel;
mod volumes;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandbar_types::Id;
use sandbar_types::id::Host;
use tokio::sync::watch;

pub use circuit::Circuit;
pub use client::{ExecStreamReceiver, ExecStreamSender, HostClient, ReadFileStream, TemplateSize};
pub use error::{HostError, Reason};
pub use import::{
    Archive, ImageDefaults, ImageSource, ImportEvent, ImportImage, ImportStream, Imported,
    RegistryCredentials,
};
pub(crate) use life::{on_timeout_word, timeout_from_word};
pub use logs::LogStream;
pub(crate) use network::network_word;
pub use tunnel::TunnelStream;

/// The clients of all hosts that were called so far. Cheap to clone.
#[derive(Clone)]
pub struct HostClients {
    inner: Arc<Inner>,
}

struct Inner {
    tls: Arc<rustls::ClientConfig>,
    probe_limit: Duration,
    clients: Mutex<HashMap<Id<Host>, HostClient>>,
}

impl HostClients {
    /// No client yet; each is made when it is first asked for, with this TLS configuration (client certificate and CA). A host that
    /// does not tell its health within `probe_limit` is silent.
    #[must_use]
    pub fn new(tls: Arc<rustls::ClientConfig>, probe_limit: Duration) -> Self {
        Self { inner: Arc::new(Inner { tls, probe_limit, clients: Mutex::default() }) }
    }

    /// The client of a host at an address (`ip:port` or `name:port`). A host that registered anew at another address gets a new
    /// client; calls that run on the old one end by themselves.
    #[must_use]
    pub fn get(&self, host: Id<Host>, address: &str) -> HostClient {
        let mut clients = self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match clients.get(&host) {
            Some(client) if client.address() == address => client.clone(),
            _ => {
                let client =
                    HostClient::new(host, address, Arc::clone(&self.inner.tls), self.inner.probe_limit);
                clients.insert(host, client.clone());
                client
            }
        }
    }

    /// Whether a host answers, as far as is known here.
    #[must_use]
    pub fn answers(&self, host: Id<Host>) -> bool {
        self.circuit(host).is_none_or(|circuit| *circuit.borrow() != Circuit::Open)
    }

    /// The circuit of a host that was called.
    #[must_use]
    pub fn circuit(&self, host: Id<Host>) -> Option<watch::Receiver<Circuit>> {
        let clients = self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(&host).map(HostClient::circuit)
    }

    /// Forgets the clients of all other hosts.
    pub(crate) fn keep(&self, hosts: &BTreeSet<Id<Host>>) {
        let mut clients = self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|host, _| hosts.contains(host));
    }

    /// Forgets a host's client.
    pub fn evict(&self, host: Id<Host>) {
        self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
    }
}
