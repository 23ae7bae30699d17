//! What a sandbox holds of its host, taking it step by step, and giving it back.
//!
//! [`Holdings`] knows what has been taken so far, so giving back is one operation, the same after a start that failed half way,
//! after a machine that ended by itself and at the end of a sandbox; it can be repeated until it succeeds. A `kill -9` between two
//! steps is no different: the next agent gives back what a record names, and what has none.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use sandbar_hostnet::{Egress, NetError, Slot};
use sandbar_storage::{ImageDraft, MachineImage, Paused, SandboxFiles, TemplateSpec};
use sandbar_types::id::{Id, Sandbox};
use sandbar_vmm::{Machine, MachineSpec, ProcessIdentity, SnapshotFiles, process};

use super::activity::now_unix_ms;
use super::{Awakening, CreateRequest};
use crate::boot;
use crate::error::{Error, chain};
use crate::guest::{Defaults, GuestClient, Identity};
use crate::journal::{Birth, Phase, Record};
use crate::resources::{Resources, blocking};
use crate::surroundings::Surroundings;
use crate::volumes::Links;

/// What a new sandbox's machine begins as.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) start: Start,
    /// The machine.
    pub(crate) spec: TemplateSpec,
    pub(crate) of: Source,
}

/// How a machine begins.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    /// It goes on where the one of this image was.
    Restore(MachineImage),
    /// It boots on a clone of this disk.
    Boot(PathBuf),
}

impl Start {
    /// How a paused sandbox's machine begins.
    fn of(paused: &Paused, awakening: Awakening) -> Self {
        match (paused.image(), awakening) {
            (Some(image), Awakening::AsKept) => Self::Restore(image),
            (None, _) | (_, Awakening::Reboot) => Self::Boot(paused.disk()),
        }
    }
}

/// Whose files an image is.
#[derive(Debug)]
pub(crate) enum Source {
    /// A template's, as it was made at that time.
    Template { made: DateTime<Utc> },
    /// A sandbox's, copied for its children alone. They go with this.
    Copy { _files: ImageDraft },
}

/// A machine whose guest runs, and does not know yet whose it is.
pub(super) struct Stranger {
    pub(super) slot: Slot,
    pub(super) process: ProcessIdentity,
    /// What its guest takes until it is told otherwise; none where it has just booted, and takes whatever it is told first.
    pub(super) token: Option<String>,
}

/// What one sandbox has taken.
pub(crate) struct Holdings {
    id: Id<Sandbox>,
    pub(super) machine: Option<Box<dyn Machine>>,
    /// A machine that could neither be taken over nor ended. All the rest is held until it is.
    pub(super) stray: Option<ProcessIdentity>,
    pub(super) slot: Option<Slot>,
    /// The slot's way out, once it is another than a fresh slot's.
    pub(super) egress: Option<Egress>,
    pub(super) files: Files,
    /// Connections into the guest that its volumes are mounted over.
    pub(super) links: Links,
}

/// Whether a sandbox may have files.
pub(super) enum Files {
    None,
    Perhaps,
}

impl Holdings {
    /// A sandbox that has nothing yet.
    pub(crate) fn none(id: Id<Sandbox>) -> Self {
        Self {
            id,
            machine: None,
            stray: None,
            slot: None,
            egress: None,
            files: Files::None,
            links: Links::default(),
        }
    }

    /// A sandbox that was found in the journal, with what its record names.
    pub(crate) fn found(id: Id<Sandbox>, machine: Option<Box<dyn Machine>>, slot: Option<Slot>) -> Self {
        Self { id, machine, stray: None, slot, egress: None, files: Files::Perhaps, links: Links::default() }
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
        self.end_machine().await?;
        if matches!(self.files, Files::Perhaps) {
            let (store, id) = (resources.store.clone(), self.id);
            blocking("remove the sandbox's files", move || store.remove_sandbox(id).map_err(Error::from))
                .await?;
            self.files = Files::None;
        }
        self.release_slot(resources).await
    }

    /// Gives back all that a paused sandbox does without: its files stay, but for those that its machine ran on.
    pub(crate) async fn rest(&mut self, resources: &Resources) -> Result<(), Error> {
        self.end_machine().await?;
        let (store, id) = (resources.store.clone(), self.id);
        blocking("remove the machine's files", move || store.rest_sandbox(id).map_err(Error::from)).await?;
        self.release_slot(resources).await
    }

