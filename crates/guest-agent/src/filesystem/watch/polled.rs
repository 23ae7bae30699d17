//! Watches for callers that cannot stream: events are kept until they are fetched, up to a bound.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::inotify::Inotify;
use super::observer::{Life, Observer, Queue};
use super::places::{Place, Places};
use super::{Event, Spec, WatchError};

/// Events that wait for a caller, of one watcher. Some ten thousand.
const BACKLOG_BYTES: usize = 2 << 20;
/// What an event takes besides its name, and what its entry takes.
const EVENT_BYTES: usize = 96;
const ENTRY_BYTES: usize = 512;
/// How often one call looks at a queue that fills as fast as it is read.
const LOOKS_MAX: usize = 64;
/// A watcher that nobody asked for so long gives its place up when there is no other.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// The watchers that callers made and have not removed.
#[derive(Debug)]
pub(in crate::filesystem) struct PolledWatchers {
    places: Places,
    watchers: Mutex<HashMap<String, Polled>>,
}

#[derive(Debug)]
struct Polled {
    collector: Arc<Mutex<Collector>>,
    asked: Instant,
    _collecting: AbortOnDropHandle<()>,
    _place: Place,
}

impl PolledWatchers {
    pub(in crate::filesystem) fn new() -> Self {
        Self { places: Places::new(), watchers: Mutex::default() }
    }

    /// Room for one more watch, of either sort.
    pub(in crate::filesystem) fn place(&self) -> Result<Place, WatchError> {
        self.places.take().or_else(|full| {
            let mut watchers = lock(&self.watchers);
            let oldest = watchers.iter().min_by_key(|(_, watcher)| watcher.asked);
            let forgotten = oldest.filter(|(_, watcher)| watcher.asked.elapsed() > FORGOTTEN);
            let id = forgotten.map(|(id, _)| id.clone()).ok_or(full)?;
            watchers.remove(&id);
            self.places.take()
        })
    }

    /// Watches a folder from now on.
    pub(in crate::filesystem) async fn create(&self, spec: Spec) -> Result<String, WatchError> {
        let place = self.place()?;
        let path = spec.folder.clone();
        let failed = |source| WatchError::Failed { path: path.clone(), source };
        let opened = spawn_blocking(move || Observer::open(spec)).await;
        let observer = opened.map_err(io::Error::other).map_err(failed)??;
        let ready = observer.inotify().readiness().map_err(failed)?;
        let id = random_id().map_err(failed)?;
        let collector = Arc::new(Mutex::new(Collector { observer, backlog: Backlog::default(), end: None }));
        let collecting = AbortOnDropHandle::new(tokio::spawn(collect(ready, Arc::clone(&collector))));
        let watcher = Polled { collector, asked: Instant::now(), _collecting: collecting, _place: place };
        lock(&self.watchers).insert(id.clone(), watcher);
        Ok(id)
    }

    /// What happened since the last call, up to now.
    pub(in crate::filesystem) async fn events(&self, id: &str) -> Result<Vec<Event>, WatchError> {
        let unknown = || WatchError::NoWatcher(id.to_owned());
        let collector = {
            let mut watchers = lock(&self.watchers);
            let watcher = watchers.get_mut(id).ok_or_else(unknown)?;
            watcher.asked = Instant::now();
            Arc::clone(&watcher.collector)
        };
        // The task may not have seen yet what happened a moment ago.
        let fetch = move || {
            let mut collector = lock(&collector);
            collector.collect();
            collector.fetch()
        };
        let fetched = spawn_blocking(fetch).await.map_err(io::Error::other);
        let fetched = fetched.map_err(|source| WatchError::Failed { path: id.into(), source })?;
        if matches!(&fetched, Err(error) if !matches!(error, WatchError::Lost)) {
            self.remove(id)?;
        }
        fetched
    }

    /// Watches no more.
    pub(in crate::filesystem) fn remove(&self, id: &str) -> Result<(), WatchError> {
        let removed = lock(&self.watchers).remove(id);
        removed.map(drop).ok_or_else(|| WatchError::NoWatcher(id.to_owned()))
    }
}

/// A watcher's events, from the kernel's queue to the caller.
#[derive(Debug)]
struct Collector {
    observer: Observer,
    backlog: Backlog,
    /// Why it collects no more.
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    /// The folder is gone, which the last event says.
    Gone,
    Failed(WatchError),
}

