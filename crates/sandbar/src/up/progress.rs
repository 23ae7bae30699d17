//! Tells the person who waits what is being done: every step that takes more than a second, and how long it took.
//!
//! On a terminal a line that turns; elsewhere (a pipe, a log) plain lines, one when a step turns out to be long and one at its end.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Steps that are shorter are not mentioned.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// How fast the terminal's line turns.
const TICK: Duration = Duration::from_millis(100);

/// Where the progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Terminal,
    Lines,
}

/// What a long step is at, told by the step itself.
#[derive(Debug, Clone)]
pub(super) struct Detail(watch::Sender<String>);

impl sandbar_storage::Progress for Detail {
    fn step(&self, text: &str) {
        self.0.send_replace(text.to_owned());
    }
}

impl Progress {
    pub(crate) fn detect() -> Self {
        if std::io::stdout().is_terminal() { Self::Terminal } else { Self::Lines }
    }

    /// Shows `text` while `work` is done.
    pub(super) async fn step<T>(self, text: &str, work: impl Future<Output = T>) -> T {
        let (_detail, told) = watch::channel(String::new());
        self.show(text, told, work).await
    }

    /// Likewise, for work that tells what it is at.
    pub(super) async fn detailed_step<T, F>(self, text: &str, work: impl FnOnce(Detail) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let (detail, told) = watch::channel(String::new());
        self.show(text, told, work(Detail(detail))).await
    }

    async fn show<T>(
        self,
        text: &str,
        mut told: watch::Receiver<String>,
        work: impl Future<Output = T>,
    ) -> T {
        let started = Instant::now();
        tokio::pin!(work);
        tokio::select! {
            // A step that is done at once is not mentioned even where a second has passed on a busy machine.
            biased;
            done = &mut work => return done,
            () = sleep_until(started + WORTH_TELLING) => {}
        }
        let line = Line::begin(self, text);
        line.detail(text, &told.borrow_and_update());
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                changed = told.changed() => match changed {
                    Ok(()) => line.detail(text, &told.borrow_and_update()),
                    // It has no more to tell.
                    Err(_) => break work.await,
                },
            }
        };
        line.end(text, started.elapsed());
        done
    }
}

/// The display of one long step. Dropping it (the step was given up) takes it off the terminal.
struct Line(Option<ProgressBar>);

impl Line {
    fn begin(on: Progress, text: &str) -> Self {
        match on {
            Progress::Terminal => {
                let bar = ProgressBar::new_spinner();
                let style = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar.set_message(text.to_owned());
                bar.enable_steady_tick(TICK);
                Self(Some(bar))
            }
            Progress::Lines => {
                say(format_args!("  {text} ..."));
                Self(None)
            }
        }
    }

    fn detail(&self, text: &str, detail: &str) {
        match &self.0 {
            _ if detail.is_empty() => {}
            Some(bar) => bar.set_message(format!("{text}: {detail}")),
            None => say(format_args!("    {detail} ...")),
        }
    }

    fn end(&self, text: &str, took: Duration) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
        say(format_args!("  {text}: {} s", took.as_secs()));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Prints a line. Nobody may be listening any more (the terminal was closed): that must not end the platform.
pub(super) fn say(line: impl Display) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