    /// The machine first, then what it was connected to: nobody writes to its volumes then.
    pub(super) async fn end_machine(&mut self) -> Result<(), Error> {
        if let Some(machine) = &self.machine {
            machine.kill().await.map_err(Error::internal("end the machine"))?;
            self.machine = None;
        }
        if let Some(stray) = self.stray {
            process::kill(stray).await.map_err(Error::internal("end the machine"))?;
            self.stray = None;
        }
        self.links.close().await;
        Ok(())
    }

    async fn release_slot(&mut self, resources: &Resources) -> Result<(), Error> {
        if let Some(slot) = &self.slot {
            self.egress = None;
            match resources.pool.release(slot.index).await {
                // Not in use: an earlier try took it out of use and could not remove all of it. Nobody gets it any more, and the next
                // agent removes what is left.
                Ok(()) | Err(NetError::NotInUse(_)) => self.slot = None,
                Err(error) => return Err(Error::internal("give the network slot back")(error)),
            }
        }
        Ok(())
    }

    async fn take_slot(&mut self, resources: &Resources) -> Result<Slot, Error> {
        let slot = resources.pool.take().await.map_err(|e| Error::NoCapacity(e.to_string()))?;
        self.slot = Some(slot.clone());
        Ok(slot)
    }

    /// Makes a sandbox: of a spare, if there is one, else cold. On failure the caller gives back.
    pub(crate) async fn take(
        &mut self,
        resources: &Resources,
        request: &CreateRequest,
        origin: &Origin,
    ) -> Result<(Record, ProcessIdentity, GuestClient), Error> {
        // One that keeps its environment is the only one of its memory: no spare is made of that, and none is asked for.
        let spare = request.env.as_ref().and_then(|_| origin.spare(resources, request.template_id));
        if let Some(spare) = spare {
            let taken = match self.claim(resources, request, spare).await {
                Ok(stranger) => introduce(resources, request, origin, stranger).await,
                Err(error) => Err(error),
            };
            match taken {
                Ok(taken) => return Ok(taken),
                Err(error) => {
                    tracing::warn!(sandbox = %self.id, error = chain(&error), "a spare machine was of no use; starting cold");
                    self.give_back(resources).await?;
                }
            }
        }
        let stranger = self.start_cold(resources, request, origin).await?;
        introduce(resources, request, origin, stranger).await
    }

    /// Slot, disk, machine. Nothing of it is recorded: an agent that finds it without a record gives it back.
    async fn start_cold(
        &mut self,
        resources: &Resources,
        request: &CreateRequest,
        origin: &Origin,
    ) -> Result<Stranger, Error> {
        let slot = self.take_slot(resources).await?;
        self.files = Files::Perhaps;
        let files = {
            let (store, id, start) = (resources.store.clone(), request.id, origin.start.clone());
            let prepare = move || {
                Ok(match start {
                    Start::Restore(image) => store.create_sandbox(id, &image)?,
                    Start::Boot(disk) => store.create_sandbox_to_boot(id, &disk)?,
                })
            };
            blocking("prepare the sandbox's files", prepare).await?
        };
        self.restrict_fresh(resources, &request.network).await?;
        let process = self.start(resources, &origin.spec, &slot, &files, &origin.start).await?;
        Ok(Stranger { slot, process, token: origin.spec.guest_token.clone() })
    }

    /// Makes a paused sandbox's machine from clones of its files, or boots it on one of its disk, in `record`'s next phase. On failure the
    /// caller [rests](Self::rest) it.
    pub(crate) async fn wake(
        &mut self,
        resources: &Resources,
        record: &Record,
        paused: &Paused,
        awakening: Awakening,
    ) -> Result<(Record, ProcessIdentity, GuestClient), Error> {
        let slot = self.take_slot(resources).await?;
        let start = Start::of(paused, awakening);
        let machine = match start {
            Start::Restore(_) => paused.manifest.spec.clone(),
            Start::Boot(_) => resources.booted(&paused.manifest.spec)?,
        };
        let record = record.clone().on_slot(Some(slot.index)).on_machine(machine);
        let files = {
            let (store, journal) = (resources.store.clone(), resources.journal.clone());
            let (record, start) = (record.clone(), start.clone());
            blocking("clone the sandbox's files", move || {
                journal.write(&record).map_err(Error::internal("write the journal"))?;
                Ok(match start {
                    Start::Restore(image) => store.wake_sandbox(record.id, &image)?,
                    Start::Boot(disk) => store.wake_sandbox_to_boot(record.id, &disk)?,
                })
            })
            .await?
        };
        self.restrict_fresh(resources, &record.network).await?;
        let process = self.start(resources, &record.machine, &slot, &files, &start).await?;
        let token = record.access_token.as_str();
        let surroundings = &record.surroundings;
        let (env, defaults, current_token) = match start {
            Start::Restore(_) => (None, Defaults::default(), Some(token)),
            // It remembers nothing.
            Start::Boot(_) => (Some(surroundings.env()), surroundings.defaults(), None),
        };
        let identity = Identity { access_token: token, hostname: &record.hostname, env, defaults };
        let guest = identify(resources, &slot, &identity, current_token).await?;
        let deadline = record.deadline.since(now_unix_ms());
        let record = record.advance(Phase::Running { process }).with_deadline(deadline);
        write_record(resources, record.clone()).await?;
        Ok((record, process, guest))
    }

