//! The guest agent's executable: reads the command line, takes its place in the system, serves.

use std::error::Error as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use sandbar_guest_agent::confinement::{self, Confinement};
use sandbar_guest_agent::log::{Log, Warnings};
use sandbar_guest_agent::options::{self, Invocation, Options, ReadyPush, SystemChanges};
use sandbar_guest_agent::server::{self, Agent};
use sandbar_guest_agent::state::State;
use sandbar_guest_agent::{ready, system, unpack};
use tokio::net::TcpListener;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Files that are read or written at the same time; more of them take turns.
const BLOCKING_THREADS: usize = 16;
/// The address space of a process that unpacks an archive.
const UNPACK_BYTES: u64 = 512 << 20;

fn main() -> ExitCode {
    let log = Arc::new(Log::default());
    let console = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(console)
        .with(Warnings::into_log(Arc::clone(&log)))
        .init();
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Invocation::Serve(options)) => options,
        Ok(Invocation::Unpack(order)) => return unpack_input(&order),
        Ok(Invocation::Version) => {
            println!("sandbar-guest-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("sandbar-guest-agent: {error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    // New files are 0644 and folders 0755, whatever the parent's mask was.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    if let Err(error) = system::keep_descriptors_from_children() {
        tracing::warn!(%error, "inherited descriptors may leak into processes");
    }
    let confinement = match options.system_changes {
        SystemChanges::Allowed => {
            system::outlive_everything();
            confine()
        }
        SystemChanges::Refused => None,
    };
    // One worker: the agent mostly waits, and in a guest with one CPU every hand-over between threads costs a switch.
    // What blocks on the disk has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let served = runtime.and_then(|runtime| runtime.block_on(run(options, confinement, log)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the agent cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// A sandbox whose kernel cannot confine its processes is still a sandbox: what they take they take from themselves.
fn confine() -> Option<Confinement> {
    match Confinement::set_up(Path::new(confinement::ROOT)) {
        Ok(confinement) => Some(confinement),
        Err(error) => {
            let source = error.source().map(ToString::to_string);
            tracing::warn!(%error, source, "processes are not confined");
            None
        }
    }
}

async fn run(mut options: Options, confinement: Option<Confinement>, log: Arc<Log>) -> std::io::Result<()> {
    let (state, start) = State::load(options.state_file.clone()).map_err(std::io::Error::other)?;
    let listener = TcpListener::bind(options.listen).await?;
    // For whoever asked for port 0. The console of a sandbox gets a line to tell that the agent runs.
    options.listen = listener.local_addr()?;
    println!("listening on {}", options.listen);
    std::io::stdout().flush()?;
    if let ReadyPush::To(port) = options.ready_push {
        let gateway = options.gateway;
        let predecessor = options.predecessor.clone();
        // The listener takes connections from here on, though they are answered a moment later.
        tokio::spawn(
            async move { ready::push(gateway, port, start, &boot_id(), predecessor.as_deref()).await },
        );
    }
    server::serve(listener, Arc::new(Agent::new(options, state, confinement, log))).await
}

/// What it takes is bounded, whatever an archive says of itself.
fn unpack_input(order: &unpack::Order) -> ExitCode {
    let bound = Rlimit { current: Some(UNPACK_BYTES), maximum: Some(UNPACK_BYTES) };
    let unpacked = match rustix::process::setrlimit(Resource::As, bound) {
        Ok(()) => unpack::unpack(order, std::io::stdin().lock()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match unpacked {
        Ok(files) => {
            println!("{files} files");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
