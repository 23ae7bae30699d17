//! `sandbar up`: the whole platform on one machine, from nothing.
//!
//! ```text
//!   lock, listen -> PostgreSQL -> migrations, keys -> kernel, base image -> first admin -> API
//!        -> host agent (another process), heard of -> template `base` -> ready
//! ```
//!
//! With `--no-host` it ends with the API: the control plane alone.
//!
//! No path exists only for `up`: the host registers by a one-time token as every host does, and whatever a step makes, the next
//! start finds. So a start may be cut at any point, and begun again.

mod acme;
mod agent;
mod detach;
mod edge;
mod first_admin;
mod local_host;
pub(crate) mod lock;
mod platform;
mod prepare;
mod progress;
mod summary;
mod supervise;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use sandbar_api::figures::Figures;
use sandbar_api::{Limits, Origin, RequestRate, Throttle};
use sandbar_control::Control;
use sandbar_control::config::{BuildConfig, Scheduling, SnapshotStore};
use sandbar_control::oauth::OAuthConfig;
use sandbar_postgres::{DATABASE, Durability, Options, Server};
use sandbar_types::Resource;
use tokio::net::TcpListener;
use tracing::{error, warn};

use crate::dashboard::DASHBOARD;
use crate::data_dir::{self, DataDir};
use crate::figures;
use crate::first_run::FirstRunFile;
use crate::host_agent::{LimitArgs, RegistryArgs, StoreArgs, VmmArgs};
use crate::master_key;
use crate::shutdown::{EndSignal, Signals};
use agent::AgentOptions;
use edge::EdgeArgs;
use local_host::LocalHost;
use lock::{Holder, Stage, Taken, UpLock};
use platform::{Platform, RunningControl};
use progress::{Progress, say};

