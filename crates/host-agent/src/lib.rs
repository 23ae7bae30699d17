//! The host agent: owns this host's virtual machines, disks and networks, and keeps its own journal of them.
//!
//! What lives here: sandboxes ([`sandbox`], one task each), their [`journal`], templates, imports of images, the RPC service for the control plane,
//! spare machines ([`warm`]), volumes ([`volumes`]), what is logged of sandboxes ([`logs`]), enrolment and heartbeats. What does not: how a VMM is driven (`vmm`), what a network slot is (`hostnet`), files (`storage`). It
//! never touches PostgreSQL, and tells the control plane nothing that is not in its journal.
//!
//! A start goes: lock, store, VMM, then the journal against what exists (machines that run are taken over, the rest is reclaimed,
//! whatever has no record is removed), then enrolment, then service. An end leaves every machine of a sandbox running.

mod arrivals;
mod boot;
mod enrolment;
mod error;
mod exec;
mod files;
mod fork;
mod guest;
mod import;
mod instance_lock;
mod journal;
mod logs;
mod logs_wire;
mod machine_facts;
mod membership;
mod metrics;
mod network_wire;
mod processes;
mod push;
mod registry;
mod resources;
mod sandbox;
mod service;
mod snapshot;
mod surroundings;
mod template;
mod tls;
mod tree;
mod tunnel;
mod virtualization;
mod volumes;
mod warm;
mod wire;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{ConnectRpcService, Router, Server};
use sandbar_hostnet::{NetConfig, Pool};
use sandbar_oci::Cache;
use sandbar_proto::host::HostServiceExt as _;
use sandbar_storage::{DebianSource, GuestBinaries, Store, StoreOptions};
use sandbar_vmm::{Cgroups, DiskRate, ProcessIdentity, firecracker, process};
use tokio_util::sync::CancellationToken;

pub use enrolment::{EnrolmentError, Facts};
pub use error::Error;
pub use instance_lock::{InstanceLock, LockError};
pub use journal::JournalError;
pub use sandbar_oci::Registries;
pub use sandbox::State;
pub use tls::TlsError;
pub use virtualization::{Virtualization, VirtualizationError, VmmChoice};
pub use warm::{NoWarmPool, WarmPool};

/// Pages of logs that are read at a time.
const LOG_READS: usize = 2;
/// Of the host's memory, the part that spare machines leave to others.
const FLOOR_SHARE: u64 = 10;

/// What a host agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agent's folder: journal, credentials, store.
    pub data_dir: PathBuf,
    /// The control plane's URL.
    pub control_url: String,
    /// A registration token, for a host that has no credentials.
    pub registration_token: Option<String>,
    /// Where to serve RPCs.
    pub listen: SocketAddr,
    /// Where the control plane reaches this agent (`HOST:PORT`); the listening address where it is not given.
    pub advertise: Option<String>,
    /// Addresses between host and sandboxes.
    pub network: ipnet::Ipv4Net,
    /// Private networks that sandboxes may reach if their policy allows them.
    pub private_egress: Vec<ipnet::Ipv4Net>,
    /// Network slots to keep ready.
    pub spare_slots: usize,
    /// Machines to keep ready.
    pub warm_pool: WarmPool,
    /// What of the host's memory those leave to others, in MiB; a tenth of it where it is not given.
    pub warm_pool_floor_mb: Option<u64>,
    /// The store's options.
    pub store: StoreOptions,
    /// Which virtual machine monitor to use.
    pub vmm: VmmChoice,
    /// What each sandbox may take of the host.
    pub limits: Limits,
    /// What runs in the guest.
    pub guest: GuestBinaries<'static>,
    /// Where Debian's packages come from.
    pub debian: DebianSource,
    /// Registries of images that the operator vouches for.
    pub registries: Registries,
    /// Bytes of layers of images that are kept for the next import.
    pub layer_cache: u64,
}

impl Config {
    /// The folder of disks.
    #[must_use]
    pub fn store_dir(data_dir: &std::path::Path) -> PathBuf {
        data_dir.join("store")
    }

    /// Locked by the agent that owns the folder.
    #[must_use]
    pub fn lock_file(data_dir: &std::path::Path) -> PathBuf {
        data_dir.join("agent.lock")
    }

    /// The host's credentials.
    #[must_use]
    pub fn credentials_file(data_dir: &std::path::Path) -> PathBuf {
        data_dir.join("credentials.json")
    }
}

