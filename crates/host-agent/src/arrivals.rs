//! Templates that are on their way to this host, and parts of those that are on their way from it.
//!
//! The control plane carries every part: it reads it from one host, or from object storage, and hands it to another. So no host
//! needs a way to another, nor a right to anything that it was not handed. What has arrived is kept for whoever goes on with it, until nobody
//! has for a while; with the agent it is gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandbar_proto::host::{
    FilePart, FileParts, OpenTemplateResponse, ReadTemplatePartResponse, ReceiveTemplateRequest,
    ReceiveTemplateResponse, WriteTemplatePartRequest, file_part,
};
use sandbar_storage::{Incoming, Store, StoreError, Template, TemplateFile, TemplateManifest};
use sandbar_types::TemplateKind;
use sandbar_types::id::{self, Id};
use tokio::time::Instant;

use crate::error::Error;
use crate::resources::{Resources, blocking};
use crate::wire::{describe_template, parse};

/// What nobody goes on with for so long is forgotten.
const PATIENCE: Duration = Duration::from_secs(600);

/// The templates that are on their way here.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    arriving: Mutex<HashMap<Id<id::Template>, Arriving>>,
}

#[derive(Debug)]
struct Arriving {
    incoming: Arc<Incoming>,
    /// Bytes that were promised to it.
    bytes: u64,
    last: Instant,
}

impl Arrivals {
    /// What has arrived of a template.
    fn touch(&self, id: Id<id::Template>) -> Result<Arc<Incoming>, Error> {
        let mut arriving = self.lock();
        let arriving = arriving.get_mut(&id).ok_or(Error::TemplateNotFound(id))?;
        arriving.last = Instant::now();
        Ok(Arc::clone(&arriving.incoming))
    }

    /// Bytes that are promised to the others.
    fn promised(&self, except: Id<id::Template>) -> u64 {
        let of =
            |(id, arriving): (&Id<id::Template>, &Arriving)| if *id == except { 0 } else { arriving.bytes };
        self.lock().iter().map(of).fold(0, u64::saturating_add)
    }

    /// Forgets what has arrived of a template; what is being written of it ends first.
    pub(crate) fn forget(&self, id: Id<id::Template>) {
        let forgotten = self.lock().remove(&id);
        // Its files are deleted here: not with the lock held.
        drop(forgotten);
    }

    /// Takes what has arrived, to be published; none while a part of it is being written.
    fn take(&self, id: Id<id::Template>) -> Result<Incoming, Error> {
        let mut arrivals = self.lock();
        let Arriving { incoming, bytes, last } = arrivals.remove(&id).ok_or(Error::TemplateNotFound(id))?;
        Arc::try_unwrap(incoming).map_err(|incoming| {
            arrivals.insert(id, Arriving { incoming, bytes, last });
            Error::Busy(format!("a part of template {id} is being written"))
        })
    }

