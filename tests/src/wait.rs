//! Waiting for a condition, with a deadline. Tests never sleep for a guess.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until `look` finds something. Where it fails instead, it is asked again, and the last failure is told at the deadline.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut last = None;
    loop {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if started.elapsed() >= deadline {
            let error = last.unwrap_or_else(|| anyhow!("the condition did not come true"));
            return Err(error.context(format!("waited {deadline:?} for this in vain: {what}")));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks until `look` says yes.
pub async fn until_true(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    until(what, deadline, async || Ok(look().await?.then_some(()))).await
}
