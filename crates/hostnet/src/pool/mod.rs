//! The pool: which slots are free, which are taken, and the task that makes more.
//!
//! ```text
//!            worker                  take                    release
//!   unused ----------> building --> free ---------> in use ----------> being removed --> unused
//!                          \                                                  \
//!                           `--- failed: removed, unused ---                   `--- failed: kept out of use until the next open
//! ```
//!
//! A slot is never used twice: releasing it removes the namespace, and with it every connection, neighbour and counter of its
//! tenant. Numbers go round, so that one comes back as late as possible.

mod state;

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use state::State;
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    Egress, NetConfig, NetError, Slot, SlotIndex, host, netlink::Netlink, plan, plan::SlotPlan, slot,
};

/// Slots made at the same time. The kernel makes namespaces and devices under global locks: more would only wait.
const BUILDERS: usize = 2;
/// After a failure nobody waited for: until the next try.
const RETRY: Duration = Duration::from_secs(5);

/// How many slots there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Prepared and free.
    pub free: usize,
    /// Taken.
    pub in_use: usize,
}

/// Prepared slots. Cheap to clone; all clones are one pool. When the last one is dropped no more slots are made, but those that are
/// there stay until the next pool of the same tag is opened: [`Pool::shutdown`] is the orderly end.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    worker: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: NetConfig,
    host: Netlink,
    state: Mutex<State>,
    /// Tells the worker that there may be work.
    work: Notify,
    /// Tells those who wait for a slot that there may be one.
    progress: Notify,
}

impl Pool {
    /// Opens the pool: adopts the slots `in_use`, removes every other leftover of the tag, and prepares free slots in the
    /// background. A slot in use of which something is missing stays in use until it is released.
    pub async fn open(config: NetConfig, in_use: &[SlotIndex]) -> Result<Self, NetError> {
        let host = Netlink::open()?;
        let in_use: BTreeSet<_> = in_use.iter().copied().collect();
        host::prepare(&host, &config).await?;
        host::reclaim(&host, &config, &in_use).await?;
        for lost in in_use.difference(&host::present(&host, &config).await?) {
            tracing::warn!(slot = %lost, "a network slot in use is not there any more");
        }
        let state = Mutex::new(State::adopting(in_use));
        let shared = Arc::new(Shared { config, host, state, work: Notify::new(), progress: Notify::new() });
        let worker = tokio::spawn(work(Arc::clone(&shared)));
        Ok(Self(Arc::new(Owner { shared, worker: tokio::sync::Mutex::new(Some(worker)) })))
    }

    /// A slot: a prepared one at once if there is one, else one that is made now.
    pub async fn take(&self) -> Result<Slot, NetError> {
        let shared = &*self.0.shared;
        let failures = {
            let mut state = shared.state();
            if let Some(slot) = shared.take_free(&mut state) {
                return Ok(slot);
            }
            state.waiting += 1;
            state.failures
        };
        let _waiting = Waiting(shared);
        loop {
            // Armed before looking, so that nothing is missed in between.
            let mut progress = pin!(shared.progress.notified());
            progress.as_mut().enable();
            {
                let mut state = shared.state();
                if let Some(slot) = shared.take_free(&mut state) {
                    return Ok(slot);
                }
                if state.closed {
                    return Err(NetError::Closed);
                }
                if state.failures > failures
                    && let Some(failure) = &state.last_failure
                {
                    return Err(NetError::Unavailable(Arc::clone(failure)));
                }
            }
            shared.work.notify_one();
            progress.await;
        }
    }

    /// The description of a slot in use, for a sandbox that was found in the journal.
    #[must_use]
    pub fn slot(&self, index: SlotIndex) -> Option<Slot> {
        let shared = &self.0.shared;
        shared.state().in_use.contains(&index).then(|| shared.plan(index).describe())
    }

    /// What a slot's guest may reach, to be changed and looked at.
    #[must_use]
    pub fn egress(&self, slot: &Slot) -> Egress {
        let shared = &self.0.shared;
        Egress::new(shared.plan(slot.index), shared.config.clone())
    }

    /// Takes a slot's guest its way out, whatever its rules say: what it sends is lost, and it is not told. The host still reaches it.
    pub async fn cut_off(&self, slot: &Slot) -> Result<(), NetError> {
        slot::set_way_out(self.0.shared.plan(slot.index), slot::WayOut::Lost).await
    }

    /// Gives a slot's guest its way out again: its rules decide.
    pub async fn reconnect(&self, slot: &Slot) -> Result<(), NetError> {
        slot::set_way_out(self.0.shared.plan(slot.index), slot::WayOut::Open).await
    }

    /// Gives a slot back. Only once its VMM is gone, since the number's next user is somebody else. The slot itself is removed;
    /// what fails of that is logged and its number not used again. Giving up waiting does not stop the removal.
    pub async fn release(&self, index: SlotIndex) -> Result<(), NetError> {
        let shared = Arc::clone(&self.0.shared);
        {
            let mut state = shared.state();
            if !state.in_use.remove(&index) {
                return Err(NetError::NotInUse(index));
            }
            state.busy.insert(index);
        }
        let removal = tokio::spawn(async move { shared.remove(index).await });
        removal.await.unwrap_or(Err(NetError::ThreadLost))
    }

