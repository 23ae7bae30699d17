//! `sandbar host-agent`: one host alone, for a control plane elsewhere (or that of `sandbar up`, which starts this command).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sandbar_host_agent::{Config, VmmChoice};
use sandbar_storage::{Backing, DebianSource, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::guest_binaries::GUEST_BINARIES;
use crate::shutdown::Signals;

/// The variable that holds a registration token: arguments can be seen by every user of the machine.
pub(crate) const REGISTER_VARIABLE: &str = "SANDBAR_REGISTER_TOKEN";
/// Where nobody says otherwise.
pub(crate) const DEFAULT_NETWORK: &str = "10.213.0.0/16";

/// Run a host agent: make this machine a host of a control plane
///
/// The agent owns this machine's sandboxes. Stopping it leaves them running; the next start takes them up again. Variables in a file
/// `.env` of the working folder are read.
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

    /// Networks to keep ready for sandboxes to come
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    spare_networks: usize,

    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    vmm: VmmArgs,
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

/// Where disks are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Size in GiB of the filesystem image for disks, made at the first start where the data folder's own filesystem cannot clone
    /// files by reference. It takes only what is used [default: 80 % of the free space]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(4..=1 << 20))]
    store_size: Option<u64>,
}

impl StoreArgs {
    pub(crate) fn options(&self) -> StoreOptions {
        StoreOptions { backing: Backing::Auto, size: self.store_size.map(|gib| gib << 30), reserve: None }
    }

    /// The same for another process.
    pub(crate) fn as_arguments(&self) -> Vec<String> {
        self.store_size.iter().flat_map(|gib| ["--store-size".to_owned(), gib.to_string()]).collect()
    }
}

impl HostAgentArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let shutdown = CancellationToken::new();
        let config = Config {
            data_dir: self.data_dir,
            control_url: self.control_url,
            registration_token: self.register,
            listen: self.listen,
            advertise: self.address,
            network: self.network,
            private_egress: self.allow_private_egress,
            spare_slots: self.spare_networks,
            store: self.store.options(),
            vmm: self.vmm.vmm,
            guest: GUEST_BINARIES,
            debian: DebianSource::detect()?,
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
