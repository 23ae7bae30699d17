//! Room for disks, and whether they can be cloned by reference.

use std::path::{Path, PathBuf};

use sandbar_host_agent::Config;
use sandbar_storage::{Backing, Store, StoreError, StoreKind, StoreOptions};

use super::Finding;
use crate::data_dir::DataDir;

const STORE: &str = "store";
const SPACE: &str = "disk space";

/// Bytes below which nothing can start: the base image, its snapshot and the build of both.
const NEEDED: u64 = 6 << 30;
/// Bytes below which it is tight.
const COMFORTABLE: u64 = 20 << 30;
/// Size of the filesystem image with which a machine without a platform is tried.
const TRIAL_SIZE: u64 = 4 << 30;

/// A store to keep the guest's kernel in while it is looked at.
pub(super) enum KernelStore {
    /// The platform's own.
    Platform(Store),
    /// One for this call only.
    Trial(TrialStore),
    /// There is none.
    None,
}

/// Goes with all that is in it when it is dropped.
pub(super) struct TrialStore {
    store: Option<Store>,
    folder: PathBuf,
}

impl KernelStore {
    pub(super) fn store(&self) -> Option<&Store> {
        match self {
            Self::Platform(store) => Some(store),
            Self::Trial(trial) => trial.store.as_ref(),
            Self::None => None,
        }
    }
}

impl Drop for TrialStore {
    fn drop(&mut self) {
        self.store = None;
        let dir = self.folder.join("store");
        if dir.exists()
            && let Err(error) = Store::unmount(&dir)
        {
            tracing::warn!(%error, "cannot unmount {}", dir.display());
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "cannot remove {}", self.folder.display());
        }
    }
}

/// Opens the platform's store, or tries one in the place where it would be.
pub(super) async fn check_store(data_dir: &Path) -> (Finding, KernelStore) {
    let data_dir = data_dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let dir = Config::store_dir(&DataDir::at(&data_dir).host());
        if dir.join("..").exists() {
            let store = Store::open(&dir, &StoreOptions::default())?;
            return Ok((finding(store.kind(), "is"), KernelStore::Platform(store)));
        }
        let folder = existing(&data_dir).join(format!(".sandbar-doctor-{}", std::process::id()));
        let mut trial = TrialStore { store: None, folder };
        let options = StoreOptions { backing: Backing::Auto, size: Some(TRIAL_SIZE), reserve: None };
        let store = Store::open(&trial.folder.join("store"), &options)?;
        let finding = finding(store.kind(), "would be");
        trial.store = Some(store);
        Ok((finding, KernelStore::Trial(trial)))
    });
    match opened.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => (failed(&error), KernelStore::None),
        Err(error) => (
            Finding::fail(STORE, error.to_string(), "this is a fault of Sandbar's: report it"),
            KernelStore::None,
        ),
    }
}

fn finding(kind: &StoreKind, is: &str) -> Finding {
    match kind {
        StoreKind::Reflink => Finding::ok(
            STORE,
            format!("disks {is} cloned by reference (the folder's filesystem has reflink)"),
        ),
        StoreKind::LoopXfs { .. } => Finding::ok(
            STORE,
            format!(
                "disks {is} cloned by reference in an XFS image, since the folder's filesystem has no reflink"
            ),
        ),
        StoreKind::FullCopy { reason } => Finding::warn(
            STORE,
            format!("every sandbox starts with a full copy of its disk: {reason}"),
            "put the data folder on XFS or Btrfs, or install xfsprogs and allow loop devices",
        ),
    }
}

fn failed(error: &StoreError) -> Finding {
    let mut found = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        found.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Finding::fail(STORE, found, "see what the message names; another --data-dir is another filesystem")
}

pub(super) fn check_space(data_dir: &Path) -> Finding {
    let place = existing(data_dir);
    let free = match rustix::fs::statvfs(&place) {
        Ok(space) => space.f_bavail * space.f_frsize,
        Err(error) => {
            return Finding::fail(
                SPACE,
                format!("{}: {error}", place.display()),
                "choose another --data-dir",
            );
        }
    };
    let found = format!("{} GiB free in {}", free >> 30, place.display());
    let advice = "make room, or choose another --data-dir";
    match free {
        0..NEEDED => Finding::fail(SPACE, format!("{found}; {} GiB are needed", NEEDED >> 30), advice),
        NEEDED..COMFORTABLE => Finding::warn(SPACE, format!("{found}, enough for a few sandboxes"), advice),
        _ => Finding::ok(SPACE, found),
    }
}

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> PathBuf {
    let found = folder.ancestors().find(|ancestor| ancestor.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[tokio::test]
    async fn a_trial_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (finding, store) = check_store(&folder.path().join("not/yet/there")).await;
        assert_ne!(finding.verdict, Verdict::Fail, "{finding:?}");
        assert!(store.store().is_some());
        drop(store);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&folder.path().display().to_string()));
    }

    #[test]
    fn space_is_that_of_the_nearest_folder() {
        let finding = check_space(Path::new("/proc/1/no/such/folder"));
        assert_eq!(finding.verdict, Verdict::Fail, "procfs has no room: {finding:?}");
    }
}
