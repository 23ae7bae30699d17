//! What a sandbox's task does between its start and its end: pause, resume, copies, deadlines.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbar_storage::{ImageDraft, MachineImage, Paused, TemplateSpec};
use sandbar_types::PauseMode;

use super::activity::now_unix_ms;
use super::actor::Actor;
use super::admission::{Request, Verdict, admit};
use super::settling::{Settled, Settling};
use super::standstill::{copy, copy_disk, go_on, lay_out, stand_still};
use super::{
    Awakening, Captured, DeadlineChange, Door, Draft, Order, PauseView, Resume, Running, State, Target,
};
use crate::error::{Error, chain};
use crate::journal::{PauseReason, Phase, Record};
use crate::logs::HostEvent;
use crate::resources::blocking;
use crate::surroundings::CopyOf;

impl Order {
    /// Answers with a failure.
    pub(super) fn refuse(self, error: Error) {
        // A caller that has given up needs no answer.
        match self {
            Self::Destroy(reply)
            | Self::Pause(_, _, reply)
            | Self::Resume(_, reply)
            | Self::RefuseResumes(_, reply)
            | Self::SetDeadline(_, reply)
            | Self::SetNetwork(_, reply) => {
                let _gone = reply.send(Err(error));
            }
            Self::NetworkDenials(reply) => {
                let _gone = reply.send(Err(error));
            }
            Self::Capture(_, reply) => {
                let _gone = reply.send(Err(error));
            }
        }
    }
}

impl Actor {
    /// Carries out an order that leaves the sandbox there.
    pub(super) async fn carry_out(&mut self, order: Order) {
        // A caller that has given up needs no answer.
        match order {
            Order::Pause(reason, mode, reply) => {
                let was = self.state();
                let paused = self.pause(reason, mode).await;
                if was != State::Paused {
                    self.note_pause(reason, &paused).await;
                }
                let _gone = reply.send(paused);
            }
            Order::Resume(resume, reply) => {
                let was = self.state();
                let resumed = self.resume(resume).await;
                match &resumed {
                    _ if was != State::Paused => {}
                    // Nothing happened to the sandbox.
                    Err(Error::Outdated(_)) => {}
                    Ok(()) => self.log.note(HostEvent::Resumed).await,
                    Err(error) => self.log.note(HostEvent::ResumeFailed(why(error))).await,
                }
                let _gone = reply.send(resumed);
            }
            Order::RefuseResumes(row_generation, reply) => {
                let _gone = reply.send(self.refuse_resumes(row_generation).await);
            }
            Order::Capture(target, reply) => {
                let captured = self.capture(target).await;
                let event = match &captured {
                    Ok(captured) => HostEvent::Copied(target, captured.stall),
                    Err(error) => HostEvent::CopyFailed(target, why(error)),
                };
                self.log.note(event).await;
                let _gone = reply.send(captured);
            }
            Order::SetDeadline(change, reply) => {
                let _gone = reply.send(self.set_deadline(change).await);
            }
            Order::SetNetwork(policy, reply) => {
                let _gone = reply.send(self.set_network(policy).await);
            }
            Order::NetworkDenials(reply) => {
                let _gone = reply.send(self.network_denials().await);
            }
            Order::Destroy(reply) => {
                let _gone = reply.send(Err(Error::Busy("it is asked for twice".into())));
            }
        }
    }

    /// Whether a request is to be carried out (`true`) or has been already.
    pub(super) fn admitted(&self, request: Request) -> Result<bool, Error> {
        let state = self.state();
        match admit(state, request) {
            Verdict::Proceed => Ok(true),
            Verdict::Join => Ok(false),
            Verdict::Refuse(refusal) => Err(Error::InvalidState { id: self.id, state, refusal }),
        }
    }