    /// When the template is due to be forgotten, as things stand. None where it is gone.
    fn due(&self, id: Id<id::Template>) -> Option<Instant> {
        self.lock().get(&id).map(|arriving| arriving.last + PATIENCE)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id<id::Template>, Arriving>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a template of this host consists of.
pub(crate) fn open(store: &Store, id: Id<id::Template>) -> Result<OpenTemplateResponse, Error> {
    let template = store.template(id)?;
    let manifest =
        serde_json::to_vec(&template.manifest).map_err(Error::internal("describe the template"))?;
    let parts = template.manifest.files.keys().map(|&file| Ok((file, template.parts(file)?)));
    let parts: BTreeMap<_, _> = parts.collect::<Result<_, StoreError>>()?;
    Ok(OpenTemplateResponse {
        manifest,
        size_bytes: template.size_on_disk(),
        parts: file_parts(parts),
        ..Default::default()
    })
}

/// One part of a file of a template of this host.
pub(crate) fn read_part(
    store: &Store,
    id: Id<id::Template>,
    file: &str,
    index: u32,
) -> Result<ReadTemplatePartResponse, Error> {
    let pieces = store.template(id)?.read_part(file_named(file)?, index)?.into_iter();
    let pieces = pieces
        .map(|piece| file_part::Piece { offset: piece.offset, data: piece.data, ..Default::default() })
        .collect();
    let part = FilePart { pieces, ..Default::default() };
    Ok(ReadTemplatePartResponse { part: part.into(), ..Default::default() })
}

/// Begins to receive a template, or goes on with it.
pub(crate) async fn receive(
    resources: &Arc<Resources>,
    request: ReceiveTemplateRequest,
) -> Result<ReceiveTemplateResponse, Error> {
    let id: Id<id::Template> = parse(&request.id)?;
    let manifest: TemplateManifest = serde_json::from_slice(&request.manifest)
        .map_err(|error| Error::BadInput(format!("this is no manifest of a template: {error}")))?;
    if manifest.id != id {
        return Err(Error::BadInput("the manifest describes another template".into()));
    }
    match manifest.spec.kind {
        TemplateKind::Snapshot => resources.check(&manifest.spec)?,
        // A disk is booted, whatever its machine ran on.
        TemplateKind::Base => resources.booted(&manifest.spec).map(|_| ())?,
    }
    let (store, shared) = (resources.store.clone(), Arc::clone(resources));
    blocking("receive the template", move || {
        match store.template(id) {
            Ok(complete) => {
                let complete = describe_template(&complete).into();
                return Ok(ReceiveTemplateResponse { complete, ..Default::default() });
            }
            Err(StoreError::UnknownTemplate { .. }) => {}
            // It is of no use to anybody, and in the way.
            Err(StoreError::DamagedTemplate { .. }) => store.delete_template(id)?,
            Err(error) => return Err(error.into()),
        }
        let arrivals = &shared.arrivals;
        let incoming = match arrivals.touch(id) {
            Ok(incoming) if *incoming.manifest() == manifest => incoming,
            _ => {
                let bytes = request.size_bytes;
                let incoming =
                    Arc::new(store.receive_template(manifest, bytes.saturating_add(arrivals.promised(id)))?);
                let arriving = Arriving { incoming: Arc::clone(&incoming), bytes, last: Instant::now() };
                let before = arrivals.lock().insert(id, arriving);
                drop(before);
                incoming
            }
        };
        let parts = file_parts(incoming.here());
        Ok(ReceiveTemplateResponse { parts, ..Default::default() })
    })
    .await
    .inspect(|answer| {
        if answer.complete.as_option().is_none() {
            forget_in_time(resources, id);
        }
    })
}

/// One task for each time that somebody begins or goes on: whichever comes first after the time-out forgets it.
fn forget_in_time(resources: &Arc<Resources>, id: Id<id::Template>) {
    let resources = Arc::downgrade(resources);
    tokio::spawn(async move {
        while let Some(resources) = resources.upgrade() {
            let Some(due) = resources.arrivals.due(id) else { return };
            if due <= Instant::now() {
                tracing::info!(template = %id, "nobody goes on with sending a template");
                resources.arrivals.forget(id);
                return;
            }
            drop(resources);
            tokio::time::sleep_until(due).await;
        }
    });
}

/// Takes one part.
pub(crate) async fn write_part(
    resources: &Arc<Resources>,
    request: WriteTemplatePartRequest,
) -> Result<(), Error> {
    let incoming = resources.arrivals.touch(parse(&request.id)?)?;
    let file = file_named(&request.file)?;
    blocking("write a part of a template", move || {
        let part = request.part.as_option().map(|part| &part.pieces[..]).unwrap_or_default();
        let pieces = part.iter().map(|piece| (piece.offset, &piece.data[..]));
        Ok(incoming.write_part(file, request.index, pieces)?)
    })
    .await
}

/// Publishes what has arrived.
pub(crate) async fn commit(resources: &Arc<Resources>, id: Id<id::Template>) -> Result<Template, Error> {
    let resources = Arc::clone(resources);
    blocking("publish the template", move || match resources.store.template(id) {
        Err(StoreError::UnknownTemplate { .. }) => Ok(resources.arrivals.take(id)?.commit()?),
        read => Ok(read?),
    })
    .await
}

fn file_named(name: &str) -> Result<TemplateFile, Error> {
    let all = [TemplateFile::Disk, TemplateFile::State, TemplateFile::Memory];
    all.into_iter()
        .find(|file| file.name() == name)
        .ok_or_else(|| Error::BadInput(format!("a template has no file {name:?}")))
}

fn file_parts(parts: BTreeMap<TemplateFile, Vec<u32>>) -> Vec<FileParts> {
    let of = |(file, indices): (TemplateFile, Vec<u32>)| FileParts {
        file: file.name().to_owned(),
        indices,
        ..Default::default()
    };
    parts.into_iter().map(of).collect()
}
