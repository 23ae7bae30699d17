//! Passwords: argon2id, off the threads that serve requests, a bounded number at a time (each takes 19 MiB).

use std::sync::Arc;

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{OnceCell, Semaphore};

use super::{InvalidPerson, PeopleError};
use crate::secrets::random_token;

/// Shortest password, in bytes.
const SHORTEST: usize = 8;
/// Longest, in bytes: hashing takes time with the length.
const LONGEST: usize = 1024;

/// Hashes and checks passwords.
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
    /// The hash of a password that nobody has: what an attempt without an account is held against, so that it takes as long.
    nobodys: OnceCell<String>,
}

impl Default for Passwords {
    fn default() -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { permits: Arc::new(Semaphore::new(at_once)), nobodys: OnceCell::new() }
    }
}

/// That a password may be chosen.
pub(crate) fn check(password: &SecretString) -> Result<(), InvalidPerson> {
    let length = password.expose_secret().len();
    if (SHORTEST..=LONGEST).contains(&length) { Ok(()) } else { Err(InvalidPerson::Password) }
}

impl Passwords {
    /// In PHC form.
    pub(crate) async fn hash(&self, password: SecretString) -> Result<String, PeopleError> {
        self.work(move || {
            let hash = Argon2::default().hash_password(password.expose_secret().as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|_| PeopleError::Hash)
        })
        .await
    }

    /// Whether this is the password. Without a hash it is not, and finding that out takes as long.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<bool, PeopleError> {
        let (hash, somebodys) = match hash {
            Some(hash) => (hash, true),
            None => (self.nobodys().await?, false),
        };
        self.work(move || {
            // Nobody could have chosen a longer one: not worth the time that it takes.
            let bytes = password.expose_secret().as_bytes();
            let bytes = if bytes.len() > LONGEST { &[] } else { bytes };
            let matches = Argon2::default().verify_password(bytes, hash.as_str()).is_ok();
            Ok(matches && somebodys)
        })
        .await
    }

    /// Made before the first attempt rather than with it: see [`Passwords::nobodys`](Self).
    pub(crate) async fn warm_up(&self) -> Result<(), PeopleError> {
        self.nobodys().await.map(drop)
    }

    async fn nobodys(&self) -> Result<String, PeopleError> {
        self.nobodys.get_or_try_init(|| self.hash(random_token::<16>(""))).await.cloned()
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PeopleError> + Send + 'static,
    ) -> Result<T, PeopleError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| PeopleError::Hash)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held for as long as the memory is, also when the caller goes away.
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| PeopleError::Hash)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_kept_as_argon2id_and_only_it_matches() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("wrong".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("x".repeat(LONGEST + 1).into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("correct horse".into(), None).await.unwrap());
    }

    #[test]
    fn lengths_are_bounded() {
        for (length, good) in [(0, false), (7, false), (8, true), (1024, true), (1025, false)] {
            assert_eq!(check(&"p".repeat(length).into()).is_ok(), good, "{length}");
        }
    }
}