/// Run the whole platform on this machine
///
/// Starts a private PostgreSQL (unless DATABASE_URL is set), the control plane with its API, and this machine's host agent; makes the
/// base image at the first start; then prints where to go. Everything is kept in the data folder, and a later start takes seconds.
///
/// Ctrl-C or `sandbar down` stops it. Sandboxes that run go on running, and the next `up` takes them up again. A second Ctrl-C exits at
/// once. The secrets that the database holds are sealed with a key in the data folder, or with that in SANDBAR_MASTER_KEY.
/// Traces go to the collector of OpenTelemetry that OTEL_EXPORTER_OTLP_ENDPOINT names, if it does.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Folder for everything that the platform keeps
    #[arg(long, env = "SANDBAR_DATA_DIR", value_name = "FOLDER", default_value = data_dir::DEFAULT)]
    data_dir: PathBuf,

    /// Address of the API and of sandboxes' ports by plain HTTP: see --domain, or put a proxy with TLS before it, when others are to reach it
    #[arg(long, env = "SANDBAR_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Where to tell Prometheus the control plane's figures, at /metrics; a port alone is one of 127.0.0.1 [default: nowhere]
    #[arg(long, env = "SANDBAR_METRICS_LISTEN", value_name = "[ADDRESS:]PORT", value_parser = figures::address)]
    metrics_listen: Option<SocketAddr>,

    /// The same of this machine's host agent [default: nowhere]
    #[arg(long, env = "SANDBAR_HOST_METRICS_LISTEN", value_name = "[ADDRESS:]PORT", value_parser = figures::address)]
    host_metrics_listen: Option<SocketAddr>,

    /// PostgreSQL to use, in place of a private one
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,

    /// The control plane alone: this machine is no host, and nothing is prepared for guests. For one beside others (the same DATABASE_URL
    /// and SANDBAR_MASTER_KEY), or where all hosts are elsewhere
    #[arg(long, env = "SANDBAR_NO_HOST")]
    no_host: bool,

    /// Addresses for the links between this machine and its sandboxes; nothing else here may use them
    #[arg(long, value_name = "CIDR", default_value = crate::host_agent::DEFAULT_NETWORK)]
    network: ipnet::Ipv4Net,

    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    vmm: VmmArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    registries: RegistryArgs,

    #[command(flatten)]
    edge: EdgeArgs,

    /// E-mail address of the first admin, at the first start
    #[arg(long, value_name = "ADDRESS", default_value = "admin@sandbar.local")]
    admin_email: String,

    /// Where else people may sign in: a file in TOML, see the README
    #[arg(long, env = "SANDBAR_OAUTH_CONFIG", value_name = "FILE")]
    oauth_config: Option<PathBuf>,

    /// Days after which the audit trail is forgotten [default: never]
    #[arg(long, env = "SANDBAR_AUDIT_RETENTION_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
    audit_retention_days: Option<u32>,

    /// How hosts are chosen for new sandboxes: least_loaded or round_robin
    #[arg(long, env = "SANDBAR_SCHEDULING", value_name = "POLICY", default_value = "least_loaded")]
    scheduling: Scheduling,

    /// Seconds for which a create waits while its host gets the template's files from another
    #[arg(long, env = "SANDBAR_TEMPLATE_WAIT", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=600))]
    template_wait: u64,

    /// Object storage (S3) for copies of snapshots and paused sandboxes, as s3://BUCKET/PREFIX; endpoint, region and credentials by the usual variables AWS_*
    #[arg(long, env = "SNAPSHOT_STORE", value_name = "URL")]
    snapshot_store: Option<SnapshotStore>,

    /// Proxies whose X-Forwarded-For counts, besides those on this machine
    #[arg(
        long = "trusted-proxy",
        env = "SANDBAR_TRUSTED_PROXIES",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    trusted_proxies: Vec<ipnet::IpNet>,

    /// Origins whose pages may call the API, besides its own, e.g. https://app.example.com
    #[arg(
        long = "allowed-origin",
        env = "SANDBAR_ALLOWED_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    allowed_origins: Vec<Origin>,

    /// Requests a second that each caller may send, ten times as many at once; 0 = any number
    #[arg(long, env = "SANDBAR_REQUESTS_PER_SECOND", value_name = "N", default_value_t = RequestRate::DEFAULT.per_second.get())]
    requests_per_second: u32,

    /// Connections at the same time, by each of the two listeners; those above are told to come again. Half as many requests and streams
    /// may be under way to sandboxes
    #[arg(long, env = "SANDBAR_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,

    /// What a team may have for which nothing else is set, e.g. sandboxes=20,memory_mb=8192
    /// [default: sandboxes=100,vcpus=200,memory_mb=204800,snapshots=500,builds=10,secrets=200,volumes=100,volume_mb=1048576]
    #[arg(
        long = "default-quota",
        env = "SANDBAR_DEFAULT_QUOTAS",
        value_name = "RESOURCE=NUMBER",
        value_delimiter = ',',
        value_parser = default_quota
    )]
    default_quotas: Vec<(Resource, u64)>,

    /// The largest volume that may be made, in MiB
    #[arg(long, env = "SANDBAR_LARGEST_VOLUME_MB", value_name = "MIB", default_value_t = sandbar_control::Config::default().largest_volume_mb)]
    largest_volume_mb: u32,

    /// Builds of templates that run at the same time
    #[arg(long, env = "SANDBAR_BUILD_WORKERS", value_name = "N", default_value_t = 2)]
    build_workers: usize,

    /// Redis to queue builds in, for control planes that share one; it has a database of Redis's to itself [default: the database]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,

    /// Return once the platform is ready, and leave it running in the background
    #[arg(long, short)]
    detach: bool,

    /// This process is the background part of a start with --detach
    #[arg(long, hide = true)]
    detached_child: bool,
}

/// What there is to tell of a platform that has started.
struct Started {
    first_run: Option<FirstRunFile>,
    https: Option<edge::Known>,
}

/// Where the platform's parts meet.
struct Start<'a> {
    args: &'a UpArgs,
    data: &'a DataDir,
    url: &'a str,
    progress: Progress,
}

