//! The one listener: plain routes and RPCs side by side, HTTP/1.1 and HTTP/2 with prior knowledge.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::extract::State as Extract;
use axum::routing::{get, post};
use axum::{Json, Router};
use connectrpc::{CompressionPolicy, ConnectRpcService, Limits};
use http::StatusCode;
use tokio::net::TcpListener;

use crate::confinement::Confinement;
use crate::connections::{Connections, CountedListener, Peer};
use crate::filesystem::FilesystemService;
use crate::log::Log;
use crate::metrics::CpuMeter;
use crate::options::{Options, SystemChanges};
use crate::process::{ProcessService, ProcessTable};
use crate::state::State;
use crate::system::{System, ThisMachine, Untouched};
use crate::tunnel::Tunnels;
use crate::volume::Volumes;
use crate::{auth, cors, files, init, log, metrics, refusal, snapshot, traced, tunnel, volume};

/// What one message may have on the wire. E2B's clients send what is typed into a process in one piece, and JSON makes four
/// bytes of three.
const MESSAGE_MAX: usize = 16 << 20;

/// Everything that handlers share.
pub struct Agent {
    /// How it was started.
    pub options: Options,
    /// Token, environment, defaults.
    pub state: State,
    /// The machine, as far as `/init` changes it.
    pub system: Box<dyn System>,
    /// The processes that were started through the agent.
    pub processes: ProcessTable,
    /// Where they live, if the kernel can confine them.
    pub confinement: Option<Confinement>,
    /// What `/metrics` remembers.
    pub(crate) cpu: CpuMeter,
    /// The connections that are open.
    pub(crate) connections: Arc<Connections>,
    /// The tunnels that may still be opened.
    pub(crate) tunnels: Tunnels,
    /// The disks of the host that it has.
    pub(crate) volumes: Volumes,
    /// Makes everything that changes who this sandbox is take turns.
    pub(crate) identity_turn: tokio::sync::Mutex<()>,
    /// Makes flushes of the filesystems take turns.
    pub(crate) flush_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Agent {
    /// An agent with no processes yet.
    pub fn new(options: Options, state: State, confinement: Option<Confinement>, log: Arc<Log>) -> Self {
        let system: Box<dyn System> = match options.system_changes {
            SystemChanges::Allowed => Box::new(ThisMachine),
            SystemChanges::Refused => Box::new(Untouched),
        };
        let processes = ProcessTable::new(options.stall_limit, log);
        Self {
            options,
            state,
            system,
            processes,
            confinement,
            cpu: CpuMeter::default(),
            connections: Arc::new(Connections::new()),
            tunnels: Tunnels::default(),
            volumes: Volumes::default(),
            identity_turn: tokio::sync::Mutex::default(),
            flush_turn: Arc::default(),
        }
    }
}

/// Serves until the process ends.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(listener: TcpListener, agent: Arc<Agent>) -> io::Result<()> {
    let listener = CountedListener::new(listener, agent.options.gateway, Arc::clone(&agent.connections));
    let service = router(agent).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).await
}

pub(crate) fn router(agent: Arc<Agent>) -> Router {
    let rpc = connectrpc::Router::new()
        .add_service(Arc::new(ProcessService::new(Arc::clone(&agent))))
        .add_service(Arc::new(FilesystemService::new(Arc::clone(&agent))));
    // Frames go out as they are made: E2B's clients ask for no compression, and the host is one hop away.
    let rpc = ConnectRpcService::new(rpc).with_compression_policy(CompressionPolicy::disabled()).with_limits(
        Limits::default().with_max_request_body_size(MESSAGE_MAX).with_max_message_size(MESSAGE_MAX),
    );
    Router::new()
        .route("/health", get(async || StatusCode::NO_CONTENT))
        .route("/init", post(init::handle))
        .route("/snapshot/prepare", post(snapshot::handle_prepare))
        .route("/snapshot/resume", post(snapshot::handle_resume))
        .route("/connect", get(tunnel::handle))
        .route("/volumes/connect", get(volume::handle_connect))
        .route("/volumes/mount", post(volume::handle_mount))
        .route("/envs", get(envs))
        .route("/metrics", get(metrics::handle))
        .route("/logs", get(log::handle))
        .merge(files::router())
        .fallback_service(rpc)
        .layer(axum::middleware::from_fn(traced::log))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&agent), auth::gate))
        .layer(axum::middleware::from_fn(refusal::hear_out))
        .layer(axum::middleware::from_fn(cors::open))
        .with_state(agent)
}

/// The environment that `/init` set.
async fn envs(Extract(agent): Extract<Arc<Agent>>) -> Json<BTreeMap<String, String>> {
    Json(agent.state.current().env_vars.clone())
}
