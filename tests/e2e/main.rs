//! The whole platform, as its users meet it: one real `sandbar up` with a real PostgreSQL and real virtual machines.
//!
//! The groups run one after the other on one platform; within a group, two tests at a time where they do not disturb each other:
//!
//! 1. [`first_start`] makes the platform, once interrupted, and starts it again;
//! 2. [`exec`], [`stream`], [`terminal`], [`files`], [`e2b`], [`bad_input`], [`cli`], [`guest`], [`isolation`], [`edge`], [`sandbox_faults`] use it, each test with sandboxes
//!    of its own;
//! 3. [`dashboard`] has a browser use it;
//! 4. [`life`], [`boot`], [`logs`], [`full_disk`], [`crowd`], [`host_faults`], [`control_faults`], [`builds`], [`storm`], [`warm`], [`rpc`], [`volumes`], [`oci`], [`traces`], [`two_hosts`] break it, or want it for themselves;
//! 5. [`code_interpreter`], only where it is asked for;
//! 6. [`farewell`] takes it down and counts what is left.
//!
//! Any test may be run alone (`cargo test -p sandbar-tests --test e2e -- NAME`): the platform is started when it is needed.
//! Needs root, `cargo build -p sandbar` and the packages of `make test`. `SANDBAR_E2E_KEEP=1` keeps the folder, and with it the
//! base image, for the next run; `SANDBAR_E2E_DATA` says where it is; `SANDBAR_E2E_LOG` is the platform's log filter.

mod bad_input;
mod boot;
mod builds;
mod cli;
mod code_interpreter;
mod control_faults;
mod crowd;
mod dashboard;
mod e2b;
mod edge;
mod exec;
mod farewell;
mod files;
mod first_start;
mod full_disk;
mod guest;
mod host_faults;
mod isolation;
mod life;
mod logs;
mod lone_agent;
mod network;
mod object_storage;
mod oci;
mod rpc;
mod sandbox_faults;
mod second_control;
mod second_host;
mod simulated;
mod storm;
mod stream;
mod terminal;
mod traces;
mod two_controls;
mod two_hosts;
mod volumes;
mod warm;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use sandbar_tests::Platform;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

type Test = (&'static str, fn(Arc<Platform>) -> Pin<Box<dyn Future<Output = Result<()>>>>);

/// The tests of a module, named after it.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        vec![$((
            concat!(module_path!(), "::", stringify!($test)),
            |platform| Box::pin(async move { $test(&platform).await }),
        )),*]
    };
}
pub(crate) use tests;

/// Whether tests of a group may run beside each other.
#[derive(Clone, Copy)]
enum Together {
    Alone,
    /// A guest under emulation wants a processor to itself, and the machines that run these tests may have no more than two.
    Two,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let groups = [
        (Together::Alone, first_start::tests()),
        (
            Together::Two,
            [
                exec::tests(),
                stream::tests(),
                terminal::tests(),
                files::tests(),
                bad_input::tests(),
                cli::tests(),
                guest::tests(),
                isolation::tests(),
                network::tests(),
                edge::tests(),
                e2b::tests(),
                sandbox_faults::tests(),
            ]
            .concat(),
        ),
        (Together::Alone, dashboard::tests()),
        (
            Together::Alone,
            [
                life::tests(),
                boot::tests(),
                logs::tests(),
                full_disk::tests(),
                crowd::tests(),
                host_faults::tests(),
                control_faults::tests(),
                builds::tests(),
                storm::tests(),
                warm::tests(),
                rpc::tests(),
                volumes::tests(),
                oci::tests(),
                traces::tests(),
                two_hosts::tests(),
                code_interpreter::tests(),
            ]
            .concat(),
        ),
        (Together::Alone, farewell::tests()),
    ];
    if arguments.list {
        let trials = groups.into_iter().flat_map(|(_, tests)| tests);
        let trials = trials.map(|(name, _)| Trial::test(short(name), || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let run = Run::new(&arguments).and_then(|run| run.all(&arguments, groups.into()));
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(101),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `e2e::exec::output` is known as `exec::output`.
fn short(name: &'static str) -> &'static str {
    name.split_once("::").map_or(name, |(_, rest)| rest)
}

struct Run {
    runtime: Runtime,
    platform: Arc<Platform>,
    keep: bool,
}

impl Run {
    fn new(arguments: &Arguments) -> Result<Self> {
        let keep = std::env::var_os("SANDBAR_E2E_KEEP").is_some();
        let binary = Platform::find_binary()?;
        let data_dir = match std::env::var_os("SANDBAR_E2E_DATA") {
            Some(path) => PathBuf::from(path),
            None => default_data_dir()?,
        };
        // What a run left that was killed is found by its folder: nobody else may work in it.
        std::fs::create_dir_all(&data_dir)?;
        let footprint = sandbar_tests::census::Footprint::new(&data_dir.canonicalize()?);
        if keep {
            footprint.stop_by_force()?;
        } else {
            footprint.remove_everything()?;
        }
        let platform = Arc::new(Platform::new(binary, &data_dir)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        if !arguments.quiet {
            eprintln!("the platform's folder is {}", platform.data_dir().display());
        }
        Ok(Self { runtime, platform, keep })
    }

    fn all(&self, arguments: &Arguments, groups: Vec<(Together, Vec<Test>)>) -> Result<bool> {
        self.clean_up_on_signals()?;
        let mut failed = 0;
        for (together, tests) in groups {
            let threads = match together {
                Together::Alone => 1,
                Together::Two => 2,
            };
            let arguments = Arguments { test_threads: Some(threads), ..arguments.clone() };
            let trials = tests.into_iter().map(|test| self.trial(test)).collect();
            failed += libtest_mimic::run(&arguments, trials).num_failed;
        }
        if failed > 0 {
            eprintln!("{}", self.platform.logs());
        }
        Ok(failed == 0)
    }

    fn trial(&self, (name, test): Test) -> Trial {
        let (handle, platform) = (self.runtime.handle().clone(), Arc::clone(&self.platform));
        Trial::test(short(name), move || {
            handle.block_on(test(platform)).map_err(|error| Failed::from(format!("{error:#}")))
        })
    }

    /// Ctrl-C leaves as little behind as an end does.
    fn clean_up_on_signals(&self) -> Result<()> {
        let (platform, keep) = (Arc::clone(&self.platform), self.keep);
        let _in_runtime = self.runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        self.runtime.spawn(async move {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if let Err(error) = remove(&platform, keep) {
                eprintln!("{error:#}");
            }
            std::process::exit(code);
        });
        Ok(())
    }
}

/// Beside the build's output, unless that is closed to other users: the database's must pass.
fn default_data_dir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).context("the tests are in no target folder")?;
    let passable = |folder: &Path| folder.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    if target.ancestors().all(passable) {
        return Ok(target.join("e2e"));
    }
    // One for each clone, and the same each time.
    let clone = target.metadata()?.ino();
    Ok(PathBuf::from(format!("/var/tmp/sandbar-e2e-{clone}")))
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.platform, self.keep) {
            eprintln!("{error:#}");
        }
    }
}

fn remove(platform: &Platform, keep: bool) -> Result<()> {
    let footprint = platform.footprint();
    if keep { footprint.stop_by_force() } else { footprint.remove_everything() }
}
