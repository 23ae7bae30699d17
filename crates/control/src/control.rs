//! The handle to the control plane, and what all operations share.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sandbar_store::sandboxes::SandboxRow;
use sandbar_store::{Store, StoreError};
use sandbar_trace::FutureExt as _;
use sandbar_types::Id;
use sandbar_types::id::Host;
use tokio::sync::{AcquireError, Notify, Semaphore, SemaphorePermit, broadcast, watch};
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::builds::{self, BuildQueue, FilesPlace, QueueError, TicketKey};
use crate::host_client::{Circuit, HostClient, HostClients};
use crate::hosts::HostTokens;
use crate::last_use::LastUse;
use crate::news::News;
use crate::oauth::StateKey;
use crate::people::passwords::Passwords;
use crate::people::tokens::UserTokens;
use crate::pki::{CertificateAuthority, PkiError};
use crate::reconcile::Wanted;
use crate::sandboxes::SandboxError;
use crate::secrets::{CertificateKey, DepositKey, GuestKey, MasterKey, SecretError, VaultKey};
use crate::transfer::{Bucket, BucketError, Fetches};

/// Heartbeats that a slow listener may lag behind.
const HEARD_BACKLOG: usize = 64;
/// Network policies that are being replaced at the same time. Each holds a connection to the database while a host is asked: hosts that
/// do not answer must leave most of them to others. One host has a few of the turns (`HostClient::network_turn`).
const NETWORK_TURNS: usize = 6;

