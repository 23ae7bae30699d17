//! What a sandbox holds of its host, taking it step by step, and giving it back.
//!
//! [`Holdings`] knows what has been taken so far, so giving back is one operation, the same after a start that failed half way,
//! after a machine that ended by itself and at the end of a sandbox; it can be repeated until it succeeds. A `kill -9` between two
//! steps is no different: the next agent finds the record, and gives back what the record names.

use std::net::Ipv4Addr;
use std::sync::Arc;

use sandbar_hostnet::Slot;
use sandbar_storage::{Template, TemplateFile};
use sandbar_types::id::{Id, Sandbox};
use sandbar_vmm::{Machine, MachineSpec, SnapshotFiles};

use super::CreateRequest;
use super::activity::now_unix_ms;
use crate::error::Error;
use crate::guest::{GuestClient, Identity};
use crate::journal::{Phase, Record};
use crate::resources::{Resources, blocking};

/// What one sandbox has taken.
pub(crate) struct Holdings {
    id: Id<Sandbox>,
    machine: Option<Box<dyn Machine>>,
    slot: Option<Slot>,
    files: Files,
}

/// Whether a sandbox may have files.
enum Files {
    None,
    Perhaps,
}

impl Holdings {
    /// A sandbox that has nothing yet.
    pub(crate) fn none(id: Id<Sandbox>) -> Self {
        Self { id, machine: None, slot: None, files: Files::None }
    }

    /// A sandbox that was found in the journal, with what its record names.
    pub(crate) fn found(id: Id<Sandbox>, machine: Option<Box<dyn Machine>>, slot: Option<Slot>) -> Self {
        Self { id, machine, slot, files: Files::Perhaps }
    }

    /// The address at which the host reaches the guest.
    pub(crate) fn host_ip(&self) -> Option<Ipv4Addr> {
        self.slot.as_ref().map(|slot| slot.host_ip)
    }

    /// Completes when the machine is gone; at once where there is none.
    pub(crate) async fn exited(&self) {
        if let Some(machine) = &self.machine {
            machine.exited().await;
        }
    }

    /// Gives everything back: first the machine, which uses all the rest, and the slot last, since somebody else takes it next.
    /// What could not be given back is still held, and a repetition goes on from there.
    pub(crate) async fn give_back(&mut self, resources: &Resources) -> Result<(), Error> {
        if let Some(machine) = &self.machine {
            machine.kill().await.map_err(Error::internal("end the machine"))?;
            self.machine = None;
        }
        if matches!(self.files, Files::Perhaps) {
            let (store, id) = (resources.store.clone(), self.id);
            blocking("remove the sandbox's files", move || store.remove_sandbox(id).map_err(Error::from))
                .await?;
            self.files = Files::None;
        }
        if let Some(slot) = &self.slot {
            resources
                .pool
                .release(slot.index)
                .await
                .map_err(Error::internal("give the network slot back"))?;
            self.slot = None;
        }
        Ok(())
    }

    /// Makes a sandbox: slot, record, disk, machine, identity, record again. On failure the caller gives back.
    pub(crate) async fn take(
        &mut self,
        resources: &Resources,
        request: &CreateRequest,
        template: Arc<Template>,
    ) -> Result<(Record, GuestClient), Error> {
        let slot = resources.pool.take().await.map_err(|e| Error::NoCapacity(e.to_string()))?;
        self.slot = Some(slot.clone());

        let spec = &template.manifest.spec;
        let record = Record::starting(
            request.id,
            request.template_id,
            slot.index,
            spec.vcpus,
            spec.memory_mb,
            spec.disk_mb,
            request.access_token.clone(),
            request.timeout_sec,
            now_unix_ms(),
        );
        self.files = Files::Perhaps;
        let files = {
            let (store, journal) = (resources.store.clone(), resources.journal.clone());
            let (record, template) = (record.clone(), Arc::clone(&template));
            blocking("prepare the sandbox's files", move || {
                journal.write(&record).map_err(Error::internal("write the journal"))?;
                store.create_sandbox(record.id, &template).map_err(Error::from)
            })
            .await?
        };

        let machine_spec = MachineSpec {
            vcpus: record.vcpus,
            memory_mb: record.memory_mb,
            disk: files.disk.clone(),
            work_dir: files.dir.clone(),
            netns: slot.netns.clone(),
            tap: slot.tap.clone(),
        };
        let snapshot = SnapshotFiles {
            state: template.path(TemplateFile::State),
            memory: template.path(TemplateFile::Memory),
        };
        let machine = resources
            .vmm
            .restore(&machine_spec, &snapshot)
            .await
            .map_err(Error::internal("restore the template"))?;
        let process = machine.process();
        self.machine = Some(machine);

        let guest = GuestClient::new(slot.host_ip, request.access_token.clone());
        let identity = Identity {
            access_token: &request.access_token,
            hostname: &request.hostname,
            env: request.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        };
        // The guest runs since the restore returned: its answer is the sign that it is ready, and nothing is polled.
        let init = guest.init(&identity, template.manifest.spec.guest_token.as_deref());
        tokio::time::timeout(resources.deadlines.guest_init, init)
            .await
            .map_err(|_| Error::Timeout("the guest did not take its identity in time".into()))??;

        let record = record.advance(Phase::Running { process });
        write_record(resources, record.clone()).await?;
        Ok((record, guest))
    }
}

/// Writes a record, durably.
pub(crate) async fn write_record(resources: &Resources, record: Record) -> Result<(), Error> {
    let journal = resources.journal.clone();
    blocking("write the journal", move || {
        journal.write(&record).map_err(Error::internal("write the journal"))
    })
    .await
}

/// Removes a record, durably.
pub(crate) async fn remove_record(resources: &Resources, id: Id<Sandbox>) -> Result<(), Error> {
    let journal = resources.journal.clone();
    blocking("write the journal", move || journal.remove(id).map_err(Error::internal("write the journal")))
        .await
}
