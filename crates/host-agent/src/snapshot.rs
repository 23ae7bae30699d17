//! Templates made of sandboxes: snapshots with their memory, base images of their disks alone.
//!
//! The sandbox's task makes the copy, so that nothing else happens to the sandbox meanwhile; what takes long (checksums, the disk)
//! is done here, while the sandbox runs on.

use std::time::Duration;

use sandbar_storage::{StoreError, Template, TemplateDraft, TemplateSpec};
use sandbar_types::id::{self, Id, Sandbox};

use crate::error::Error;
use crate::registry::Registry;
use crate::resources::{Resources, blocking};
use crate::sandbox::{Captured, Draft, Order, Target};

/// Keeps a sandbox as a snapshot template, or its pause as a template of its own; one that is there is a success, and nothing is copied.
pub(crate) async fn snapshot(
    registry: &Registry,
    sandbox: Id<Sandbox>,
    target: Target,
    template: Id<id::Template>,
) -> Result<(Template, Duration), Error> {
    if let Some(there) = existing(registry.resources(), template).await? {
        return Ok((there, Duration::ZERO));
    }
    let (draft, spec, stall) = copy(registry, sandbox, target).await?;
    let made = blocking("keep the template", move || draft.commit(spec).map_err(Error::from)).await;
    Ok((or_existing(registry.resources(), template, made).await?, stall))
}

/// Keeps a sandbox's disk, checked and packed, as a base template; a template that is there is a success.
pub(crate) async fn flatten(
    registry: &Registry,
    sandbox: Id<Sandbox>,
    template: Id<id::Template>,
) -> Result<Template, Error> {
    if let Some(there) = existing(registry.resources(), template).await? {
        return Ok(there);
    }
    let (draft, spec, _) = copy(registry, sandbox, Target::Disk(template)).await?;
    let made = blocking("pack and keep the disk", move || {
        draft.pack_disk()?;
        Ok(draft.commit(spec)?)
    })
    .await;
    or_existing(registry.resources(), template, made).await
}

async fn copy(
    registry: &Registry,
    sandbox: Id<Sandbox>,
    target: Target,
) -> Result<(TemplateDraft, TemplateSpec, Duration), Error> {
    let handle = registry.get(sandbox)?;
    let Captured { draft, spec, stall } = handle.ask(|reply| Order::Capture(target, reply)).await?;
    match draft {
        Draft::Template(draft) => Ok((draft, spec, stall)),
        Draft::Image(_) => {
            Err(Error::Internal { step: "copy the sandbox", source: "the copy is no template".into() })
        }
    }
}

async fn existing(resources: &Resources, id: Id<id::Template>) -> Result<Option<Template>, Error> {
    let store = resources.store.clone();
    blocking("read the template", move || match store.template(id) {
        Ok(template) => Ok(Some(template)),
        Err(StoreError::UnknownTemplate { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    })
    .await
}

/// What was made, or what somebody who was faster has made.
async fn or_existing(
    resources: &Resources,
    id: Id<id::Template>,
    made: Result<Template, Error>,
) -> Result<Template, Error> {
    match made {
        Err(Error::TemplateExists(_)) => existing(resources, id).await?.ok_or(Error::TemplateNotFound(id)),
        made => made,
    }
}