impl Collector {
    /// Takes in what the kernel has.
    fn collect(&mut self) -> Queue {
        for _ in 0..LOOKS_MAX {
            if self.end.is_some() {
                return Queue::Empty;
            }
            match self.observer.look() {
                Ok(seen) => {
                    seen.events.into_iter().for_each(|event| self.backlog.push(event));
                    if seen.life == Life::Gone {
                        self.end = Some(End::Gone);
                    }
                    if seen.queue == Queue::Empty {
                        return Queue::Empty;
                    }
                }
                Err(WatchError::Lost) => {
                    self.backlog.lose();
                    self.end = self.observer.start_over().err().map(End::Failed);
                }
                Err(error) => self.end = Some(End::Failed(error)),
            }
        }
        Queue::MayHaveMore
    }

    fn fetch(&mut self) -> Result<Vec<Event>, WatchError> {
        match self.end.take() {
            Some(End::Failed(error)) => return Err(error),
            end => self.end = end,
        }
        self.backlog.fetch()
    }
}

/// Collects while nobody asks, so that new folders are watched at once and the kernel's queue does not overflow.
async fn collect(ready: AsyncFd<Arc<Inotify>>, collector: Arc<Mutex<Collector>>) {
    while let Ok(mut guard) = ready.readable().await {
        let shared = Arc::clone(&collector);
        let collected = spawn_blocking(move || {
            let mut collector = lock(&shared);
            (collector.collect(), collector.end.is_some())
        });
        match collected.await {
            Ok((_, true)) | Err(_) => return,
            Ok((Queue::Empty, false)) => guard.clear_ready(),
            Ok((Queue::MayHaveMore, false)) => {}
        }
    }
}

/// Events that nobody fetched yet.
#[derive(Debug, Default)]
struct Backlog {
    events: VecDeque<Event>,
    bytes: usize,
    state: Keeping,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    #[default]
    Everything,
    /// Some events are lost. Nothing is kept until the caller knows.
    NothingAfterLoss,
}

impl Backlog {
    fn push(&mut self, event: Event) {
        if self.state == Keeping::NothingAfterLoss {
            return;
        }
        match self.events.back_mut() {
            // As the kernel does with what nobody has read.
            Some(last) if (&last.name, last.change) == (&event.name, event.change) => {
                last.entry = event.entry;
                return;
            }
            _ => {}
        }
        self.bytes += cost(&event.name) + event.entry.as_ref().map_or(0, |_| ENTRY_BYTES);
        self.events.push_back(event);
        if self.bytes > BACKLOG_BYTES {
            self.lose();
        }
    }

    fn lose(&mut self) {
        *self = Self { state: Keeping::NothingAfterLoss, ..Self::default() };
    }

    fn fetch(&mut self) -> Result<Vec<Event>, WatchError> {
        let Self { events, bytes: _, state } = std::mem::take(self);
        match state {
            Keeping::Everything => Ok(events.into()),
            Keeping::NothingAfterLoss => Err(WatchError::Lost),
        }
    }
}

fn cost(name: &Path) -> usize {
    EVENT_BYTES + name.as_os_str().len()
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(format!("w{:032x}", u128::from_ne_bytes(bytes)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::watch::Change;
    use proptest::prelude::*;

    fn event(name: &str, change: Change) -> Event {
        Event { name: name.into(), change, entry: None }
    }

    #[test]
    fn the_same_again_is_one_event_until_it_is_fetched() {
        let mut backlog = Backlog::default();
        let (a, b) = (event("a", Change::Write), event("b", Change::Write));
        for event in [&a, &a, &b, &a] {
            backlog.push(event.clone());
        }
        assert_eq!(backlog.fetch().unwrap(), [a.clone(), b, a.clone()]);
        backlog.push(a.clone());
        assert_eq!(backlog.fetch().unwrap(), [a]);
        assert_eq!(backlog.fetch().unwrap(), []);
    }

    proptest! {
        #[test]
        fn a_loss_is_told_once_and_memory_is_bounded(
            pushes in proptest::collection::vec((0_usize..3, 1_usize..60_000), 1..120),
        ) {
            let mut backlog = Backlog::default();
            for (who, length) in &pushes {
                // Names that differ, so that no two are one event.
                backlog.push(event(&format!("{who}{}", "n".repeat(*length)), Change::Create));
                prop_assert!(backlog.events.iter().map(|event| cost(&event.name)).sum::<usize>() <= BACKLOG_BYTES);
            }
            if backlog.fetch().is_ok() {
                let all: usize = pushes.iter().map(|(_, length)| length + 1 + EVENT_BYTES).sum();
                prop_assert!(all <= BACKLOG_BYTES || pushes.windows(2).any(|two| two[0] == two[1]));
            }
            prop_assert!(backlog.fetch().unwrap().is_empty());
        }
    }
}