impl UpArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        if !self.no_host && !rustix::process::geteuid().is_root() {
            bail!(
                "`sandbar up` must run as root: it makes network namespaces, mounts and virtual machines (try sudo)"
            );
        }
        let data = DataDir::create(&self.data_dir)?;
        if self.detach && !self.detached_child && lock::holder(&data.lock())?.is_none() {
            return detach::detach(&data).await;
        }
        let url = format!("http://{}", reachable(self.listen));
        let mut lock = match UpLock::take(&data.lock(), &url)? {
            Taken::Ours(lock) => lock,
            Taken::Anothers(holder) => return already_runs(&data, holder.as_ref()),
        };
        let mut signals = Signals::listen()?;
        let mut platform = Platform::default();
        let start = Start { args: &self, data: &data, url: &url, progress: Progress::detect() };
        let started = tokio::select! {
            started = start.run(&mut platform) => started,
            signal = signals.next() => {
                say("  stopping; the next `sandbar up` goes on from here");
                return stop(platform, &mut signals, signal.exit_code()).await;
            }
        };
        let known = match started {
            Ok(known) => known,
            Err(error) => {
                eprintln!("sandbar: {error:#}");
                return stop(platform, &mut signals, 1).await;
            }
        };
        lock.set_ready()?;
        summary::print(&data, &url, known.https.as_ref(), known.first_run.as_ref());
        if self.detached_child {
            detach::let_go_of_output(&data)?;
        }
        let code = match start.keep_running(&mut platform, &mut signals).await {
            Ok(_asked) => 0,
            Err(error) => {
                error!("the platform cannot go on: {error:#}");
                1
            }
        };
        stop(platform, &mut signals, code).await
    }
}

/// Stops in order; a second signal ends the process at once, and leaves to the next start what has not stopped.
async fn stop(platform: Platform, signals: &mut Signals, code: u8) -> anyhow::Result<ExitCode> {
    tokio::select! {
        stopped = platform.stop() => stopped.map(|()| ExitCode::from(code)),
        signal = signals.next() => {
            warn!("asked a second time: ending at once");
            std::process::exit(signal.exit_code().into())
        }
    }
}

fn already_runs(data: &DataDir, holder: Option<&Holder>) -> anyhow::Result<ExitCode> {
    match holder {
        Some(Holder { url, stage: Stage::Ready, .. }) => {
            summary::print(data, url, None, FirstRunFile::read(&data.first_run())?.as_ref());
        }
        Some(Holder { pid, url, stage: Stage::Starting }) => {
            say(format_args!("Another `sandbar up` (process {pid}) is starting the platform at {url}."));
        }
        None => say("Another `sandbar up` is starting the platform."),
    }
    Ok(ExitCode::SUCCESS)
}

