//! The names that a guest was not told: how many, and the last of them.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::DeniedName;

/// Names that are listed. A guest can think of more than that.
const LISTED: usize = 256;

/// A slot's denied names.
#[derive(Debug, Default)]
pub(super) struct DeniedNames(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    queries: u64,
    by_name: HashMap<String, Asked>,
}

#[derive(Debug)]
struct Asked {
    queries: u64,
    last: Instant,
    /// Which of all queries the last one was: moments may be the same.
    turn: u64,
}

impl DeniedNames {
    /// One more.
    pub(super) fn note(&self, name: &str) {
        // Every change is complete before anything can panic.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.queries += 1;
        if state.by_name.len() >= LISTED && !state.by_name.contains_key(name) {
            let oldest = state.by_name.iter().min_by_key(|(_, asked)| asked.turn);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                state.by_name.remove(&oldest);
            }
        }
        let turn = state.queries;
        let queries = state.by_name.get(name).map_or(0, |asked| asked.queries) + 1;
        state.by_name.insert(name.to_owned(), Asked { queries, last: Instant::now(), turn });
    }

    /// How many queries there were, and for what, the last first.
    pub(super) fn told(&self) -> (u64, Vec<DeniedName>) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_turn: Vec<_> = state.by_name.iter().collect();
        by_turn.sort_by_key(|(_, asked)| Reverse(asked.turn));
        let listed = by_turn.into_iter().map(|(name, Asked { queries, last, turn: _ })| DeniedName {
            name: name.clone(),
            queries: *queries,
            ago: last.elapsed(),
        });
        (state.queries, listed.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_last_are_listed() {
        let names = DeniedNames::default();
        for number in 0..=LISTED {
            names.note(&format!("{number}.example"));
        }
        names.note("7.example");
        let (queries, listed) = names.told();
        assert_eq!((queries, listed.len()), (258, LISTED));
        assert_eq!((listed[0].name.as_str(), listed[0].queries), ("7.example", 2));
        assert!(listed.iter().all(|denied| denied.name != "0.example"), "the oldest has made room");
    }
}