/// The control plane. Cheap to clone; stateless but for connections: any number of replicas may run on one database.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    config: Config,
    authority: CertificateAuthority,
    host_tokens: HostTokens,
    guest_key: GuestKey,
    user_tokens: UserTokens,
    state_key: StateKey,
    ticket_key: TicketKey,
    deposit_key: DepositKey,
    vault_key: VaultKey,
    certificate_key: CertificateKey,
    passwords: Passwords,
    last_use: LastUse,
    host_clients: HostClients,
    network_turns: Semaphore,
    wanted: Wanted,
    news: Arc<News>,
    build_queue: Arc<dyn BuildQueue>,
    fetches: Fetches,
    bucket: Option<Bucket>,
    files_place: Option<FilesPlace>,
    copies_wanted: Notify,
    turn: AtomicU64,
    heard: broadcast::Sender<Id<Host>>,
    work: TaskTracker,
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The platform's keys cannot be had.
    #[error("the platform's keys cannot be had")]
    Secret(#[from] SecretError),
    /// Object storage cannot be used.
    #[error("the object storage of snapshots cannot be used: see the variables AWS_*")]
    Bucket(#[from] BucketError),
    /// Certificates cannot be made.
    #[error("the certificate authority cannot be used")]
    Pki(#[from] PkiError),
    /// The queue of builds cannot be used.
    #[error("the queue of builds cannot be used")]
    Queue(#[from] QueueError),
}

/// The work was cut off by the end of this process; what it began is finished or undone by the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is going down")]
pub struct ShuttingDown;

/// Whether the platform can take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// How many hosts are online.
    pub hosts_online: u32,
}

impl Control {
    /// Starts on a migrated database: reads the platform's keys, or makes them at the first start.
    pub async fn start(store: Store, master_key: &MasterKey, config: Config) -> Result<Self, StartError> {
        let authority = CertificateAuthority::load(master_key, &store).await?;
        let host_tokens = HostTokens::load(master_key, &store).await?;
        let guest_key = GuestKey::load(master_key, &store).await?;
        let user_tokens = UserTokens::load(master_key, &store).await?;
        let state_key = StateKey::load(master_key, &store).await?;
        let deposit_key = DepositKey::load(master_key, &store).await?;
        let vault_key = VaultKey::load(master_key, &store).await?;
        let certificate_key = CertificateKey::load(master_key, &store).await?;
        let ticket_key = TicketKey::load(master_key, &store).await?;
        let host_clients = HostClients::new(authority.client_config()?, config.probe_deadline);
        let news = Arc::new(News::default());
        let build_queue = builds::open_queue(&store, Arc::clone(&news), &config.builds)?;
        let bucket = config.snapshot_store.as_ref().map(Bucket::open).transpose()?;
        let folder = config.builds.files_folder.clone().map(FilesPlace::Folder);
        let files_place = bucket.clone().map(FilesPlace::Bucket).or(folder);
        let inner = Inner {
            store,
            config,
            authority,
            host_tokens,
            guest_key,
            user_tokens,
            state_key,
            ticket_key,
            deposit_key,
            vault_key,
            certificate_key,
            passwords: Passwords::default(),
            last_use: LastUse::default(),
            host_clients,
            network_turns: Semaphore::new(NETWORK_TURNS),
            wanted: Wanted::default(),
            news,
            build_queue,
            fetches: Fetches::default(),
            bucket,
            files_place,
            copies_wanted: Notify::new(),
            turn: AtomicU64::new(0),
            heard: broadcast::channel(HEARD_BACKLOG).0,
            work: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the database answers and how many hosts are online.
    pub async fn readiness(&self) -> Result<Readiness, StoreError> {
        Ok(Readiness { hosts_online: self.store().hosts_online().await? })
    }

    /// The hosts whose heartbeats arrive at this very control plane, from now on.
    pub fn heard_hosts(&self) -> broadcast::Receiver<Id<Host>> {
        self.inner.heard.subscribe()
    }

    /// Whether a host answers this very control plane, and each change of that. None = it was not called yet.
    #[must_use]
    pub fn host_circuit(&self, host: Id<Host>) -> Option<watch::Receiver<Circuit>> {
        self.host_clients().circuit(host)
    }

    /// Tells [`Self::heard_hosts`].
    pub(crate) fn host_heard(&self, host: Id<Host>) {
        // Nobody need listen.
        let _ = self.inner.heard.send(host);
    }

    /// Waits until all work that was begun is finished or undone. For an orderly end: take no more requests first.
    pub async fn drain(&self) {
        self.inner.work.close();
        self.inner.work.wait().await;
    }

    /// Runs work to its end even when the caller goes away: a client that closes its connection must not leave half a sandbox.
    pub(crate) async fn finish<T: Send + 'static, E: From<ShuttingDown> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        match self.inner.work.spawn(work.with_current_context()).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(ShuttingDown.into()),
        }
    }

    /// Lets work go on by itself, to its end or to that of the process: something else finishes it after a kill.
    pub(crate) fn go_on(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.work.spawn(work.with_current_context());
    }

    /// The client of the host that a sandbox was placed on.
    pub(crate) fn client_of(&self, row: &SandboxRow) -> Result<HostClient, SandboxError> {
        match (row.host_id, &row.host_address) {
            (Some(host), Some(address)) => {
                sandbar_trace::note("sandbar.sandbox.id", row.id);
                Ok(self.host_clients().get(host, address))
            }
            _ => Err(SandboxError::Missing { id: row.id }),
        }
    }

    /// Asks the background work to hold a host's rows against its inventory soon.
    pub(crate) fn wants_reconcile(&self, host: Id<Host>) {
        self.inner.wanted.add(host);
    }

    /// Counts placements, for policies that take turns. Replicas need not agree.
    pub(crate) fn next_turn(&self) -> u64 {
        self.inner.turn.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn authority(&self) -> &CertificateAuthority {
        &self.inner.authority
    }

    pub(crate) fn host_tokens(&self) -> &HostTokens {
        &self.inner.host_tokens
    }

    pub(crate) fn guest_key(&self) -> &GuestKey {
        &self.inner.guest_key
    }

    pub(crate) fn user_tokens(&self) -> &UserTokens {
        &self.inner.user_tokens
    }

    pub(crate) fn state_key(&self) -> &StateKey {
        &self.inner.state_key
    }

    pub(crate) fn deposit_key(&self) -> &DepositKey {
        &self.inner.deposit_key
    }

    pub(crate) fn vault_key(&self) -> &VaultKey {
        &self.inner.vault_key
    }

    pub(crate) fn certificate_key(&self) -> &CertificateKey {
        &self.inner.certificate_key
    }

    pub(crate) fn ticket_key(&self) -> &TicketKey {
        &self.inner.ticket_key
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.inner.passwords
    }

    pub(crate) fn last_use(&self) -> &LastUse {
        &self.inner.last_use
    }

    /// The clients of the fleet's hosts.
    #[must_use]
    pub fn host_clients(&self) -> &HostClients {
        &self.inner.host_clients
    }

    /// Waits for a turn to replace a network policy. The semaphore is never closed.
    pub(crate) async fn network_turn(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.inner.network_turns.acquire().await
    }

    pub(crate) fn news(&self) -> &News {
        &self.inner.news
    }

    pub(crate) fn build_queue(&self) -> &dyn BuildQueue {
        &*self.inner.build_queue
    }

    pub(crate) fn wanted(&self) -> &Wanted {
        &self.inner.wanted
    }

    pub(crate) fn fetches(&self) -> &Fetches {
        &self.inner.fetches
    }

    /// Where copies of snapshots are.
    pub(crate) fn bucket(&self) -> Option<&Bucket> {
        self.inner.bucket.as_ref()
    }

    /// Where archives for builds are.
    pub(crate) fn build_files_place(&self) -> Option<&FilesPlace> {
        self.inner.files_place.as_ref()
    }

    /// Tells whoever looks after object storage that there is something to do.
    pub(crate) fn copies_wanted(&self) -> &Notify {
        &self.inner.copies_wanted
    }
}
