//! Resuming a paused sandbox on another host, of its pause in object storage.
//!
//! ```text
//!   1 choose   a host that can take it gets the files (`crate::transfer`); nothing is changed yet
//!   2 begin    one transaction: paused -> resuming on that host, if it is still in that pause     the old host's copy is old from now on
//!   3 start    the new host restores it: the same id, token, memory and disk; without memory it boots
//!   4 run      row: resuming -> running; the kept pause is nobody's from now on                   undo of 3: destroy; paused, on no host
//! ```
//!
//! Exactly one host has a sandbox: the one that its row names. What another says of it is not asked for, and is destroyed when that host
//! is looked at (`reconcile`). A resume that was on its way to it does nothing any more: a row whose resume did not come to an end is paused
//! again only once its host refuses that one (`reconcile::settle`). A row leaves a host only where it is paused, which no host changes by itself, or where the host that was to restore
//! it says that it has nothing.

use std::time::Duration;

use sandbar_proto::host::CreateSandboxRequest;
use sandbar_store::StoreError;
use sandbar_store::audit::Outcome;
use sandbar_store::hosts::{Files, Purpose, Room};
use sandbar_store::sandboxes::{KeptPause, RunningOn, SandboxRow};
use sandbar_types::id::{self, Host};
use sandbar_types::{Id, PauseMode, PerResource, SandboxStatus};
use secrecy::ExposeSecret as _;

use super::change::Begun;
use super::create::{PLACEMENT_TRIES, may_go_elsewhere};
use super::error::CallSite;
use super::resume::RESUME;
use super::{NoHostReason, Resume, Sandbox, SandboxError};
use crate::host_client::{HostClient, HostError, network_word, on_timeout_word, timeout_from_word};
use crate::operation::Operation;
use crate::scheduler::{self, Choice, Need};
use crate::transfer::{Awaited, FetchFault};
use crate::{Control, OpContext, reported};

/// Where a paused sandbox goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// On its host.
    Own,
    /// On another: its own is away, or it has none.
    Elsewhere(KeptPause),
    /// On another if there is one, since its own is to be empty.
    Leaving(KeptPause),
}

impl Control {
    /// Where a paused sandbox goes on. What is not in object storage has no choice.
    pub(super) async fn home_of(&self, sandbox: &Sandbox) -> Result<Home, SandboxError> {
        if !sandbox.durable || self.bucket().is_none() {
            return Ok(Home::Own);
        }
        let Some(kept) = self.store().kept_pause(sandbox.id).await? else { return Ok(Home::Own) };
        let Some(host) = sandbox.host_id else { return Ok(Home::Elsewhere(kept)) };
        let row = self.store().host_find(host).await?;
        let Some(row) = row.filter(|row| matches!(row.status.as_str(), "online" | "draining")) else {
            return Ok(Home::Elsewhere(kept));
        };
        Ok(match (self.answers_now(host).await?, row.status.as_str()) {
            (false, _) => Home::Elsewhere(kept),
            (true, "draining") => Home::Leaving(kept),
            (true, _) => Home::Own,
        })
    }

    /// Whether a host answers at this moment, whatever was heard of it: a resume that is on its way to it could not be taken back.
    async fn answers_now(&self, host: Id<Host>) -> Result<bool, StoreError> {
        let row = self.store().host_find(host).await?;
        Ok(match row.and_then(|row| row.address) {
            Some(address) if self.host_clients().answers(host) => {
                let client = self.host_clients().get(host, &address);
                client.health(self.config().probe_deadline).await.is_ok()
            }
            _ => false,
        })
    }

