//! Keeps one child process running: started again when it ends, later and later while it fails at once.
//!
//! ```text
//!            spawned                    ended
//!   waiting ---------> running --------------------> waiting (after a pause that grows)
//!      ^                  |  it ran for a while: the pause is short again
//!      '--- stop ends both: SIGTERM, and SIGKILL after a grace
//! ```
//!
//! The child is not killed when this process dies: it is meant to outlive it.

use std::process::ExitStatus;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// When to start again, and when to lose hope.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// The pause after the first failure; doubled with each that follows.
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
    /// A child that ran for so long had started well.
    pub(super) healthy_after: Duration,
    /// How long a child may take to end when it is asked to.
    pub(super) grace: Duration,
}

/// Counts failures in a row.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    /// The pause before the next start, given how long the child ran.
    fn pause_after(&mut self, ran: Duration, policy: &Policy) -> Duration {
        if ran >= policy.healthy_after {
            self.0 = 0;
        }
        let pause = policy.first_pause.saturating_mul(1 << self.0.min(16));
        self.0 = self.0.saturating_add(1);
        pause.min(policy.longest_pause)
    }
}

/// A child that is kept running.
#[derive(Debug)]
pub(super) struct Supervised {
    failures: watch::Receiver<u32>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts `name`, and keeps it running. `make` is asked for the command before each start.
pub(super) fn supervise(
    name: &'static str,
    policy: Policy,
    make: impl FnMut() -> BoxFuture<'static, anyhow::Result<Command>> + Send + 'static,
) -> Supervised {
    let (tell, failures) = watch::channel(0);
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep_running(name, policy, make, tell, stop.clone()));
    Supervised { failures, stop, task }
}

impl Supervised {
    /// Returns once the child has failed `times` in a row. It goes on being started.
    pub(super) async fn failed(&mut self, times: u32) {
        if self.failures.wait_for(|failures| *failures >= times).await.is_err() {
            // It was stopped, so it will not fail.
            std::future::pending::<()>().await;
        }
    }

    /// Ends the child, and its being started again.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            error!(%error, "a supervisor broke");
        }
    }
}

async fn keep_running(
    name: &'static str,
    policy: Policy,
    mut make: impl FnMut() -> BoxFuture<'static, anyhow::Result<Command>>,
    tell: watch::Sender<u32>,
    stop: CancellationToken,
) {
    let mut failures = Failures::default();
    while !stop.is_cancelled() {
        let started = Instant::now();
        let spawned = match stop.run_until_cancelled(make()).await {
            Some(Ok(mut command)) => command.spawn().map_err(anyhow::Error::from),
            Some(Err(error)) => Err(error),
            None => return,
        };
        match spawned {
            Ok(mut child) => {
                info!(name, pid = child.id(), "started");
                tokio::select! {
                    status = child.wait() => warn!(name, how = how(status), "ended by itself"),
                    () = stop.cancelled() => return end(name, child, policy.grace).await,
                }
            }
            Err(error) => error!(name, "cannot be started: {error:#}"),
        }
        let pause = failures.pause_after(started.elapsed(), &policy);
        tell.send_replace(failures.0);
        info!(name, pause_ms = pause.as_millis(), "starting it again after a pause");
        stop.run_until_cancelled(sleep(pause)).await;
    }
}

async fn end(name: &str, mut child: Child, grace: Duration) {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        warn!(name, %error, "cannot be asked to end");
    }
    if let Ok(status) = timeout(grace, child.wait()).await {
        info!(name, how = how(status), "ended");
        return;
    }
    warn!(name, "does not end in time: killing it");
    if let Err(error) = child.kill().await {
        error!(name, %error, "cannot be killed");
    }
}

fn how(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Stdio;

    use futures::FutureExt as _;

    use super::*;

    const POLICY: Policy = Policy {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(8),
        healthy_after: Duration::from_secs(60),
        grace: Duration::from_millis(200),
    };

    fn shell(script: String) -> impl FnMut() -> BoxFuture<'static, anyhow::Result<Command>> + Send {
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            async move { Ok(command) }.boxed()
        }
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_shrink_after_a_good_run() {
        let mut failures = Failures::default();
        let pauses: Vec<u128> =
            (0..6).map(|_| failures.pause_after(Duration::ZERO, &POLICY).as_millis()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
        assert_eq!(failures.pause_after(POLICY.healthy_after, &POLICY).as_millis(), 1);
        for _ in 0..100 {
            assert!(failures.pause_after(Duration::ZERO, &POLICY) <= POLICY.longest_pause);
        }
    }

    #[tokio::test]
    async fn a_child_that_ends_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let starts = folder.path().join("starts");
        let mut child = supervise("test", POLICY, shell(format!("echo >> {}; exit 3", starts.display())));
        child.failed(5).await;
        child.stop().await;
        let ended_with = lines(&starts);
        assert!(ended_with >= 5, "{ended_with}");
    }

    #[tokio::test]
    async fn a_command_that_cannot_be_made_counts_as_a_failure() {
        let make = || async { anyhow::bail!("no token") }.boxed();
        let mut child = supervise("test", POLICY, make);
        child.failed(3).await;
        child.stop().await;
    }

    /// Stops a child that has said that it runs, and gives what it left in the file.
    async fn stopped(grace: Duration, script: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let left: PathBuf = folder.path().join("left");
        let (mut reader, writer) = std::io::pipe().unwrap();
        let script = script.replace("LEFT", &left.display().to_string());
        let make = move || {
            let mut command = Command::new("sh");
            command.args(["-c", &script]).stdout(Stdio::from(writer.try_clone().unwrap()));
            async move { Ok(command) }.boxed()
        };
        let child = supervise("test", Policy { grace, ..POLICY }, make);
        tokio::task::spawn_blocking(move || std::io::Read::read_exact(&mut reader, &mut [0]).unwrap())
            .await
            .unwrap();
        child.stop().await;
        std::fs::read_to_string(left).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_stop_asks_first_and_kills_what_does_not_listen() {
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(50));
        let orderly = stopped(long, "trap 'echo bye > LEFT; exit' TERM; echo; while :; do sleep 0.01; done");
        assert_eq!(orderly.await, "bye\n");
        assert_eq!(stopped(short, "trap '' TERM; echo; while :; do sleep 0.01; done").await, "");
    }
}