impl Start<'_> {
    /// All steps. What is started is in `platform`, whatever happens to this future.
    async fn run(&self, platform: &mut Platform) -> anyhow::Result<Started> {
        let Self { args, data, url, progress } = *self;
        // First, since it fails at once where the port is taken.
        let listener = bind("--listen", args.listen).await?;
        let https = args.edge.https(data).await?;

        let database_url = match &args.database_url {
            Some(url) => url.clone(),
            None => {
                let options = self.postgres_options();
                let starting = Server::start(&options);
                let server = progress.step("starting PostgreSQL", starting).await?;
                platform.postgres.insert(server).url(DATABASE)
            }
        };
        let control = progress.step("opening the database", self.control(&database_url)).await?;
        if !args.no_host {
            prepare::run(&mut platform.preparation, progress, data.host(), args.store.options()).await?;
        }
        let known = first_admin::ensure(data, &control, url, &args.admin_email).await?;

        let running = platform.control.insert(RunningControl::start(control.clone()));
        let mut api = sandbar_api::Config::default();
        api.trusted_proxies.extend(&args.trusted_proxies);
        api.dashboard = DASHBOARD;
        api.allowed_origins.clone_from(&args.allowed_origins);
        api.request_rate = NonZeroU32::new(args.requests_per_second).map(RequestRate::per_second);
        let limits = Limits { connections: args.max_connections };
        let throttle = Throttle::new(&api);
        let edge = sandbar_edge::Config {
            trusted_proxies: api.trusted_proxies.clone(),
            // The API is reached by the other half, whatever goes on in sandboxes.
            streams: (args.max_connections / 2).max(1),
            charge: {
                let throttle = throttle.clone();
                Arc::new(move |peer, headers| throttle.charge(peer, headers))
            },
        };
        let router = sandbar_api::router(control.clone(), &api, throttle);
        let router = sandbar_edge::router(control.clone(), edge, router);
        running.serve(listener, router.clone(), limits);
        let mut certificate = None;
        let https = match https {
            Some(mut https) => {
                certificate = https.take_up(&control).await?;
                running.serve(https.listener, router, limits);
                Some(https.known_as)
            }
            None => None,
        };
        if let Some(address) = args.metrics_listen {
            let shown = control.clone();
            let figures = Figures::new(sandbar_api::figures::install()?, move || {
                let control = shown.clone();
                async move { control.record_figures().await }
            });
            let listener = bind("--metrics-listen", address).await?;
            running.serve(listener, sandbar_api::figures::internal_router(figures), Limits::default());
        }
        // After the figures, which it has some of.
        if let Some(keeper) = certificate {
            running.keep_certificate(keeper);
        }

        if !args.no_host {
            self.local_host(platform, &control).await?;
        }
        Ok(Started { first_run: known, https })
    }

    /// This machine as a host of its own control plane.
    async fn local_host(&self, platform: &mut Platform, control: &Control) -> anyhow::Result<()> {
        let Self { args, data, url, progress } = *self;
        agent::end_leftover(data).await?;
        let host = LocalHost::ensure(data, control).await?;
        let mut heard = control.heard_hosts();
        let options = AgentOptions {
            control_url: url.to_owned(),
            network: args.network.to_string(),
            store: args.store.clone(),
            vmm: args.vmm.clone(),
            limits: args.limits.clone(),
            registries: args.registries.clone(),
            metrics_listen: args.host_metrics_listen,
        };
        let agent = platform.agent.insert(agent::start(data, control, host, options));
        let log = data.log("host-agent");
        let answering = agent::await_heard(agent, &mut heard, host.host_id, &log);
        progress.step("starting the host agent", answering).await?;

        let template = control.ensure_base_template(host.host_id);
        let text = "booting the base image and keeping it as the template `base`";
        progress
            .step(text, template)
            .await
            .map_err(|error| anyhow::Error::from(error).context(format!("see {}", log.display())))?;
        Ok(())
    }

    /// Until a signal asks for the end. A database that dies is started again; the host agent has a supervisor of its own.
    async fn keep_running(
        &self,
        platform: &mut Platform,
        signals: &mut Signals,
    ) -> anyhow::Result<EndSignal> {
        loop {
            let Some(server) = &mut platform.postgres else { return Ok(signals.next().await) };
            tokio::select! {
                signal = signals.next() => return Ok(signal),
                ended = server.ended() => ended.context("cannot watch PostgreSQL")?,
            }
            warn!("PostgreSQL ended by itself: starting it again");
            platform.postgres = None;
            platform.postgres = Some(Server::start(&self.postgres_options()).await?);
        }
    }

    fn postgres_options(&self) -> Options {
        let folder = Options::in_folder(&self.data.postgres(), Durability::On);
        Options { log_file: self.data.log("postgres"), ..folder }
    }

    /// The control plane on a migrated database.
    async fn control(&self, database_url: &str) -> anyhow::Result<Control> {
        let store =
            sandbar_store::Store::connect(database_url).await.context("cannot connect to PostgreSQL")?;
        store.migrate().await?;
        let master_key = master_key::load_or_create(self.data)?;
        let oauth = self.args.oauth_config.as_deref().map(OAuthConfig::read).transpose();
        let oauth = oauth.context("the configuration of sign-in providers cannot be used")?;
        let day = std::time::Duration::from_secs(24 * 3600);
        let mut default_quotas = sandbar_control::Config::default().default_quotas;
        for (resource, limit) in &self.args.default_quotas {
            *default_quotas.of_mut(*resource) = *limit;
        }
        let config = sandbar_control::Config {
            default_quotas,
            largest_volume_mb: self.args.largest_volume_mb,
            audit_retention: self.args.audit_retention_days.map(|days| day * days),
            scheduling: self.args.scheduling,
            fetch_wait: std::time::Duration::from_secs(self.args.template_wait),
            oauth,
            snapshot_store: self.args.snapshot_store.clone(),
            domain: self.args.edge.domain()?,
            builds: BuildConfig {
                workers: self.args.build_workers,
                redis_url: self.args.redis_url.clone(),
                files_folder: Some(self.data.build_files()),
                ..BuildConfig::default()
            },
            ..sandbar_control::Config::default()
        };
        Ok(Control::start(store, &master_key, config).await?)
    }
}

/// Listens where an option says.
async fn bind(option: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: if another program does, choose another {option}")
    })
}

fn default_quota(text: &str) -> anyhow::Result<(Resource, u64)> {
    let (resource, limit) = text.split_once('=').context("expected RESOURCE=NUMBER")?;
    Ok((resource.parse()?, limit.parse()?))
}

/// The address by which this machine reaches a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_the_own_one() {
        for (listen, reached) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), reached);
        }
    }
}