    /// How many slots there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.0.shared.state();
        Counts { free: state.free.len(), in_use: state.in_use.len() }
    }

    /// Stops preparing and removes the free slots. Slots in use stay as they are, with the host's rules; without any, those go too.
    pub async fn shutdown(&self) -> Result<(), NetError> {
        let Owner { shared, worker } = &*self.0;
        shared.close();
        if let Some(worker) = worker.lock().await.take() {
            // It ends when the slots that are being made are done.
            let _ = worker.await;
        }
        let free: Vec<_> = {
            let mut state = shared.state();
            let free = std::mem::take(&mut state.free);
            state.busy.extend(&free);
            free.into()
        };
        for index in free {
            shared.remove(index).await?;
        }
        if self.counts().in_use == 0 { host::restore(&shared.config).await } else { Ok(()) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// One caller waits. Also one that gives up.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, index: SlotIndex) -> SlotPlan {
        SlotPlan::new(&self.config, index)
    }

    fn take_free(&self, state: &mut State) -> Option<Slot> {
        let index = if state.closed { None } else { state.free.pop_front() }?;
        state.in_use.insert(index);
        state.taken = Some(Instant::now());
        self.work.notify_one();
        Some(self.plan(index).describe())
    }

    fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
        self.progress.notify_waiters();
    }

    /// Removes a slot that is marked as busy.
    async fn remove(&self, index: SlotIndex) -> Result<(), NetError> {
        match slot::remove(&self.host, &self.plan(index)).await {
            Ok(()) => {
                self.state().busy.remove(&index);
                Ok(())
            }
            Err(error) => {
                tracing::error!(slot = %index, %error, "a network slot cannot be removed: its number is not used again");
                Err(error)
            }
        }
    }

    async fn build(self: Arc<Self>, index: SlotIndex) -> (SlotIndex, Result<(), NetError>) {
        let made = slot::make(self.plan(index), &self.config).await;
        if made.is_err() {
            // Logged where it fails; the number stays busy then.
            let _ = self.remove(index).await;
        }
        (index, made)
    }

    /// Until when to make nothing, unless somebody waits.
    fn pause(&self, retry: Option<Instant>) -> Option<Instant> {
        let state = self.state();
        let until = retry.max(state.quiet_until(self.config.pool_size));
        until.filter(|until| state.waiting == 0 && *until > Instant::now())
    }

    /// The number of a slot to make now, if one is wanted.
    fn start_build(&self) -> Option<Result<SlotIndex, NetError>> {
        let mut state = self.state();
        if !state.wants_more(self.config.pool_size) {
            return None;
        }
        let network = self.config.network;
        let slots = plan::capacity(network);
        match state.unused(slots) {
            Some(index) => {
                state.busy.insert(index);
                state.building += 1;
                Some(Ok(index))
            }
            // What is being made may be enough for those who wait, and a pool that cannot be filled harms nobody.
            None if state.building > 0 || state.waiting == 0 => None,
            None => Some(Err(NetError::Exhausted { network, slots })),
        }
    }

    fn built(&self, index: SlotIndex) {
        let mut state = self.state();
        state.building -= 1;
        state.busy.remove(&index);
        state.free.push_back(index);
        drop(state);
        self.progress.notify_waiters();
    }

    fn failed(&self, error: NetError) {
        tracing::error!(error = &error as &dyn std::error::Error, "a network slot cannot be made");
        let mut state = self.state();
        state.failures += 1;
        state.last_failure = Some(Arc::new(error));
        drop(state);
        self.progress.notify_waiters();
    }
}

/// Makes slots for as long as the pool is open.
async fn work(shared: Arc<Shared>) {
    let mut builds = JoinSet::new();
    let mut retry: Option<Instant> = None;
    loop {
        let pause = shared.pause(retry);
        while builds.len() < BUILDERS && pause.is_none() {
            match shared.start_build() {
                Some(Ok(index)) => {
                    builds.spawn(Arc::clone(&shared).build(index));
                }
                Some(Err(error)) => {
                    shared.failed(error);
                    retry = Some(Instant::now() + RETRY);
                    break;
                }
                None => break,
            }
        }
        if builds.is_empty() && shared.state().closed {
            return;
        }
        tokio::select! {
            () = shared.work.notified() => {}
            Some(ended) = builds.join_next() => match ended {
                Ok((index, Ok(()))) => {
                    retry = None;
                    shared.built(index);
                }
                Ok((_, Err(error))) => {
                    shared.state().building -= 1;
                    retry = Some(Instant::now() + RETRY);
                    shared.failed(error);
                }
                Err(panic) => tracing::error!(%panic, "making a network slot panicked"),
            },
            () = tokio::time::sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
        }
    }
}
