//! Whom machines run as: a user for each machine that lives, out of a range that is nobody else's.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use crate::VmmError;

/// The users and which of them have a machine.
#[derive(Debug, Clone)]
pub(super) struct Users {
    range: Range<u32>,
    taken: Arc<Mutex<BTreeSet<u32>>>,
}

/// The user of a machine that is being made: free again when this is dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct User {
    uid: u32,
    users: Option<Users>,
}

impl Users {
    pub(super) fn new(range: Range<u32>) -> Self {
        Self { range, taken: Arc::default() }
    }

    /// A user that no machine has.
    pub(super) fn take(&self) -> Result<User, VmmError> {
        let mut taken = self.taken();
        let free = self.range.clone().find(|uid| !taken.contains(uid));
        let uid = free.ok_or(VmmError::NoUser { count: self.range.len() })?;
        taken.insert(uid);
        Ok(User { uid, users: Some(self.clone()) })
    }

    /// A machine that was found has this user.
    pub(super) fn found(&self, uid: u32) {
        self.taken().insert(uid);
    }

    /// The user's machine is gone.
    pub(super) fn free(&self, uid: u32) {
        self.taken().remove(&uid);
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        // Each change is one call: a panic elsewhere leaves the set whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// The machine is made: it has the user until [`Users::free`].
    pub(super) fn keep(mut self) -> u32 {
        self.users = None;
        self.uid
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(users) = &self.users {
            users.free(self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_nobody_elses_until_it_is_free() {
        let users = Users::new(900_000..900_003);
        let first = users.take().unwrap();
        users.found(900_001);
        let third = users.take().unwrap();
        assert_eq!((first.uid(), third.uid()), (900_000, 900_002));
        assert!(matches!(users.take(), Err(VmmError::NoUser { count: 3 })));
        let kept = first.keep();
        drop(third);
        assert_eq!(users.take().unwrap().uid(), 900_002, "a kept user was given away");
        users.free(kept);
        assert_eq!(users.take().unwrap().uid(), kept);
    }
}
