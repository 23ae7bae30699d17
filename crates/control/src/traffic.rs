//! Traffic to the ports of sandboxes, as far as it is decided here: where a sandbox is, who may reach it, the way to it. HTTP is the
//! edge's affair.

use sandbar_store::StoreError;
use sandbar_types::id::{self, Host, Team};
use sandbar_types::{Id, Ingress, PauseMode, SandboxStatus};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::auth::AuthError;
use crate::host_client::{HostError, Reason, TunnelStream};
use crate::sandboxes::{Resume, Sandbox, SandboxError};
use crate::{Actor, Control, OpContext};

pub use crate::auth::is_api_key;

/// A sandbox as traffic sees it. Nobody was asked yet whether they may reach it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Destination {
    pub id: Id<id::Sandbox>,
    pub team_id: Id<Team>,
    pub status: SandboxStatus,
    pub ingress: Ingress,
    host: Option<(Id<Host>, String)>,
}

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The sandbox does not run, whatever its row said.
    #[error("the sandbox does not run on its host")]
    NotRunning(#[source] HostError),
    /// Nothing listens.
    #[error("nothing listens on the port")]
    PortClosed,
    /// Whoever listens takes no connections.
    #[error("what listens on the port takes no connections")]
    PortStuck,
    /// As many connections as there may be.
    #[error("the guest has as many connections as it takes")]
    Full,
    /// The host does not answer, or fails.
    #[error("the sandbox's host does not answer")]
    Host(#[source] HostError),
    /// No host has it.
    #[error("no host has the sandbox yet")]
    NoHost,
}

/// What gives access to a sandbox, for those who may have it.
pub struct SandboxAccess {
    /// What its guest agent takes.
    pub access_token: SecretString,
    /// What lets requests through to its other ports.
    pub traffic_token: SecretString,
}

impl Control {
    /// Where a sandbox is. None if it never was.
    pub async fn destination(&self, id: Id<id::Sandbox>) -> Result<Option<Destination>, StoreError> {
        let row = self.store().sandbox_find_any(id).await?;
        Ok(row.map(|row| Destination {
            id,
            team_id: row.team_id,
            status: row.status,
            // What woke it would not find what it is for: its servers are gone, and a boot takes longer than anybody waits.
            ingress: Ingress {
                auto_resume: row.ingress.auto_resume && row.pause_mode != Some(PauseMode::Filesystem),
                ..row.ingress
            },
            host: row.host_id.zip(row.host_address),
        }))
    }

    /// What gives access to a sandbox that the caller may act on.
    #[must_use]
    pub fn sandbox_access(&self, sandbox: &Sandbox) -> SandboxAccess {
        SandboxAccess {
            access_token: self.guest_key().token(sandbox.id),
            traffic_token: self.guest_key().traffic_token(sandbox.id),
        }
    }

    /// The name below which sandboxes have theirs, if there is one.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.config().domain.as_deref()
    }

    /// Whether this is the sandbox's traffic token.
    #[must_use]
    pub fn is_traffic_token(&self, id: Id<id::Sandbox>, presented: &[u8]) -> bool {
        self.guest_key().traffic_token(id).expose_secret().as_bytes().ct_eq(presented).into()
    }

    /// Whether this is what the sandbox's guest agent takes.
    #[must_use]
    pub fn is_access_token(&self, id: Id<id::Sandbox>, presented: &[u8]) -> bool {
        self.guest_key().token(id).expose_secret().as_bytes().ct_eq(presented).into()
    }

    /// Whether this is a key of the team.
    pub async fn is_key_of(&self, team: Id<Team>, presented: &str) -> Result<bool, AuthError> {
        match self.authenticate_api_key(presented).await {
            Ok(Actor::ApiKey { team: of, .. }) => Ok(of == team),
            Ok(_) | Err(AuthError::Invalid) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a port. Waits for a sandbox that is about to run, no longer than a resume may take.
    pub async fn open_tunnel(&self, to: &Destination, port: u16) -> Result<TunnelStream, TunnelError> {
        let (host, address) = to.host.as_ref().ok_or(TunnelError::NoHost)?;
        let client = self.host_clients().get(*host, address);
        let opened = client.open_tunnel(to.id, port, self.config().resume_deadline).await;
        opened.map_err(|error| match error.reason() {
            Some(Reason::REASON_SANDBOX_NOT_FOUND | Reason::REASON_INVALID_STATE) => {
                if to.status == SandboxStatus::Running {
                    self.wants_reconcile(*host);
                }
                TunnelError::NotRunning(error)
            }
            Some(Reason::REASON_PORT_CLOSED) => TunnelError::PortClosed,
            Some(Reason::REASON_TIMEOUT) => TunnelError::PortStuck,
            Some(Reason::REASON_BUSY) => TunnelError::Full,
            _ => TunnelError::Host(error),
        })
    }

    /// Lets a paused sandbox go on because there is traffic for it. That somebody else does so at this moment is a success.
    pub async fn resume_for_traffic(&self, to: &Destination) -> Result<(), SandboxError> {
        let ctx = OpContext::new(Uuid::now_v7(), Actor::Traffic { team: to.team_id });
        let sandbox = self.sandbox_get(&ctx, to.id).await?;
        match self.sandbox_resume(&ctx, &sandbox, Resume::default()).await {
            Ok(_)
            | Err(SandboxError::InvalidState {
                status: SandboxStatus::Running | SandboxStatus::Snapshotting | SandboxStatus::Resuming,
                ..
            }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
