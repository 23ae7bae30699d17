//! Volumes: disks of this host that sandboxes mount, each had by one sandbox at a time.
//!
//! Who has which is in memory here and, for good, in the journal's records: claimed before a sandbox's machine begins, and free once its record is
//! gone. [`link`] keeps a volume's connection into its guest, [`nbd`] answers what the guest's kernel asks for on it.

mod link;
mod nbd;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbar_proto::host;
use sandbar_types::id::{Id, Sandbox, Volume};
use sandbar_types::limits::{PATH_BYTES, SANDBOX_VOLUMES};
use serde::{Deserialize, Serialize};

pub(crate) use link::Links;

use crate::error::Error;
use crate::resources::{Resources, blocking};
use crate::wire::parse;

/// The largest.
const MOST_BYTES: u64 = 64 << 40;

/// A volume in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) volume: Id<Volume>,
    pub(crate) path: String,
}

/// Who has a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Sandbox(Id<Sandbox>),
    /// It is being removed.
    Nobody,
}

/// Who has which.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<Id<Volume>, Holder>>);

impl Claims {
    /// Makes the volumes this sandbox's: all of them, or none. What is its already stays so.
    pub(crate) fn claim(&self, sandbox: Id<Sandbox>, mounts: &[Mount]) -> Result<(), Error> {
        let mut claims = self.lock();
        for Mount { volume, .. } in mounts {
            match claims.get(volume) {
                None => {}
                Some(Holder::Sandbox(holder)) if *holder == sandbox => {}
                Some(Holder::Sandbox(holder)) => {
                    return Err(Error::VolumeInUse { volume: *volume, holder: *holder });
                }
                Some(Holder::Nobody) => return Err(Error::VolumeNotFound(*volume)),
            }
        }
        claims.extend(mounts.iter().map(|mount| (mount.volume, Holder::Sandbox(sandbox))));
        Ok(())
    }

    /// Gives back all that the sandbox has.
    pub(crate) fn release(&self, sandbox: Id<Sandbox>) {
        self.lock().retain(|_, holder| *holder != Holder::Sandbox(sandbox));
    }

    fn holder(&self, volume: Id<Volume>) -> Option<Id<Sandbox>> {
        match self.lock().get(&volume) {
            Some(Holder::Sandbox(sandbox)) => Some(*sandbox),
            Some(Holder::Nobody) | None => None,
        }
    }

    /// Keeps everybody from a volume that is to be removed, for as long as this lives.
    fn seize(self: &Arc<Self>, volume: Id<Volume>) -> Result<Seized, Error> {
        match self.lock().entry(volume) {
            Entry::Occupied(entry) => match *entry.get() {
                Holder::Sandbox(holder) => Err(Error::VolumeInUse { volume, holder }),
                Holder::Nobody => Err(Error::Busy(format!("volume {volume} is being removed"))),
            },
            Entry::Vacant(entry) => {
                entry.insert(Holder::Nobody);
                Ok(Seized { claims: Arc::clone(self), volume })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id<Volume>, Holder>> {
        // A panic while it is locked cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Seized {
    claims: Arc<Claims>,
    volume: Id<Volume>,
}

impl Drop for Seized {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.volume);
    }
}

/// The volumes that a sandbox is to have.
pub(crate) fn mounts(wire: Vec<host::VolumeMount>) -> Result<Vec<Mount>, Error> {
    if wire.len() > SANDBOX_VOLUMES {
        return Err(Error::BadInput(format!("a sandbox has {SANDBOX_VOLUMES} volumes at most")));
    }
    let mut mounts: Vec<Mount> = Vec::new();
    for host::VolumeMount { volume_id, path, .. } in wire {
        let volume = parse(&volume_id)?;
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let whole = path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_plain));
        if !whole || path.len() > PATH_BYTES || path.contains('\0') {
            return Err(Error::BadInput(format!("a volume cannot be mounted at {path:?}")));
        }
        if mounts.iter().any(|other| other.volume == volume || other.path == path) {
            return Err(Error::BadInput("volumes and their paths must differ".into()));
        }
        mounts.push(Mount { volume, path });
    }
    Ok(mounts)
}

/// The same for callers.
pub(crate) fn describe_mounts(mounts: &[Mount]) -> Vec<host::VolumeMount> {
    let describe = |Mount { volume, path }: &Mount| host::VolumeMount {
        volume_id: volume.to_string(),
        path: path.clone(),
        ..Default::default()
    };
    mounts.iter().map(describe).collect()
}

