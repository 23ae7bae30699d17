//! Under which id, and on which port, this machine is a host of its own control plane.

use std::fs;
use std::io;
use std::net::TcpListener;

use anyhow::{Context as _, bail};
use sandbar_control::hosts::{HostError, NewHost};
use sandbar_control::{Control, OpContext};
use sandbar_types::Id;
use sandbar_types::id::Host;
use serde::{Deserialize, Serialize};

use super::agent::is_registered;
use crate::data_dir::{DataDir, replace_private};

/// Where the search for a free port begins; below the range from which outgoing connections take theirs.
const FIRST_PORT: u16 = 7443;
const PORTS: u16 = 200;

/// Kept in `local-host.json`. The port is what the control plane was told when the host registered, so it stays.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct LocalHost {
    pub(super) host_id: Id<Host>,
    pub(super) agent_port: u16,
}

impl LocalHost {
    /// Reads who this machine is, or adds it to the fleet.
    pub(super) async fn ensure(data: &DataDir, control: &Control) -> anyhow::Result<Self> {
        let path = data.local_host();
        let known = match fs::read(&path) {
            Ok(bytes) => {
                let known: Self = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                Some(known)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let host = match known {
            Some(known) => {
                match control.host_get(&OpContext::system(), known.host_id).await {
                    Ok(_) => {}
                    Err(HostError::NotFound { id }) => bail!(
                        "this machine is registered as {id}, which the database does not know: it belongs to another database. \
                         Name that one in DATABASE_URL, or start anew with another --data-dir"
                    ),
                    Err(error) => return Err(error).context("cannot look this machine up"),
                }
                // Until it registers, nobody was told the port.
                if is_registered(data) { known } else { Self { agent_port: free_port()?, ..known } }
            }
            None => {
                if is_registered(data) {
                    bail!(
                        "{} is missing, but the host agent in {} is registered: move that folder away to register anew",
                        path.display(),
                        data.host().display()
                    );
                }
                let new = NewHost { provider: Some("local".to_owned()), ..NewHost::default() };
                let created = control.host_create(&OpContext::system(), &new).await?;
                Self { host_id: created.host.id, agent_port: free_port()? }
            }
        };
        replace_private(&path, &serde_json::to_vec(&host)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(host)
    }
}

/// A port that is free now. Should another program take it before the agent does, the agent says so.
fn free_port() -> anyhow::Result<u16> {
    (FIRST_PORT..FIRST_PORT + PORTS)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| format!("none of {PORTS} ports from {FIRST_PORT} on is free for the host agent"))
}