    /// See the module.
    pub(super) async fn resume_elsewhere(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        resume: Resume,
        kept: KeptPause,
    ) -> Result<Sandbox, SandboxError> {
        let mut tried: Vec<Id<Host>> = sandbox.host_id.into_iter().collect();
        let most = tried.len() + PLACEMENT_TRIES;
        let mut failed = None;
        loop {
            let begun = match (self.begin_elsewhere(ctx, sandbox, kept, &tried).await, failed) {
                (Ok(begun), _) => begun,
                // There was no other host: what the first said counts.
                (Err(SandboxError::NoHosts { .. }), Some(first)) => return Err(first),
                (Err(error), _) => return Err(error),
            };
            let client = self.client_of(&begun.row)?;
            // It may have been there before: what is left of that is old. If that cannot be asked for, nothing was. Together with the restore
            // this ends before the reconciler takes the row over.
            let cleared = client.destroy_sandbox(begun.row.id, self.config().call_deadline).await;
            let is_asked = cleared.is_ok();
            let restored = match cleared {
                Ok(_) => self.restore(&client, &begun.row, kept, resume).await,
                Err(error) => Err(error),
            };
            let error = match restored {
                Ok(on) => {
                    return match self.mark_resumed(&begun, &on).await? {
                        Some(row) => {
                            tracing::info!(id = %row.id, host = %client.id(), "a sandbox goes on on another host");
                            // What it was kept as is to be deleted.
                            self.copies_wanted().notify_one();
                            Ok(row.try_into()?)
                        }
                        None => self.change_overtaken(ctx, sandbox.id, SandboxStatus::Running).await,
                    };
                }
                Err(error) => error,
            };
            let limit = self.restore_deadline(&begun.row);
            let is_back = if is_asked {
                self.take_back(&client, &begun).await?
            } else {
                self.give_back(sandbox.id, begun.row.generation).await?.is_some()
            };
            if !is_back {
                return self
                    .change_failed(ctx, &begun.row, SandboxStatus::Running, ("the resume", limit), error)
                    .await;
            }
            let again = may_go_elsewhere(&error) && tried.len() + 1 < most;
            let at = CallSite { sandbox: sandbox.id, host: begun.row.host_id, what: "the resume", limit };
            let error = self.host_failed(at, error);
            if !again {
                return Err(error);
            }
            tracing::info!(id = %sandbox.id, host = %client.id(), error = &error as &dyn std::error::Error,
                "a host did not restore a sandbox; another may");
            tried.push(client.id());
            failed = Some(error);
        }
    }

    /// Steps 1 and 2.
    async fn begin_elsewhere(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        kept: KeptPause,
        tried: &[Id<Host>],
    ) -> Result<Begun, SandboxError> {
        let need = Need { demand: sandbox.demand(), arch: kept.arch, vmm: kept.vmm };
        let scheduling = self.config().scheduling;
        let (limits, turn) = (self.config().limits(), self.next_turn());
        let mut sample = scheduling.sample();
        let placed = loop {
            let mut candidates = self.store().host_candidates(sandbox.team_id, kept.template, sample).await?;
            candidates
                .retain(|host| !tried.contains(&host.host_id) && self.host_clients().answers(host.host_id));
            let placed = scheduler::place(scheduling.policy(), &candidates, &need, limits, turn);
            // None of some: then of all.
            if placed.is_ok() || sample.take().is_none() {
                break placed;
            }
        };
        let (choices, mut reason) = match placed {
            Ok(choices) => (choices, NoHostReason::NoneOnline),
            Err(obstacle) => (Vec::new(), obstacle.into()),
        };
        let with = |files| choices.iter().filter(move |choice| choice.files == files).take(PLACEMENT_TRIES);
        for &Choice { host, files } in with(Files::Here).chain(with(Files::Elsewhere)) {
            if files == Files::Elsewhere {
                match self.fetch_template(kept.template, host, self.config().fetch_wait).await {
                    Awaited::Ready => {}
                    Awaited::Late => return Err(SandboxError::TemplateOnItsWay),
                    // Somebody resumed it, or ended it.
                    Awaited::Failed(FetchFault::Gone)
                        if self.store().kept_pause(sandbox.id).await? != Some(kept) =>
                    {
                        return Err(self.change_refused(ctx, sandbox.id, RESUME).await);
                    }
                    Awaited::Failed(fault) => {
                        reason = fault.into();
                        continue;
                    }
                }
            }
            if !self.answers_now(host).await? {
                reason = NoHostReason::NoneOnline;
                continue;
            }
            match self.move_to(ctx, sandbox, kept, host).await? {
                Ok(begun) => return Ok(begun),
                Err(full) => reason = full,
            }
        }
        Err(SandboxError::NoHosts { reason })
    }