    async fn start(
        &mut self,
        resources: &Resources,
        spec: &TemplateSpec,
        slot: &Slot,
        files: &SandboxFiles,
        start: &Start,
    ) -> Result<ProcessIdentity, Error> {
        let machine_spec = MachineSpec {
            vcpus: spec.vcpus,
            memory_mb: spec.memory_mb,
            disk: files.disk.clone(),
            work_dir: files.dir.clone(),
            netns: slot.netns.clone(),
            tap: slot.tap.clone(),
            confinement: resources.confinement(slot, self.id.to_string()),
            disk_rate: resources.disk_rate,
        };
        match start {
            Start::Restore(image) => {
                let snapshot = SnapshotFiles { state: image.state.clone(), memory: files.memory.clone() };
                let machine = resources.vmm.restore(&machine_spec, &snapshot).await;
                let machine = machine.map_err(Error::internal("restore the machine"))?;
                Ok(self.machine.insert(machine).process())
            }
            Start::Boot(_) => {
                let memory = files.memory.clone();
                let (machine, guest) = boot::start(resources, &machine_spec, memory, slot).await?;
                let machine = self.machine.insert(machine);
                guest.ready(resources, &**machine).await?;
                Ok(machine.process())
            }
        }
    }
}

/// Makes a machine that runs this sandbox's: its guest is told who it is, and then the journal that it runs.
async fn introduce(
    resources: &Resources,
    request: &CreateRequest,
    origin: &Origin,
    stranger: Stranger,
) -> Result<(Record, ProcessIdentity, GuestClient), Error> {
    let Stranger { slot, process, token } = stranger;
    let surroundings = origin.surroundings(request)?;
    let (env, defaults) = match origin.start {
        // What nobody says is as in its memory.
        Start::Restore(_) => (
            request.env.is_some().then(|| surroundings.env()),
            Defaults { user: request.user.as_deref(), workdir: request.workdir.as_deref() },
        ),
        Start::Boot(_) => (Some(surroundings.env()), surroundings.defaults()),
    };
    let (access_token, hostname) = (request.access_token.as_str(), request.hostname.as_str());
    let identity = Identity { access_token, hostname, env, defaults };
    let guest = identify(resources, &slot, &identity, token.as_deref()).await?;
    let now = now_unix_ms();
    let record = Record::born(Birth {
        id: request.id,
        template_id: request.template_id,
        slot: slot.index,
        // What the guest was told is the record's own to say.
        machine: TemplateSpec { surroundings: None, ..origin.spec.clone() },
        access_token: request.access_token.clone(),
        hostname: request.hostname.clone(),
        surroundings,
        deadline: request.deadline.since(now),
        network: request.network.clone(),
        volumes: request.volumes.clone(),
        row_generation: request.row_generation,
        created_at_unix_ms: now,
        process,
    });
    write_record(resources, record.clone()).await?;
    Ok((record, process, guest))
}

impl Origin {
    /// What the sandbox's guest has been told, once it is introduced.
    fn surroundings(&self, request: &CreateRequest) -> Result<Surroundings, Error> {
        let before = Surroundings::in_memory_of(&self.spec)?;
        let CreateRequest { env, secrets, user, workdir, .. } = request;
        Ok(Surroundings {
            env: env.clone().unwrap_or(before.env),
            secrets: secrets.clone().unwrap_or(before.secrets),
            user: user.clone().or(before.user),
            workdir: workdir.clone().or(before.workdir),
        })
    }
}

/// Tells a guest who it is. A restored one runs since the restore returned, a booted one has said that it serves: its answer is the sign
/// that it is ready, and nothing is polled.
async fn identify(
    resources: &Resources,
    slot: &Slot,
    identity: &Identity<'_>,
    current_token: Option<&str>,
) -> Result<GuestClient, Error> {
    let guest = GuestClient::new(slot.host_ip, identity.access_token.to_owned());
    tokio::time::timeout(resources.deadlines.guest_init, guest.init(identity, current_token))
        .await
        .map_err(|_| Error::Timeout("the guest did not take its identity in time".into()))??;
    Ok(guest)
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
