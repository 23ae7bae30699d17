//! `sandbar host-agent`: one host alone, for a control plane elsewhere (or that of `sandbar up`, which starts this command).

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sandbar_host_agent::{Config, Limits, Registries, VmmChoice, WarmPool};
use sandbar_storage::{Backing, DebianSource, StoreOptions};
use sandbar_vmm::DiskRate;
use tokio_util::sync::CancellationToken;

use crate::figures;
use crate::guest_binaries::GUEST_BINARIES;
use crate::shutdown::Signals;

/// The variable that holds a registration token: arguments can be seen by every user of the machine.
pub(crate) const REGISTER_VARIABLE: &str = "SANDBAR_REGISTER_TOKEN";
/// Where nobody says otherwise.
pub(crate) const DEFAULT_NETWORK: &str = "10.213.0.0/16";

/// Run a host agent: make this machine a host of a control plane
///
/// The agent owns this machine's sandboxes. Stopping it leaves them running; the next start takes them up again. Variables in a file
/// `.env` of the working folder are read. Traces go to the collector of OpenTelemetry that OTEL_EXPORTER_OTLP_ENDPOINT names, if it does.
#[derive(Debug, Args)]
pub(crate) struct HostAgentArgs {
    /// Folder for everything that the agent keeps
    #[arg(
        long,
        env = "SANDBAR_HOST_DATA_DIR",
        value_name = "FOLDER",
        default_value = "/var/lib/sandbar/host"
    )]
    data_dir: PathBuf,

    /// Address of the control plane
    #[arg(long, env = "SANDBAR_CONTROL_URL", value_name = "URL")]
    control_url: String,

    /// One-time token to register with, at the first start
    #[arg(long, env = REGISTER_VARIABLE, value_name = "TOKEN", hide_env_values = true)]
    register: Option<String>,

    /// Address on which the control plane's calls are answered
    #[arg(long, env = "SANDBAR_HOST_LISTEN", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7443")]
    listen: SocketAddr,

    /// Address under which the control plane reaches this host, as told when it registers [default: that of --listen]
    #[arg(long, env = "SANDBAR_HOST_ADDRESS", value_name = "HOST:PORT")]
    address: Option<String>,

    /// Addresses for the links between this machine and its sandboxes; nothing else here may use them
    #[arg(long, env = "SANDBAR_HOST_NETWORK", value_name = "CIDR", default_value = DEFAULT_NETWORK)]
    network: ipnet::Ipv4Net,

    /// Private network that sandboxes may reach where their policy allows it; may be repeated
    #[arg(long, env = "SANDBAR_ALLOW_PRIVATE_EGRESS", value_name = "CIDR", value_delimiter = ',')]
    allow_private_egress: Vec<ipnet::Ipv4Net>,

    #[command(flatten)]
    registries: RegistryArgs,

    /// Layers of images to keep for the next import, in GiB
    #[arg(long, env = "SANDBAR_LAYER_CACHE", value_name = "GIB", default_value_t = 10)]
    layer_cache: u64,

    /// Networks to keep ready for sandboxes to come
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    spare_networks: usize,

    /// Machines to keep restored for sandboxes to come: off, auto (by recent demand, a few at most), or a number for each template that
    /// is in use
    #[arg(long, env = "SANDBAR_WARM_POOL", value_name = "SIZE", default_value = "auto")]
    warm_pool: WarmPool,

    /// Memory in MiB that the machines of the warm pool leave free: below it they are given back [default: a tenth of the memory]
    #[arg(long, env = "SANDBAR_WARM_POOL_FLOOR", value_name = "MIB")]
    warm_pool_floor: Option<u64>,

    /// Where to tell Prometheus this agent's figures, at /metrics; a port alone is one of 127.0.0.1 [default: nowhere]
    #[arg(long, env = "SANDBAR_HOST_METRICS_LISTEN", value_name = "[ADDRESS:]PORT", value_parser = figures::address)]
    metrics_listen: Option<SocketAddr>,

    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    vmm: VmmArgs,
}

/// Which registries of images are asked otherwise than over TLS at a public address.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryArgs {
    /// Registry of images that is asked over plain HTTP, at whatever address, as images name it (127.0.0.1:5000); may be repeated
    #[arg(long, env = "SANDBAR_INSECURE_REGISTRY", value_name = "HOST:PORT", value_delimiter = ',')]
    insecure_registry: Vec<String>,

    /// Registry of images that may be at a private address, as images name it (registry.corp); may be repeated
    #[arg(long, env = "SANDBAR_PRIVATE_REGISTRY", value_name = "HOST[:PORT]", value_delimiter = ',')]
    private_registry: Vec<String>,
}

impl RegistryArgs {
    /// The same, for the command line of a host agent.
    pub(crate) fn as_arguments(&self) -> Vec<String> {
        let Self { insecure_registry, private_registry } = self;
        let insecure = insecure_registry.iter().map(|name| format!("--insecure-registry={name}"));
        insecure.chain(private_registry.iter().map(|name| format!("--private-registry={name}"))).collect()
    }
}

/// What runs virtual machines.
#[derive(Debug, Clone, Args)]
pub(crate) struct VmmArgs {
    /// Virtual machine monitor: auto, firecracker or qemu. Of itself it is Firecracker where that is installed and boots a guest, and
    /// otherwise QEMU. Sandboxes and snapshots of the one cannot go on with the other
    #[arg(long, env = "SANDBAR_VMM", value_name = "NAME", default_value_t = VmmChoice::Auto)]
    vmm: VmmChoice,
}

