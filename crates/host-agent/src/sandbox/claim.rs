//! A spare machine becomes a sandbox's.

use sandbar_types::id::{Id, Template};

use super::CreateRequest;
use super::machine::{Files, Holdings, Origin, Source, Start, Stranger};
use crate::error::Error;
use crate::resources::{Resources, blocking};
use crate::warm::Spare;

impl Origin {
    /// A spare of this very machine, if there is one.
    pub(super) fn spare(&self, resources: &Resources, template: Id<Template>) -> Option<Spare> {
        match (&self.start, &self.of) {
            (Start::Restore(_), Source::Template { made }) => {
                resources.spares.claim(template, *made, self.spec.memory_mb)
            }
            (Start::Boot(_), _) | (_, Source::Copy { .. }) => None,
        }
    }
}

impl Holdings {
    /// Takes a spare over with all that it holds: its files under the sandbox's name, its machine as an agent takes over one that it
    /// finds, its network under the sandbox's policy. Its guest runs when this returns.
    pub(super) async fn claim(
        &mut self,
        resources: &Resources,
        request: &CreateRequest,
        spare: Spare,
    ) -> Result<Stranger, Error> {
        let Spare { machine, slot, files, token, .. } = spare;
        let process = machine.process();
        // From here on it is given back like all that the sandbox has.
        self.machine = Some(machine);
        self.slot = Some(slot.clone());
        let id = request.id;
        let settled = tokio::task::spawn_blocking(move || files.settle(id));
        let files = match settled.await.map_err(Error::internal("take the spare's files"))? {
            Ok(files) => files,
            Err((error, files)) => {
                // Its machine runs on them.
                self.end_machine().await?;
                blocking("remove the spare's files", move || {
                    drop(files);
                    Ok(())
                })
                .await?;
                return Err(error.into());
            }
        };
        self.files = Files::Perhaps;
        // Its control socket takes one client at a time, and a handle keeps to the names that its files had.
        self.machine = None;
        self.stray = Some(process);
        let machine = resources.vmm.adopt(&files.dir, &files.memory, process).await;
        self.machine = Some(machine.map_err(Error::internal("take the spare over"))?);
        self.stray = None;
        self.restrict_fresh(resources, &request.network).await?;
        if let Some(machine) = &self.machine {
            machine.resume().await.map_err(Error::internal("let the spare go on"))?;
        }
        Ok(Stranger { slot, process, token: Some(token) })
    }
}