    /// Makes the sandbox files. Whatever fails before they are published, it goes on as it was; after that it is paused.
    pub(super) async fn pause(&mut self, reason: PauseReason, mode: PauseMode) -> Result<(), Error> {
        if !self.admitted(Request::Pause)? {
            return Ok(());
        }
        let begun = Instant::now();
        let Running { process, guest, .. } = self.running().ok_or(Error::SandboxNotFound(self.id))?;
        if reason != PauseReason::HostRefused && mode == PauseMode::Full {
            // A machine that outlived an upgrade of its VMM runs on, and could not be resumed here. On a host that is given up, to
            // be resumed elsewhere is all that is left. A disk can be booted everywhere.
            let (_, _, record) = self.machine()?;
            self.resources.check(&record.machine)?;
        }
        // What a former pause left must not pass for this one's files: where it cannot be removed, nothing is begun.
        let (store, id) = (self.resources.store.clone(), self.id);
        blocking("remove the files of a former pause", move || Ok(store.remove_paused(id)?)).await?;
        let draft = self.begin_pause(mode).await?;
        self.record_phase(Phase::Pausing { process, reason, mode }).await?;
        self.show(|view| view.state = State::Pausing);
        self.resources.inventory.changed();
        // Whoever came while all this was measured and written is not cut off: from here on nobody comes in.
        let published = match reason {
            PauseReason::Idle if self.until_expiry().is_none_or(|left| !left.is_zero()) => {
                Err(Error::Busy("it is used again".into()))
            }
            _ => self.publish(draft, mode).await,
        };
        match published {
            Ok(paused) => {
                self.paused(&paused, reason).await;
                self.retry.clear();
                tracing::info!(sandbox = %self.id, took = ?begun.elapsed(), %mode, "paused");
                Ok(())
            }
            Err(error) => {
                // Where it failed after the rename, the files must not outlive what is written from now on.
                self.forget_pause().await;
                if let Some(machine) = &self.holdings.machine {
                    go_on(&**machine, &guest).await;
                }
                self.show(|view| view.state = State::Running);
                if let Err(unwritten) = self.record_phase(Phase::Running { process }).await {
                    // The next agent finds no files of a pause, and takes the machine over all the same.
                    tracing::error!(sandbox = %self.id, error = chain(&unwritten), "that it goes on is not in the journal");
                }
                self.resources.inventory.changed();
                Err(error)
            }
        }
    }

