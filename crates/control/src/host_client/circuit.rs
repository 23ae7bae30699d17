//! Whether a host answers, so that nobody waits for one that does not.
//!
//! ```text
//!            a call got no answer              two probes in a row met silence
//!   closed ──────────────────────► suspected ─────────────────────────────────► open
//!     ▲                              │                                            │
//!     └──── a probe is answered, or refused at once ◄────────────────────────────┘
//! ```
//!
//! - Calls go through while it is closed or suspected; while it is open they fail at once.
//! - One call that took too long proves nothing: what it asked for may take so long. So the host is asked for its health instead, by
//!   one task, until it answers. No caller's own call is the probe.
//! - A host whose port refuses connections fails calls at once by itself, and serves as soon as its agent is back: that opens nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Between the first probe that failed and the next; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many probes in a row meet silence before the circuit opens.
const SILENT_PROBES: u32 = 2;

/// Whether a host answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// It does, as far as is known.
    Closed,
    /// A call got no answer: it is being asked for its health.
    Suspected,
    /// It does not.
    Open,
}

/// One host's.
#[derive(Debug)]
pub(super) struct Breaker {
    state: watch::Sender<Circuit>,
}

/// What a probe met.
enum Probed {
    Answer,
    /// No answer, and that at once.
    Refusal,
    Silence,
}

impl Breaker {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(Circuit::Closed) })
    }

    pub(super) fn state(&self) -> watch::Receiver<Circuit> {
        self.state.subscribe()
    }

    pub(super) fn is_open(&self) -> bool {
        *self.state.borrow() == Circuit::Open
    }

    /// A call got no answer. `probe` asks for the host's health, and says whether it was told.
    pub(super) fn suspect<F>(self: &Arc<Self>, limit: Duration, probe: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let begins = self.state.send_if_modified(|state| {
            let begins = *state == Circuit::Closed;
            if begins {
                *state = Circuit::Suspected;
            }
            begins
        });
        if begins {
            // It ends with the answer, or with the last who could make use of it.
            tokio::spawn(watch_health(Arc::downgrade(self), limit, probe));
        }
    }
}

async fn watch_health<F>(breaker: Weak<Breaker>, limit: Duration, probe: impl Fn() -> F)
where
    F: Future<Output = bool>,
{
    let (mut pause, mut silent) = (FIRST_PAUSE, 0);
    loop {
        let met = meet(limit, probe()).await;
        let Some(breaker) = breaker.upgrade() else { return };
        match met {
            Probed::Answer | Probed::Refusal => {
                breaker.state.send_replace(Circuit::Closed);
                return;
            }
            Probed::Silence => silent += 1,
        }
        if silent == SILENT_PROBES {
            breaker.state.send_replace(Circuit::Open);
        }
        drop(breaker);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn meet(limit: Duration, probe: impl Future<Output = bool>) -> Probed {
    let begun = Instant::now();
    match tokio::time::timeout(limit, probe).await {
        Ok(true) => Probed::Answer,
        Ok(false) if begun.elapsed() < limit / 2 => Probed::Refusal,
        Ok(false) | Err(_) => Probed::Silence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// How long these tests wait for silence; what answers does so at once.
    const LIMIT: Duration = Duration::from_millis(500);

    /// A host that meets one probe after the other like this, the last one for ever.
    fn host(
        answers: &'static [Option<bool>],
    ) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> {
        let next = Mutex::new(0);
        move || {
            let mut next = next.lock().unwrap();
            let answer = answers[(*next).min(answers.len() - 1)];
            *next += 1;
            Box::pin(async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }
    }

    async fn states(answers: &'static [Option<bool>], count: usize) -> Vec<Circuit> {
        let breaker = Breaker::new();
        let mut state = breaker.state();
        breaker.suspect(LIMIT, host(answers));
        let mut seen = Vec::new();
        for _ in 0..count {
            state.changed().await.unwrap();
            seen.push(*state.borrow_and_update());
        }
        seen
    }

    #[tokio::test]
    async fn a_host_that_answers_or_refuses_is_only_suspected() {
        for answers in [&[Some(true)], &[Some(false)]] {
            let breaker = Breaker::new();
            breaker.suspect(LIMIT, host(answers));
            assert!(!breaker.is_open());
            breaker.state().wait_for(|state| *state == Circuit::Closed).await.unwrap();
        }
        assert_eq!(states(&[None, Some(true)], 2).await, [Circuit::Suspected, Circuit::Closed]);
    }

    #[tokio::test]
    async fn silence_opens_and_the_first_answer_closes() {
        let answers = &[None, None, None, None, Some(true)];
        assert_eq!(states(answers, 3).await, [Circuit::Suspected, Circuit::Open, Circuit::Closed]);
    }

    #[tokio::test]
    async fn many_calls_without_an_answer_are_one_probe() {
        let breaker = Breaker::new();
        let asked = Arc::new(Mutex::new(0));
        for _ in 0..100 {
            let asked = Arc::clone(&asked);
            breaker.suspect(LIMIT, move || {
                *asked.lock().unwrap() += 1;
                std::future::pending()
            });
        }
        let mut state = breaker.state();
        state.wait_for(|state| *state == Circuit::Open).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), SILENT_PROBES);
    }

    #[tokio::test]
    async fn nobody_is_probed_for_when_nobody_can_ask() {
        let breaker = Breaker::new();
        breaker.suspect(LIMIT, host(&[None]));
        let mut state = breaker.state();
        drop(breaker);
        // The task holds the last sender no longer than one probe.
        while state.changed().await.is_ok() {}
    }
}
