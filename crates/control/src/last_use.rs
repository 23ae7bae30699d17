//! When keys and sign-ins were last used: collected in memory, written down in one statement for all, now and then. What a crash
//! loses of it is some seconds of a figure that nothing is decided by.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sandbar_store::StoreError;
use sandbar_types::Id;
use sandbar_types::id::{ApiKey, Session};

use crate::Control;

/// Uses of one kind of credential since they were last written down.
struct Uses<K>(Mutex<HashMap<K, DateTime<Utc>>>);

impl<K: Eq + Hash> Uses<K> {
    fn note(&self, key: K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Utc::now());
    }

    fn take(&self) -> Vec<(K, DateTime<Utc>)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

/// See the module.
pub(crate) struct LastUse {
    keys: Uses<Id<ApiKey>>,
    sessions: Uses<Id<Session>>,
}

impl Default for LastUse {
    fn default() -> Self {
        Self { keys: Uses(Mutex::default()), sessions: Uses(Mutex::default()) }
    }
}

impl LastUse {
    pub(crate) fn key(&self, id: Id<ApiKey>) {
        self.keys.note(id);
    }

    pub(crate) fn session(&self, id: Id<Session>) {
        self.sessions.note(id);
    }
}

impl Control {
    /// Writes down what was used since the last time.
    pub async fn write_last_use(&self) -> Result<(), StoreError> {
        let (keys, sessions) = (self.last_use().keys.take(), self.last_use().sessions.take());
        if !keys.is_empty() {
            self.store().api_keys_used(&keys).await?;
        }
        if !sessions.is_empty() {
            self.store().sessions_used(&sessions).await?;
        }
        Ok(())
    }
}