/// What each sandbox may take of the host, whatever its size.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The first of the users that virtual machine monitors run as; 2^23 from it on are theirs alone.
    pub first_user: u32,
    /// How fast it may use its disk.
    pub disk_rate: DiskRate,
    /// Bytes that it may send, and be sent, in a second.
    pub network_rate: Option<NonZeroU64>,
}

impl Limits {
    /// The first user, where nobody says otherwise.
    pub const FIRST_USER: u32 = resources::FIRST_USER;
    /// The last number that may be the first user.
    pub const LAST_FIRST_USER: u32 = u32::MAX - resources::USERS;
}

/// Why the agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent owns the folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file or socket operation failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The store is not usable.
    #[error("the store is not usable")]
    Store(#[from] sandbar_storage::StoreError),
    /// The guest kernel cannot be made.
    #[error("the guest kernel cannot be prepared")]
    Kernel(#[from] sandbar_storage::KernelError),
    /// No VMM is usable.
    #[error("no virtual machine monitor is usable")]
    Virtualization(#[from] VirtualizationError),
    /// A machine without a record cannot be ended.
    #[error("a machine without a record cannot be ended")]
    Stray(#[from] sandbar_vmm::VmmError),
    /// The journal is not usable.
    #[error("the journal is not usable")]
    Journal(#[from] JournalError),
    /// The network is not usable.
    #[error("the network is not usable")]
    Network(#[from] sandbar_hostnet::NetError),
    /// What a former agent left cannot be taken up.
    #[error("what a former agent left cannot be taken up")]
    Resume(#[from] Error),
    /// The control plane does not take this host.
    #[error("the host cannot enrol")]
    Enrolment(#[from] EnrolmentError),
    /// The credentials do not serve TLS.
    #[error("the host's credentials cannot be used")]
    Tls(#[from] TlsError),
    /// A task of the start died.
    #[error("a part of the start died")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs the agent until `shutdown`. Sandboxes run on after it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|source| StartError::Io { action: "make the agent's folder", source })?;
    let _lock = InstanceLock::take(&Config::lock_file(&config.data_dir))?;

    let (store, kernel) = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || -> Result<_, StartError> {
            let store = Store::open(&Config::store_dir(&config.data_dir), &config.store)?;
            let kernel =
                sandbar_storage::prepare_kernel(&store, config.guest, &config.debian, &|step: &str| {
                    tracing::info!(step, "preparing the guest kernel");
                })?;
            Ok((store, kernel))
        })
        .await??
    };
    let journal = journal::Journal::open(config.data_dir.join("journal"))?;
    let records = journal.read_all()?;
    let in_use: Vec<_> =
        records.iter().filter(|record| record.phase.can_go_on()).map(|record| record.machine.vmm).collect();
    let virtualization = Virtualization::detect(config.vmm, &in_use, &kernel, &config.data_dir).await?;
    tracing::info!(reason = virtualization.reason, "virtual machine monitor chosen");
    let Virtualization { vmm, cgroups, .. } = virtualization;
    match cgroups.shortfall() {
        None => tracing::info!(controllers = cgroups.describe(), "machines are bounded"),
        Some(reason) => tracing::warn!(reason, "machines are not bounded by the host in every way"),
    }

    // The journal against what exists. Nothing is served before the two agree.
    let mut found = Vec::new();
    for record in records {
        found.push(registry::Found::look(&*vmm, &store, record).await);
    }
    let keep: Vec<_> = found.iter().filter_map(registry::Found::process).collect();
    reclaim_machines(store.dir(), &cgroups, &keep).await?;
    let in_use: Vec<_> = found.iter().filter_map(registry::Found::slot_in_use).collect();
    let network = NetConfig {
        pool_size: config.spare_slots,
        private_egress: config.private_egress.clone(),
        bytes_per_second: config.limits.network_rate,
        ..NetConfig::new(virtualization::network_tag(&config.data_dir), config.network)
    };
    let pool = Pool::open(network, &in_use).await?;
    let mut known: Vec<_> = found.iter().map(registry::Found::id).collect();
    // Their records may be mended; the files of their pauses are all that is left of them.
    known.extend(journal.set_aside()?.into_iter().filter(|&id| store.has_paused(id)));

    let layers = Cache::open(&store.layers_dir(), config.layer_cache).map_err(Error::from)?;
    let resources = Arc::new(resources::Resources {
        vmm,
        store,
        pool,
        journal,
        kernel,
        inventory: resources::Inventory::starting_now(),
        deadlines: resources::Deadlines::default(),
        first_user: config.limits.first_user,
        disk_rate: config.limits.disk_rate,
        spares: warm::Spares::new(
            config.warm_pool,
            config.warm_pool_floor_mb.unwrap_or_else(|| machine_facts::memory_mb() / FLOOR_SHARE),
        ),
        settling: tokio::sync::Semaphore::new(1),
        log_reads: tokio::sync::Semaphore::new(LOG_READS),
        arrivals: arrivals::Arrivals::default(),
        imports: import::Imports::new(layers, config.registries.clone()),
        volumes: Arc::default(),
    });
    let registry = registry::Registry::new(Arc::clone(&resources));
    registry.resume(found).await;
    registry.remove_strays(&known).await?;

    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Io { action: "listen for the control plane", source })?;
    let local = listener
        .local_addr()
        .map_err(|source| StartError::Io { action: "listen for the control plane", source })?;
    let address = config.advertise.clone().unwrap_or_else(|| local.to_string());
    let facts = Facts {
        arch: sandbar_types::Arch::host(),
        cpu_cores: machine_facts::cpu_cores(),
        memory_mb: u32::try_from(machine_facts::memory_mb()).unwrap_or(u32::MAX),
        disk_gb: u32::try_from(machine_facts::disk_gb(resources.store.dir())).unwrap_or(u32::MAX),
        address: address.clone(),
        vmm: resources.vmm.kind(),
    };
    let control = enrolment::ControlPlane::new(&config.control_url)?;
    let credentials_file = Config::credentials_file(&config.data_dir);
    let credentials = control.enrol(&credentials_file, config.registration_token.as_deref(), &facts).await?;

    let service = Arc::new(service::Service {
        host_id: credentials.host_id,
        registry: registry.clone(),
        resources: Arc::clone(&resources),
        shutdown: shutdown.clone(),
    });
    let identity = tls::Identity::new(&credentials)?;
    let server_config = tls::server_config(&credentials, Arc::clone(&identity))?;
    let server = Server::from_listener(listener)
        .with_tls(server_config)
        .with_http2_initial_stream_window_size(tunnel::STREAM_WINDOW)
        .with_http2_initial_connection_window_size(tunnel::CONNECTION_WINDOW);
    let service = ConnectRpcService::new(service.register(Router::new())).with_interceptor(metrics::Calls);
    let serving = server.serve_with_service_and_shutdown(service, shutdown.clone().cancelled_owned());
    tracing::info!(%address, host = %credentials.host_id, "serving");
    let membership = membership::Membership::new(
        control,
        credentials,
        credentials_file,
        identity,
        facts,
        config.registration_token.clone(),
    );
    let tenants = membership::OwnTenants { registry: registry.clone(), resources: Arc::clone(&resources) };
    let reporting = tokio::spawn(membership.keep(tenants, shutdown.clone()));
    let sampling = tokio::spawn(metrics::run(registry.clone(), Arc::clone(&resources), shutdown.clone()));
    let keeping =
        tokio::spawn(warm::keep(Arc::clone(&resources.spares), Arc::clone(&resources), shutdown.clone()));
    let served = serving.await;
    shutdown.cancel();
    let _ended = sampling.await;
    let _ended = reporting.await;
    registry.shut_down().await;
    // After the last create: a spare is claimed, or ended here.
    let _ended = keeping.await;
    resources.pool.shutdown().await?;
    served.map_err(|e| StartError::Io { action: "serve the control plane", source: std::io::Error::other(e) })
}

/// Ends the machines that run from this store without a record: started by an agent that was killed before it could write one. They
/// are known by their control groups, which a machine cannot leave; where there are none, by the mark that they were started with or
/// the jail that they are in. And removes what is left of those that ended meanwhile.
async fn reclaim_machines(
    store: &std::path::Path,
    cgroups: &Cgroups,
    keep: &[ProcessIdentity],
) -> Result<(), StartError> {
    let failed = |source| StartError::Io { action: "look for machines without a record", source };
    let mut found = cgroups.processes().map_err(failed)?;
    found.extend(process::machines_under(store).map_err(failed)?.into_iter().map(|(_, machine)| machine));
    for machine in found.into_iter().filter(|machine| !keep.contains(machine)) {
        tracing::warn!(%machine, "machine without a record ended");
        process::kill(machine).await?;
    }
    firecracker::remove_abandoned(store, keep).await?;
    cgroups.sweep().map_err(failed)
}
