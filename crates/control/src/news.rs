//! Who waits for what others do is woken by the database: one connection of each control plane listens, once somebody waits.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use sandbar_store::Store;
use sandbar_store::listen::{Listener, Told};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// What a slow reader may lag behind before it is told that it missed something.
const BACKLOG: usize = 1024;
/// Time between two attempts to listen, while the database is away.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct News {
    told: broadcast::Sender<Told>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Default for News {
    fn default() -> Self {
        Self { told: broadcast::channel(BACKLOG).0, listening: Mutex::default() }
    }
}

impl News {
    /// What is told from now on. A reader looks at the rows after this, and again whenever it is told of them.
    pub(crate) fn subscribe(&self, store: &Store) -> Reader {
        let reader = Reader(self.told.subscribe());
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.as_ref().is_none_or(JoinHandle::is_finished) {
            *listening = Some(tokio::spawn(listen(store.clone(), self.told.clone())));
        }
        reader
    }
}

impl Drop for News {
    fn drop(&mut self) {
        let listening = self.listening.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = listening {
            task.abort();
        }
    }
}

/// One who waits.
pub(crate) struct Reader(broadcast::Receiver<Told>);

impl Reader {
    /// Waits until something was told that `matters`, or something was missed.
    pub(crate) async fn wait(&mut self, matters: impl Fn(&Told) -> bool) {
        loop {
            match self.0.recv().await {
                Ok(told) if told == Told::Missed || matters(&told) => return,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The control plane has gone, and whoever waits is about to.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

async fn listen(store: Store, told: broadcast::Sender<Told>) {
    let mut listener: Option<Listener> = None;
    loop {
        let heard = match &mut listener {
            Some(listener) => listener.next().await,
            // What was told before it listened nobody heard.
            None => store.listen().await.map(|new| {
                listener = Some(new);
                Told::Missed
            }),
        };
        match heard {
            // Nobody need wait.
            Ok(heard) => drop(told.send(heard)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot listen to the database");
                listener = None;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
