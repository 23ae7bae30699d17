//! Calls to host agents: one lazily made connection per host (HTTP/2, mutual TLS), a deadline on every call.
//!
//! The peer must prove the name of exactly the host that is meant ([`crate::pki::host_name`]), whatever address it answers at, so
//! that a host that takes over another's address is not mistaken for it.

mod client;
mod connect;
mod error;
mod guest;
mod life;
mod network;
mod tunnel;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sandbar_types::Id;
use sandbar_types::id::Host;

pub use client::{ExecStreamReceiver, ExecStreamSender, HostClient, ReadFileStream, TemplateSize};
pub use error::{HostError, Reason};
pub(crate) use life::{on_timeout_word, timeout_from_word};
pub(crate) use network::network_word;
pub use tunnel::TunnelStream;

/// The clients of all hosts that were called so far. Cheap to clone.
#[derive(Clone)]
pub struct HostClients {
    inner: Arc<Inner>,
}

struct Inner {
    tls: Arc<rustls::ClientConfig>,
    clients: Mutex<HashMap<Id<Host>, HostClient>>,
}

impl HostClients {
    /// No client yet; each is made when it is first asked for, with this TLS configuration (client certificate and CA).
    #[must_use]
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self { inner: Arc::new(Inner { tls, clients: Mutex::default() }) }
    }

    /// The client of a host at an address (`ip:port` or `name:port`). A host that registered anew at another address gets a new
    /// client; calls that run on the old one end by themselves.
    #[must_use]
    pub fn get(&self, host: Id<Host>, address: &str) -> HostClient {
        let mut clients = self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner);
        match clients.get(&host) {
            Some(client) if client.address() == address => client.clone(),
            _ => {
                let client = HostClient::new(host, address, Arc::clone(&self.inner.tls));
                clients.insert(host, client.clone());
                client
            }
        }
    }

    /// Forgets a host's client.
    pub fn evict(&self, host: Id<Host>) {
        self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
    }
}