    async fn move_to(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        kept: KeptPause,
        host: Id<Host>,
    ) -> Result<Result<Begun, NoHostReason>, SandboxError> {
        let operation = Operation::begun(ctx, RESUME.action);
        let mut tx = self.store().begin().await?;
        let mut headroom = self.headroom(&mut tx, sandbox.team_id).await?;
        match tx.host_room(host, sandbox.demand(), self.config().limits(), Purpose::New).await? {
            Room::Enough => {}
            Room::Full => return Ok(Err(NoHostReason::Full)),
            Room::Gone | Room::Draining => return Ok(Err(NoHostReason::NoneOnline)),
        }
        let moved = tx.sandbox_move(sandbox.id, kept.template, host, &operation.to_value()).await?;
        let Some(row) = moved else {
            drop(tx);
            return Err(self.change_refused(ctx, sandbox.id, RESUME).await);
        };
        headroom.take(&PerResource::of_sandbox(row.vcpus, row.memory_mb))?;
        tx.commit().await?;
        Ok(Ok(Begun { row, operation }))
    }

    /// Step 3.
    async fn restore(
        &self,
        client: &HostClient,
        row: &SandboxRow,
        kept: KeptPause,
        resume: Resume,
    ) -> Result<RunningOn, HostError> {
        let call = CreateSandboxRequest {
            id: row.id.to_string(),
            template_id: kept.template.to_string(),
            access_token: self.guest_key().token(row.id).expose_secret().to_owned(),
            keep_environment: true,
            row_generation: row.generation.unsigned_abs(),
            timeout_sec: resume.timeout_sec.unwrap_or(row.timeout_sec),
            hostname: row.id.to_string(),
            on_timeout: on_timeout_word(Some(resume.on_timeout.unwrap_or(row.on_timeout))).into(),
            timeout_from: timeout_from_word(Some(resume.timeout_from.unwrap_or(row.timeout_from))).into(),
            network: network_word(&row.network).into(),
            ..Default::default()
        };
        let answer = client.create_sandbox(call, self.restore_deadline(row)).await?;
        Ok(reported::running_on(&answer))
    }

    /// What has no memory boots. Shorter by what was asked for before it, see above.
    fn restore_deadline(&self, row: &SandboxRow) -> Duration {
        match row.pause_mode {
            Some(PauseMode::Filesystem) => {
                self.config().boot_deadline.saturating_sub(self.config().call_deadline)
            }
            Some(PauseMode::Full) | None => self.config().create_deadline,
        }
    }

    /// Undoes step 3 and step 2. Not where the host does not say that it has nothing: then its inventory decides.
    async fn take_back(&self, client: &HostClient, begun: &Begun) -> Result<bool, SandboxError> {
        let id = begun.row.id;
        if let Err(error) = client.destroy_sandbox(id, self.config().call_deadline).await {
            tracing::warn!(%id, host = %client.id(), error = &error as &dyn std::error::Error,
                "whether a host has something of a sandbox that it did not restore is not known yet");
            return Ok(false);
        }
        Ok(self.give_back(id, begun.row.generation).await?.is_some())
    }

    /// A sandbox that was to be restored on a host is paused as before, on none, and whoever began it is told. The host has nothing of it.
    pub(crate) async fn give_back(
        &self,
        id: Id<id::Sandbox>,
        generation: i64,
    ) -> Result<Option<SandboxRow>, StoreError> {
        let mut tx = self.store().begin().await?;
        let begun = tx.sandbox_operation(id, generation).await?;
        let Some(row) = tx.sandbox_move_back(id, generation).await? else { return Ok(None) };
        if let Some(operation) = Operation::read(begun.as_ref()) {
            tx.audit(&operation.sandbox_event(&row, Outcome::Error)).await?;
        }
        tx.commit().await?;
        tracing::info!(%id, "a sandbox that was not restored is paused, on no host");
        Ok(Some(row))
    }
}