impl VmmArgs {
    /// The same for another process.
    pub(crate) fn as_arguments(&self) -> [String; 2] {
        ["--vmm".to_owned(), self.vmm.to_string()]
    }
}

/// What each sandbox may take of this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitArgs {
    /// First of the 8388608 users as which virtual machine monitors run, each as one of its own; nothing else may use them. Two platforms
    /// on one machine need different ones where their sandboxes' networks are equal in the low 24 bits
    #[arg(
        long,
        env = "SANDBAR_VMM_USERS",
        value_name = "UID",
        default_value_t = Limits::FIRST_USER,
        value_parser = clap::value_parser!(u32).range(65_536..=i64::from(Limits::LAST_FIRST_USER))
    )]
    vmm_users: u32,

    /// Disk requests a second of each sandbox, 0 for no bound
    #[arg(long, env = "SANDBAR_SANDBOX_DISK_IOPS", value_name = "NUMBER", default_value_t = 20_000)]
    sandbox_disk_iops: u64,

    /// MB that each sandbox may read and write on its disk in a second, 0 for no bound
    #[arg(long, env = "SANDBAR_SANDBOX_DISK_MBPS", value_name = "MB", default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    sandbox_disk_mbps: u64,

    /// Mbit that each sandbox may send in a second, and be sent, files and commands included; 0 for no bound
    #[arg(long, env = "SANDBAR_SANDBOX_NETWORK_MBIT", value_name = "MBIT", default_value_t = 2_000,
        value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    sandbox_network_mbit: u64,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        let disk_rate = DiskRate {
            requests: NonZeroU64::new(self.sandbox_disk_iops),
            bytes: NonZeroU64::new(self.sandbox_disk_mbps * 1_000_000),
        };
        let network_rate = NonZeroU64::new(self.sandbox_network_mbit * 125_000);
        Limits { first_user: self.vmm_users, disk_rate, network_rate }
    }

    /// The same for another process.
    pub(crate) fn as_arguments(&self) -> Vec<String> {
        let Self { vmm_users, sandbox_disk_iops, sandbox_disk_mbps, sandbox_network_mbit } = self;
        let all = [
            ("--vmm-users", u64::from(*vmm_users)),
            ("--sandbox-disk-iops", *sandbox_disk_iops),
            ("--sandbox-disk-mbps", *sandbox_disk_mbps),
            ("--sandbox-network-mbit", *sandbox_network_mbit),
        ];
        all.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect()
    }
}

/// Where disks are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Size in GiB of the filesystem image for disks, made at the first start where the data folder's own filesystem cannot clone
    /// files by reference. It takes only what is used [default: 80 % of the free space]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(4..=1 << 20))]
    store_size: Option<u64>,

    /// GiB to keep free for what runs: below it nothing new is begun, neither sandboxes nor copies of them [default: 2, or 5 % of the
    /// store if that is more]
    #[arg(long, env = "SANDBAR_STORE_RESERVE", value_name = "GIB", value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    store_reserve: Option<u64>,
}

impl StoreArgs {
    pub(crate) fn options(&self) -> StoreOptions {
        let bytes = |gib: u64| gib << 30;
        StoreOptions {
            backing: Backing::Auto,
            size: self.store_size.map(bytes),
            reserve: self.store_reserve.map(bytes),
        }
    }

    /// The same for another process.
    pub(crate) fn as_arguments(&self) -> Vec<String> {
        let Self { store_size, store_reserve } = self;
        let all = [("--store-size", store_size), ("--store-reserve", store_reserve)];
        let given = all.into_iter().filter_map(|(name, gib)| Some((name, gib.as_ref()?)));
        given.flat_map(|(name, gib)| [name.to_owned(), gib.to_string()]).collect()
    }
}

impl HostAgentArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let shutdown = CancellationToken::new();
        if let Some(address) = self.metrics_listen {
            figures::serve(address, shutdown.clone()).await?;
        }
        let config = Config {
            data_dir: self.data_dir,
            control_url: self.control_url,
            registration_token: self.register,
            listen: self.listen,
            advertise: self.address,
            network: self.network,
            private_egress: self.allow_private_egress,
            spare_slots: self.spare_networks,
            warm_pool: self.warm_pool,
            warm_pool_floor_mb: self.warm_pool_floor,
            store: self.store.options(),
            vmm: self.vmm.vmm,
            limits: self.limits.limits(),
            guest: GUEST_BINARIES,
            debian: DebianSource::detect()?,
            registries: Registries {
                insecure: self.registries.insecure_registry,
                private: self.registries.private_registry,
            },
            layer_cache: self.layer_cache.saturating_mul(1 << 30),
        };
        let agent = sandbar_host_agent::run(config, shutdown.clone());
        tokio::pin!(agent);
        tokio::select! {
            ended = &mut agent => ended?,
            signal = signals.next() => {
                shutdown.cancel();
                tokio::select! {
                    ended = &mut agent => ended?,
                    // Asked twice. Sandboxes and the journal are as they would be after a kill: whole.
                    _again = signals.next() => return Ok(ExitCode::from(signal.exit_code())),
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