    /// Logs what became of a pause. One that was given up because the sandbox is used again is none.
    pub(super) async fn note_pause(&self, reason: PauseReason, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => self.log.note(HostEvent::Paused(reason)).await,
            Err(Error::Busy(_)) => {}
            Err(error) => self.log.note(HostEvent::PauseFailed(why(error))).await,
        }
    }

    /// Copies the running machine, or its disk alone, into `draft` and puts it in place as the sandbox's pause.
    async fn publish(&self, draft: ImageDraft, mode: PauseMode) -> Result<Paused, Error> {
        let (machine, running, record) = self.machine()?;
        let image = draft.image();
        let files = self.resources.store.sandbox_files(self.id);
        let disk = &files.disk;
        match mode {
            PauseMode::Full => {
                lay_out(machine, &files, &image).await?;
                stand_still(&self.resources, machine, &running.guest).await?;
                let saved = copy(machine, disk, &image).await?;
                tracing::debug!(sandbox = %self.id, bytes = saved.changed_bytes, "memory saved");
            }
            PauseMode::Filesystem => {
                // Flushed, and nothing of it written any more.
                stand_still(&self.resources, machine, &running.guest).await?;
                copy_disk(disk, &image.disk).await?;
            }
        }
        let (id, spec) = (self.id, record.kept_spec(mode, CopyOf::Template));
        let metrics = self.figures.to_json();
        blocking("publish the pause", move || Ok(draft.publish_paused(id, spec, &metrics)?)).await
    }

    /// The files are in place: the sandbox is paused, and gives back what it held.
    async fn paused(&mut self, paused: &Paused, reason: PauseReason) {
        self.show(|view| {
            view.state = State::Paused;
            view.running = None;
            view.host_ip = None;
            view.pause = Some(PauseView {
                at_unix_ms: paused.manifest.paused_at.timestamp_millis(),
                bytes: 0,
                reason,
                mode: paused.mode(),
            });
        });
        if let Some(record) = &self.record {
            let phase = Phase::Paused { reason, mode: paused.mode() };
            let record = record.advance(phase).on_slot(None);
            if let Err(error) = self.write(record.clone()).await {
                // The next agent finds the files in place.
                tracing::error!(sandbox = %self.id, error = chain(&error), "its pause is not in the journal");
                self.keep(record);
            }
        }
        if let Err(error) = self.holdings.rest(&self.resources).await {
            // Still held: the next resume or the destruction tries again.
            tracing::error!(sandbox = %self.id, error = chain(&error), "not all that a paused sandbox held is freed");
        }
        let paused = paused.clone();
        match blocking("measure the pause", move || Ok(paused.own_bytes()?)).await {
            Ok(bytes) => self.settled(Settled::Pause(bytes)).await,
            Err(error) => tracing::warn!(sandbox = %self.id, error = chain(&error), "its size is not known"),
        }
        self.settling = Some(Settling::of_pause(Arc::clone(&self.resources), self.id));
        self.resources.inventory.changed();
    }

    /// Restores the sandbox from its files, or boots it on their disk. They are there until the journal says that it runs.
    async fn resume(&mut self, resume: Resume) -> Result<(), Error> {
        let Resume { deadline: change, awakening, row_generation } = resume;
        let is_begun = self.admitted(Request::Resume)?;
        let known = self.record.as_ref().map_or(0, |record| record.row_generation);
        if resume.is_outdated(known, !is_begun) {
            return Err(Error::Outdated(self.id));
        }
        if !is_begun {
            return if change.is_none() { Ok(()) } else { self.set_deadline(change).await };
        }
        let begun = Instant::now();
        let (store, id) = (self.resources.store.clone(), self.id);
        let paused = blocking("read the pause", move || Ok(store.paused(id)?)).await?;
        let mode = paused.mode();
        if mode == PauseMode::Full && awakening == Awakening::AsKept {
            self.resources.check(&paused.manifest.spec)?;
        }
        let (Some(record), Some(PauseView { reason, .. })) = (self.record.clone(), self.pause_view()) else {
            return Err(Error::SandboxNotFound(self.id));
        };
        self.settling = None;
        self.holdings.rest(&self.resources).await?;
        self.show(|view| view.state = State::Resuming);
        let phase = Phase::Resuming { reason, mode };
        let deadline = change.apply(record.deadline, self.activity.last_unix_ms(), now_unix_ms());
        let asked = row_generation.map_or(0, NonZeroU64::get);
        let resuming = record.advance(phase.clone()).with_deadline(deadline).past_resumes_of(asked);
        let woken = self.holdings.wake(&self.resources, &resuming, &paused, awakening).await;
        let woken = match woken {
            Ok(woken) => {
                let connected = self.holdings.links.open(&self.resources, &record.volumes, &woken.2).await;
                connected.map(|()| woken)
            }
            Err(error) => Err(error),
        };
        match woken {
            Ok((record, process, guest)) => {
                // In use from now on, before anybody can see it run.
                drop(self.activity.begin());
                self.retry.clear();
                self.runs(record, process, guest);
                self.forget_pause().await;
                self.settle_machine();
                self.resources.inventory.changed();
                tracing::info!(sandbox = %self.id, took = ?begun.elapsed(), "resumed");
                Ok(())
            }
            Err(error) => {
                if let Err(left) = self.holdings.rest(&self.resources).await {
                    tracing::error!(sandbox = %self.id, error = chain(&left), "not all that a resume took is freed");
                }
                // One further: that it runs may have been written, if not durably.
                let paused = Phase::Paused { reason, mode };
                let paused = resuming.advance(phase).advance(paused).with_deadline(record.deadline);
                if let Err(unwritten) = self.write(paused.clone()).await {
                    // The next agent finds the files in place, and no machine.
                    tracing::error!(sandbox = %self.id, error = chain(&unwritten), "that it is paused is not in the journal");
                    self.keep(paused);
                }
                self.show(|view| view.state = State::Paused);
                self.resources.inventory.changed();
                self.settling = Some(Settling::of_pause(Arc::clone(&self.resources), self.id));
                Err(error)
            }
        }
    }

    /// A resume that is still on its way does nothing when it comes.
    async fn refuse_resumes(&mut self, row_generation: u64) -> Result<(), Error> {
        match &self.record {
            Some(record) if record.row_generation < row_generation => {
                let record = record.advance(record.phase.clone()).past_resumes_of(row_generation);
                self.write(record).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Copies the sandbox. A running one stands still for as long as copying its memory takes, a paused one stays as it is.
    async fn capture(&mut self, target: Target) -> Result<Captured, Error> {
        self.admitted(Request::Capture)?;
        if self.record.as_ref().is_some_and(|record| !record.volumes.is_empty()) {
            return Err(Error::HasVolumes(self.id));
        }
        let _in_use = self.activity.begin();
        if self.state() == State::Paused {
            return self.capture_paused(target).await;
        }
        if let Target::OwnPause(_) = target {
            return Err(Error::InvalidState { id: self.id, state: self.state(), refusal: "it has no pause" });
        }
        self.show_door(Door::Sealed);
        let captured = self.capture_running(target).await;
        self.show_door(Door::Open);
        captured
    }

    async fn capture_running(&self, target: Target) -> Result<Captured, Error> {
        let (machine, running, record) = self.machine()?;
        let bytes = match target {
            Target::Snapshot(_) | Target::Children | Target::OwnPause(_) => self.cost_of_copy().await?,
            Target::Disk(_) => 0,
        };
        let draft = self.begin_draft(target, bytes).await?;
        let image = draft.image();
        let files = self.resources.store.sandbox_files(self.id);
        let disk = &files.disk;
        if !matches!(target, Target::Disk(_)) {
            lay_out(machine, &files, &image).await?;
        }
        let mut stopped = None;
        let copied = async {
            stopped = Some(stand_still(&self.resources, machine, &running.guest).await?);
            match target {
                Target::Snapshot(_) | Target::Children | Target::OwnPause(_) => {
                    copy(machine, disk, &image).await.map(|_| ())
                }
                Target::Disk(_) => copy_disk(disk, &image.disk).await,
            }
        };
        let copied = copied.await;
        let ran_on = go_on(machine, &running.guest).await;
        let stall = stopped.map_or(Duration::ZERO, |stopped| ran_on.saturating_duration_since(stopped));
        copied?;
        tracing::info!(sandbox = %self.id, ?stall, "copied");
        Ok(Captured { draft, spec: kept(record, target, PauseMode::Full), stall })
    }

    async fn capture_paused(&self, target: Target) -> Result<Captured, Error> {
        let record = self.record.as_ref().ok_or(Error::SandboxNotFound(self.id))?;
        let draft = self.begin_draft(target, 0).await?;
        let (store, id, image) = (self.resources.store.clone(), self.id, draft.image());
        let mode = blocking("copy the pause", move || {
            let paused = store.paused(id)?;
            match target {
                Target::OwnPause(_) if paused.mode() == PauseMode::Filesystem => {
                    paused.copy_disk(&image.disk)?;
                }
                Target::Snapshot(_) | Target::Children if paused.mode() == PauseMode::Filesystem => {
                    let refusal = "its disk alone was kept: keep that, or resume it first";
                    return Err(Error::InvalidState { id, state: State::Paused, refusal });
                }
                Target::Snapshot(_) | Target::Children | Target::OwnPause(_) => paused.copy(&image)?,
                Target::Disk(_) => paused.copy_disk(&image.disk)?,
            }
            Ok(paused.mode())
        })
        .await?;
        Ok(Captured { draft, spec: kept(record, target, mode), stall: Duration::ZERO })
    }

    async fn begin_draft(&self, target: Target, bytes: u64) -> Result<Draft, Error> {
        let store = self.resources.store.clone();
        blocking("make room for a copy", move || {
            Ok(match target {
                Target::Snapshot(id) | Target::Disk(id) | Target::OwnPause(id) => {
                    Draft::Template(store.begin_template(id, bytes)?)
                }
                Target::Children => Draft::Image(store.begin_image(bytes)?),
            })
        })
        .await
    }

    async fn begin_pause(&self, mode: PauseMode) -> Result<ImageDraft, Error> {
        let bytes = match mode {
            PauseMode::Full => self.cost_of_copy().await?,
            PauseMode::Filesystem => {
                let store = &self.resources.store;
                store.cost_of_clones([&*store.sandbox_files(self.id).disk])
            }
        };
        let store = self.resources.store.clone();
        blocking("make room for a pause", move || Ok(store.begin_pause(bytes)?)).await
    }

    /// How much disk a copy of the machine takes: the memory that it changed, and clones where they are no mere references.
    async fn cost_of_copy(&self) -> Result<u64, Error> {
        let (machine, ..) = self.machine()?;
        let changed = machine.changed_memory().await.map_err(Error::internal("measure the memory"))?;
        let disk = self.resources.store.sandbox_files(self.id).disk;
        Ok(changed + self.resources.store.cost_of_clones([machine.memory_image(), &*disk]))
    }

    /// The machine, its guest and its record, of a sandbox that runs.
    fn machine(&self) -> Result<(&dyn sandbar_vmm::Machine, Running, &Record), Error> {
        match (&self.holdings.machine, self.running(), &self.record) {
            (Some(machine), Some(running), Some(record)) => Ok((&**machine, running, record)),
            _ => Err(Error::SandboxNotFound(self.id)),
        }
    }

    /// Changes when the sandbox ends by itself, counted from now.
    async fn set_deadline(&mut self, change: DeadlineChange) -> Result<(), Error> {
        self.admitted(Request::SetDeadline)?;
        let record = self.record.as_ref().ok_or(Error::SandboxNotFound(self.id))?;
        let deadline = change.apply(record.deadline, self.activity.last_unix_ms(), now_unix_ms());
        let changed = deadline != record.deadline;
        let record = record.advance(record.phase.clone()).with_deadline(deadline);
        self.write(record).await?;
        if changed {
            self.log.note(HostEvent::DeadlineSet(deadline.timeout_sec)).await;
        }
        drop(self.activity.begin());
        self.retry.clear();
        self.resources.inventory.changed();
        Ok(())
    }

    /// Begins to mend the memory image of the machine that runs.
    pub(super) fn settle_machine(&mut self) {
        let image = self.holdings.machine.as_ref().map(|machine| machine.memory_image().to_owned());
        self.settling = image.map(|image| Settling::of_machine(Arc::clone(&self.resources), self.id, image));
    }

    /// Takes what came of work on the sandbox's files, which are still those of the same pause, or of the same run.
    pub(super) async fn settled(&mut self, settled: Settled) {
        match settled {
            Settled::Pause(bytes) => self.show(|view| {
                if let Some(pause) = &mut view.pause {
                    pause.bytes = bytes;
                }
            }),
            Settled::Memory(copy) => {
                let id = self.id;
                match blocking("publish a memory image", move || Ok(copy.publish(id)?)).await {
                    Ok(()) => tracing::info!(sandbox = %id, "memory image in many pieces rewritten"),
                    Err(error) => {
                        tracing::warn!(sandbox = %id, error = chain(&error), "memory image not rewritten");
                    }
                }
            }
        }
    }

    fn pause_view(&self) -> Option<PauseView> {
        self.view().pause
    }
}

/// What a copy says of the sandbox; that of a pause, of what the pause kept.
fn kept(record: &Record, target: Target, pause: PauseMode) -> TemplateSpec {
    match target {
        Target::OwnPause(_) => record.kept_spec(pause, CopyOf::Sandbox),
        Target::Children => record.kept_spec(PauseMode::Full, CopyOf::Sandbox),
        Target::Snapshot(_) => record.kept_spec(PauseMode::Full, CopyOf::Template),
        Target::Disk(_) => record.kept_spec(PauseMode::Filesystem, CopyOf::Template),
    }
}

impl Draft {
    fn image(&self) -> MachineImage {
        match self {
            Self::Template(draft) => draft.image(),
            Self::Image(draft) => draft.image(),
        }
    }
}

/// Why something failed, as far as it is the sandbox's owner's to know.
fn why(error: &Error) -> &'static str {
    match error {
        Error::NoCapacity(_) => "its host has no room",
        Error::GuestUnreachable(_) | Error::Timeout(_) => "its guest does not answer",
        _ => "its host failed",
    }
}

impl DeadlineChange {
    fn is_none(self) -> bool {
        self.timeout_sec.is_none() && self.on_timeout.is_none() && self.from.is_none()
    }
}
