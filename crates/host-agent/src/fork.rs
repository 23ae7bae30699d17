//! Children of a sandbox: one copy of it, and as many sandboxes restored from that as are wanted.
//!
//! The copy is there for them alone, under no name: each child has a clone of its disk and a link to its memory, and when the last one
//! runs the copy is deleted. What a killed agent leaves of it is swept at the next start.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use sandbar_types::id::{Id, Sandbox};

use crate::error::Error;
use crate::registry::Registry;
use crate::sandbox::machine::{Origin, Source, Start};
use crate::sandbox::{Captured, CreateRequest, Draft, Handle, Order, Target};

/// Children that are made at once. Each start keeps a processor busy for a while.
const AT_ONCE: usize = 4;

/// What became of the children, in the order in which they were asked for, and for how long their source stood still.
pub(crate) struct Forked {
    pub(crate) children: Vec<(Id<Sandbox>, Result<Handle, Error>)>,
    pub(crate) stall: Duration,
}

/// Makes children of a sandbox. Those that are there already are not made again, and if all are, the sandbox is left alone.
pub(crate) async fn fork(
    registry: &Registry,
    source: Id<Sandbox>,
    children: Vec<CreateRequest>,
) -> Result<Forked, Error> {
    let handle = registry.get(source)?;
    let missing = children.iter().any(|child| registry.get(child.id).is_err());
    let (origin, stall) = if missing { copy(registry, &handle).await? } else { (None, Duration::ZERO) };
    let starts = children.into_iter().map(|child| {
        let (id, origin) = (child.id, origin.clone());
        async move {
            let made = match (registry.get(id), origin) {
                // It is there, or being made by somebody who asked for the same.
                (Ok(handle), _) => handle.started().await.map(|()| handle),
                (Err(_), Some(origin)) => registry.create_from(child, origin).await,
                (Err(gone), None) => Err(gone),
            };
            (id, made)
        }
    });
    let children = futures::stream::iter(starts).buffered(AT_ONCE).collect().await;
    // Deletes the copy.
    drop(tokio::task::spawn_blocking(move || drop(origin)));
    Ok(Forked { children, stall })
}

async fn copy(registry: &Registry, source: &Handle) -> Result<(Option<Arc<Origin>>, Duration), Error> {
    let captured = source.ask(|reply| Order::Capture(Target::Children, reply)).await?;
    let Captured { draft, spec, stall } = captured;
    // The source may have outlived an upgrade of what runs it.
    registry.resources().check(&spec)?;
    let Draft::Image(draft) = draft else {
        return Err(Error::Internal { step: "copy the sandbox", source: "the copy is a template".into() });
    };
    let start = Start::Restore(draft.image());
    let origin = Origin { start, spec, of: Source::Copy { _files: draft } };
    Ok((Some(Arc::new(origin)), stall))
}
