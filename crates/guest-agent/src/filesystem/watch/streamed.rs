//! A watch that is read when its reader asks. Until then its events wait in the kernel's queue, which is bounded.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;

use super::inotify::Inotify;
use super::observer::{Life, Observer, Queue};
use super::places::Place;
use super::{Event, Spec, WatchError};

/// A watch of one reader.
#[derive(Debug)]
pub(in crate::filesystem) struct Watch {
    ready: AsyncFd<Arc<Inotify>>,
    /// Shared with the thread that works for it. Nobody else waits for it.
    observer: Arc<Mutex<Observer>>,
    _place: Place,
}

/// What a watch has to say.
#[derive(Debug)]
pub(in crate::filesystem) enum News {
    /// What happened; perhaps nothing that concerns the reader.
    Events(Vec<Event>),
    /// The last of what happened: the folder is gone.
    Last(Vec<Event>),
}

impl Watch {
    /// Watches a folder from now on.
    pub(in crate::filesystem) async fn open(spec: Spec, place: Place) -> Result<Self, WatchError> {
        let failed = broken(&spec);
        let observer = spawn_blocking(move || Observer::open(spec)).await;
        let observer = observer.map_err(io::Error::other).map_err(&failed)??;
        let ready = observer.inotify().readiness().map_err(failed)?;
        Ok(Self { ready, observer: Arc::new(Mutex::new(observer)), _place: place })
    }

    /// Waits until there is something. To stop waiting loses nothing.
    pub(in crate::filesystem) async fn stirs(&self) {
        // An error here is one there too, and said there.
        let _ = self.ready.readable().await;
    }

    /// What there is, or will be next. To stop waiting may lose events.
    pub(in crate::filesystem) async fn news(&mut self) -> Result<News, WatchError> {
        let failed = |source| WatchError::Failed { path: ".".into(), source };
        let mut guard = self.ready.readable().await.map_err(failed)?;
        let observer = Arc::clone(&self.observer);
        let look = move || observer.lock().unwrap_or_else(PoisonError::into_inner).look();
        let seen = spawn_blocking(look).await.map_err(io::Error::other).map_err(failed)??;
        if seen.queue == Queue::Empty {
            guard.clear_ready();
        }
        Ok(match seen.life {
            Life::There => News::Events(seen.events),
            Life::Gone => News::Last(seen.events),
        })
    }
}

fn broken(spec: &Spec) -> impl Fn(io::Error) -> WatchError + use<> {
    let path = spec.folder.clone();
    move |source| WatchError::Failed { path: path.clone(), source }
}
