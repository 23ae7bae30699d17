//! The task that makes and ends spares, one at a time.

use std::sync::Arc;
use std::time::Duration;

use sandbar_storage::{StoreError, Template};
use sandbar_types::id::{self, Id};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::watermark::{Level, Memory, Step, next_step};
use super::{Shelf, Spare, Spares, State};
use crate::error::{Error, chain};
use crate::machine_facts;
use crate::resources::{Resources, blocking};

/// After the last create: until spares are made. Whoever creates one sandbox often creates the next.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks at the host's memory and at whether spares still live, while there are any.
const LOOK: Duration = Duration::from_secs(5);
/// After a spare could not be made: until the next try.
const RETRY: Duration = Duration::from_secs(30);

/// What the keeper does next.
enum Work {
    Make(Id<id::Template>),
    End(Vec<Spare>),
    /// Nothing, until something changes or this moment comes.
    Wait(Option<Instant>),
}

/// Keeps the pool at its watermarks until `shutdown`, then ends all spares.
pub(crate) async fn keep(spares: Arc<Spares>, resources: Arc<Resources>, shutdown: CancellationToken) {
    let mut not_before = Instant::now();
    while !shutdown.is_cancelled() {
        match spares.work(not_before) {
            Work::End(ended) => {
                for spare in ended {
                    spare.end(&resources).await;
                }
            }
            Work::Make(template) => {
                if let Err(error) = make(&spares, &resources, template).await {
                    tracing::warn!(%template, error = chain(&error), "no spare machine could be made ahead");
                    not_before = Instant::now() + RETRY;
                }
            }
            Work::Wait(until) => {
                let moment = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = spares.changed.notified() => {}
                    () = moment => {}
                }
            }
        }
    }
    let left = spares.state().clear();
    for spare in left {
        spare.end(&resources).await;
    }
}

async fn make(spares: &Spares, resources: &Resources, id: Id<id::Template>) -> Result<(), Error> {
    let store = resources.store.clone();
    let template = blocking("read the template", move || match store.template(id) {
        Ok(template) => Ok(Some(template)),
        Err(StoreError::UnknownTemplate { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    });
    let Some(template) = template.await? else {
        spares.forget(id);
        return Ok(());
    };
    resources.check(&template.manifest.spec)?;
    let begun = Instant::now();
    let spare = Spare::make(resources, &template).await?;
    tracing::info!(template = %id, took = ?begun.elapsed(), "a spare machine is ready");
    spares.shelve(&template, spare);
    Ok(())
}

impl Spares {
    /// Puts a spare on its shelf, unless the template has gone or changed meanwhile.
    fn shelve(&self, template: &Template, spare: Spare) {
        let mut state = self.state();
        match state.shelves.get_mut(&template.id()) {
            Some(shelf) if shelf.edition == spare.edition => shelf.ready.push(spare),
            _ => state.discarded.push(spare),
        }
    }

    fn work(&self, not_before: Instant) -> Work {
        let memory = Memory { available_mb: machine_facts::memory_available_mb(), floor_mb: self.floor_mb };
        let now = Instant::now();
        let mut state = self.state();
        let ended = state.ended();
        if !ended.is_empty() {
            return Work::End(ended);
        }
        let levels = state.shelves.iter().map(|(id, shelf)| (*id, shelf.level(self.pool, now))).collect();
        match next_step(&levels, memory) {
            Step::End(template) => {
                let shelf = state.shelves.get_mut(&template);
                return Work::End(shelf.and_then(|shelf| shelf.ready.pop()).into_iter().collect());
            }
            Step::Make(template) => {
                let from = not_before.max(state.quiet_since + QUIET);
                match state.creates {
                    0 if from <= now => return Work::Make(template),
                    0 => return Work::Wait(Some(state.next_look(now).map_or(from, |look| look.min(from)))),
                    // The last of them tells.
                    _ => {}
                }
            }
            Step::Rest => {}
        }
        state.shelves.retain(|_, shelf| !shelf.ready.is_empty() || shelf.demand.falls_at(now).is_some());
        Work::Wait(state.next_look(now))
    }
}

impl State {
    /// Spares that are of no use any more.
    fn ended(&mut self) -> Vec<Spare> {
        let dead =
            self.shelves.values_mut().flat_map(|shelf| shelf.ready.extract_if(.., |spare| spare.is_dead()));
        let mut ended: Vec<_> = dead.collect();
        ended.append(&mut self.discarded);
        ended
    }

    fn clear(&mut self) -> Vec<Spare> {
        let shelves = std::mem::take(&mut self.shelves);
        let mut all = std::mem::take(&mut self.discarded);
        all.extend(shelves.into_values().flat_map(|shelf| shelf.ready));
        all
    }

    /// When the host, or time itself, may ask for something else than now.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let falls = self.shelves.values().filter_map(|shelf| shelf.demand.falls_at(now)).min();
        let looks = self.shelves.values().any(|shelf| !shelf.ready.is_empty()).then(|| now + LOOK);
        falls.into_iter().chain(looks).min()
    }
}

impl Shelf {
    fn level(&self, pool: super::WarmPool, now: Instant) -> Level {
        Level {
            wanted: self.demand.wants(pool, now),
            ready: self.ready.len(),
            memory_mb: self.memory_mb.into(),
            asked: self.demand.last(),
        }
    }
}