/// Makes a volume.
pub(crate) async fn create(
    resources: &Arc<Resources>,
    id: Id<Volume>,
    size: u64,
) -> Result<host::Volume, Error> {
    if size == 0 || size > MOST_BYTES {
        return Err(Error::BadInput("size_bytes is out of bounds".into()));
    }
    let store = resources.store.clone();
    let volume = blocking("make the volume", move || Ok(store.create_volume(id, size)?)).await?;
    Ok(describe(resources, volume))
}

/// Removes a volume that nobody has; whether there was one.
pub(crate) async fn delete(resources: &Arc<Resources>, id: Id<Volume>) -> Result<bool, Error> {
    let seized = resources.volumes.seize(id)?;
    let store = resources.store.clone();
    blocking("remove the volume", move || {
        let existed = store.delete_volume(id)?;
        drop(seized);
        Ok(existed)
    })
    .await
}

/// The volumes of this host.
pub(crate) async fn list(resources: &Arc<Resources>) -> Result<Vec<host::Volume>, Error> {
    let store = resources.store.clone();
    let volumes = blocking("list the volumes", move || Ok(store.volumes()?)).await?;
    Ok(volumes.into_iter().map(|volume| describe(resources, volume)).collect())
}

fn describe(resources: &Resources, volume: sandbar_storage::Volume) -> host::Volume {
    let sandbar_storage::Volume { id, size_bytes, used_bytes } = volume;
    host::Volume {
        id: id.to_string(),
        size_bytes,
        used_bytes,
        sandbox_id: resources.volumes.holder(id).map(|sandbox| sandbox.to_string()).unwrap_or_default(),
        ..Default::default()
    }
}

/// Claims the volumes of a sandbox that is to be made, all of which there must be. What was claimed is released by the caller.
pub(crate) async fn take(resources: &Resources, sandbox: Id<Sandbox>, mounts: &[Mount]) -> Result<(), Error> {
    if mounts.is_empty() {
        return Ok(());
    }
    resources.volumes.claim(sandbox, mounts)?;
    let (store, volumes) = (resources.store.clone(), mounts.to_owned());
    blocking("look for the volumes", move || {
        volumes.iter().try_for_each(|mount| store.volume(mount.volume).map(drop).map_err(Error::from))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(volume: Id<Volume>, path: &str) -> Mount {
        Mount { volume, path: path.into() }
    }

    #[test]
    fn a_volume_is_had_by_one_at_a_time_and_all_are_had_or_none() {
        let claims = Arc::new(Claims::default());
        let (one, other) = (Id::<Sandbox>::new(), Id::<Sandbox>::new());
        let (first, second) = (Id::<Volume>::new(), Id::<Volume>::new());
        claims.claim(one, &[mount(first, "/a")]).unwrap();
        claims.claim(one, &[mount(first, "/a")]).unwrap();
        let refused = claims.claim(other, &[mount(second, "/a"), mount(first, "/b")]);
        assert!(
            matches!(refused, Err(Error::VolumeInUse { volume, holder }) if volume == first && holder == one)
        );
        assert_eq!(claims.holder(second), None);
        assert!(matches!(claims.seize(first), Err(Error::VolumeInUse { .. })));

        claims.release(one);
        let seized = claims.seize(first).unwrap();
        assert!(matches!(claims.claim(other, &[mount(first, "/a")]), Err(Error::VolumeNotFound(_))));
        assert!(matches!(claims.seize(first), Err(Error::Busy(_))));
        drop(seized);
        claims.claim(other, &[mount(first, "/a")]).unwrap();
        assert_eq!(claims.holder(first), Some(other));
    }

    #[test]
    fn paths_are_absolute_and_plain_and_differ() {
        let wire = |volume: Id<Volume>, path: &str| host::VolumeMount {
            volume_id: volume.to_string(),
            path: path.into(),
            ..Default::default()
        };
        for path in ["", "/", "a", "a/b", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b"] {
            assert!(mounts(vec![wire(Id::new(), path)]).is_err(), "{path:?}");
        }
        let (one, other) = (Id::new(), Id::new());
        let read = mounts(vec![wire(one, "/a"), wire(other, "/a/b c")]).unwrap();
        assert_eq!(read, [mount(one, "/a"), mount(other, "/a/b c")]);
        assert!(mounts(vec![wire(one, "/a"), wire(other, "/a")]).is_err());
        assert!(mounts(vec![wire(one, "/a"), wire(one, "/b")]).is_err());
        assert!(mounts((0..=SANDBOX_VOLUMES).map(|n| wire(Id::new(), &format!("/{n}"))).collect()).is_err());
    }
}
