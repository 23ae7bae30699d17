//! Making a sandbox, in steps that are undone when a later one fails.
//!
//! ```text
//!   1 place   one transaction: row, quota, idempotency key, room on a host   undo: the transaction
//!   2 start   the host clones, restores or boots, waits for the guest                 undo: destroy on the host; row -> error
//!   3 run     row: starting -> running                                       undo: as 2
//! ```
//!
//! One that is to have volumes runs on their host or not at all; the row has them from the first step on (`volumes`).
//! A host that lacks the template's files gets them before the first step (`crate::transfer`), while the caller waits for a time.
//! A host that has no room after all, or cannot be reached, is given up for the next best, with a row of its own.
//!
//! A control plane that dies between the steps leaves a row in `starting`. The reconciler finds it past its deadline and does
//! the undoing. The steps run in a task of their own: a caller that goes away does not cut them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sandbar_proto::host::CreateSandboxRequest;
use sandbar_store::audit::Outcome;
use sandbar_store::hosts::{Demand, Files, Purpose, Room};
use sandbar_store::idempotency;
use sandbar_store::sandboxes::{NewSandboxRow, RunningOn, SandboxRow, Transition};
use sandbar_store::templates::TemplateRow;
use sandbar_types::id::{self, Host, Team};
use sandbar_types::recipe::Defaults;
use sandbar_types::{Id, Ingress, PerResource, SandboxStatus, TemplateKind};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::error::CallSite;
use super::validate::{self, Checked, InvalidSandbox};
use super::volumes::{Use, Volumes};
use super::{IdempotencyKey, NewSandbox, NoHostReason, Sandbox, SandboxError};
use crate::host_client::{HostClient, HostError, Reason, network_word, on_timeout_word, timeout_from_word};
use crate::scheduler::{self, Choice, Need, Obstacle};
use crate::transfer::{Awaited, FetchFault};
use crate::{Control, OpContext, audit, reported};

/// How often a full host is passed over for the next before the caller is told that all are full.
pub(super) const PLACEMENT_TRIES: usize = 3;

/// What the first step came to.
enum Placed {
    /// A row in `starting`.
    New(Box<SandboxRow>),
    /// What an earlier request with the same key made.
    Known(Id<id::Sandbox>),
}

impl Control {
    /// Makes a sandbox and returns it once it runs. With an idempotency key, a repeated request is answered with the sandbox
    /// that the first one made. The work goes on when the caller goes away.
    pub async fn sandbox_create(
        &self,
        ctx: &OpContext,
        new: &NewSandbox,
        key: Option<&IdempotencyKey>,
    ) -> Result<Sandbox, SandboxError> {
        let team = ctx.team()?;
        let checked = validate::new_sandbox(new)?;
        let unknown = || SandboxError::TemplateNotFound { name: checked.template.to_string() };
        let template = match new.tag.as_deref().map(str::parse) {
            None => self.store().template_by_name(team, &checked.template).await?,
            Some(Ok(tag)) => self.store().template_by_tag(team, &checked.template, &tag).await?,
            Some(Err(_)) => None,
        };
        let template = template.ok_or_else(unknown)?;
        if checked.disk_mb.is_some_and(|disk_mb| disk_mb != template.disk_mb) {
            return Err(InvalidSandbox::DiskSize { template_mb: template.disk_mb }.into());
        }
        let secrets = self.secrets_for(team, &new.secrets).await?;
        let volumes = self.volumes_for(team, &new.volumes, &checked.mounts).await?;
        let size = size_of(&template, &checked);
        let request = Request {
            team,
            placed_for: team,
            template,
            checked,
            size,
            metadata: new.metadata.clone(),
            env: new.env.clone(),
            secrets,
            volumes,
            ingress: new.ingress.clone(),
            key: key.map(|key| (key.clone(), request_hash(new))),
        };
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.create_with_volumes(&ctx, &request).await }).await
    }

    /// Makes the sandbox that serves the files of one of the caller's team's volumes.
    pub(crate) async fn file_server_create(
        &self,
        ctx: &OpContext,
        new: &NewSandbox,
    ) -> Result<Sandbox, SandboxError> {
        let team = ctx.team()?;
        let checked = validate::new_sandbox(new)?;
        let template = self.store().template_by_name(Id::PLATFORM, &checked.template).await?;
        let unknown = || SandboxError::TemplateNotFound { name: checked.template.to_string() };
        let template = template.ok_or_else(unknown)?;
        let volumes = self.volumes_for(team, &new.volumes, &checked.mounts).await?;
        let request = Request {
            team,
            placed_for: team,
            size: size_of(&template, &checked),
            template,
            checked,
            metadata: new.metadata.clone(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            volumes: Volumes { use_of: Use::Files, ..volumes },
            ingress: new.ingress.clone(),
            key: None,
        };
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.create_in_steps(&ctx, &request).await }).await
    }

    /// Makes the sandbox in which a team's build runs: the platform's, so that no team sees it, on a host that may run the team's. It has
    /// nothing of the template's environment: steps are given theirs. The work goes on when the caller goes away.
    pub(crate) async fn build_sandbox_create(
        &self,
        ctx: &OpContext,
        placed_for: Id<Team>,
        template: TemplateRow,
        new: &NewSandbox,
    ) -> Result<Sandbox, SandboxError> {
        let checked = validate::new_sandbox(new)?;
        let request = Request {
            team: Id::PLATFORM,
            placed_for,
            size: size_of(&template, &checked),
            template: TemplateRow { defaults: Defaults::default(), ..template },
            checked,
            metadata: new.metadata.clone(),
            env: new.env.clone(),
            secrets: BTreeMap::new(),
            volumes: Volumes::default(),
            ingress: new.ingress.clone(),
            key: None,
        };
        let (control, ctx) = (self.clone(), ctx.clone());
        self.finish(async move { control.create_in_steps(&ctx, &request).await }).await
    }

    pub(super) async fn create_in_steps(
        &self,
        ctx: &OpContext,
        request: &Request,
    ) -> Result<Sandbox, SandboxError> {
        let begun = Instant::now();
        let (mut tried, mut failed) = (Vec::new(), None);
        let (id, client, placed, started) = loop {
            let row = match (self.place_sandbox(ctx, request, &tried).await, failed) {
                (Ok(Placed::New(row)), _) => row,
                (Ok(Placed::Known(id)), _) => return self.sandbox_get(ctx, id).await,
                // There was no other host: what the first said counts.
                (Err(SandboxError::NoHosts { .. } | SandboxError::VolumeHost { .. }), Some(first)) => {
                    return Err(first);
                }
                (Err(error), _) => return Err(error),
            };
            let placed = begun.elapsed();
            let (id, client) = (row.id, self.client_of(&row)?);
            match self.start_machine(&client, &row, request).await {
                Ok(started) => break (id, client, placed, started),
                Err(error) => {
                    let may_go_elsewhere = may_go_elsewhere(&error) && tried.len() + 1 < PLACEMENT_TRIES;
                    self.undo_create(ctx, &client, id, error.agent_message()).await;
                    let error = self.create_failed(&row, self.create_limit(request), error).await;
                    if !may_go_elsewhere {
                        return Err(error);
                    }
                    tracing::info!(%id, host = %client.id(), error = &error as &dyn std::error::Error,
                        "a host did not take a sandbox; another may");
                    tried.push(client.id());
                    failed = Some(error);
                }
            }
        };
        let started_at = begun.elapsed();
        match self.mark_running(ctx, id, &started).await {
            Ok(Some(row)) => {
                // Together these are a create; the platform's own share is the first and the last.
                let in_seconds = |step| metrics::histogram!("sandbar_create_step_seconds", "step" => step);
                in_seconds("place").record(placed);
                in_seconds("host").record(started_at - placed);
                in_seconds("run").record(begun.elapsed() - started_at);
                Ok(row.try_into()?)
            }
            Ok(None) => {
                // Somebody else decided about the row; the machine that was made meanwhile is nobody's.
                self.destroy_leftover(&client, id).await;
                Err(SandboxError::Interrupted { id })
            }
            Err(error) => {
                self.undo_create(ctx, &client, id, "the database failed").await;
                Err(error)
            }
        }
    }

    /// Step 1. Chooses a host and writes the row, in one transaction: a request that no host can take leaves nothing.
    async fn place_sandbox(
        &self,
        ctx: &OpContext,
        request: &Request,
        tried: &[Id<Host>],
    ) -> Result<Placed, SandboxError> {
        let Request { placed_for, template, size, .. } = request;
        let need = Need { demand: *size, arch: template.arch, vmm: template.vmm };
        let scheduling = self.config().scheduling;
        let (limits, turn) = (self.config().limits(), self.next_turn());
        let home = request.volumes.home;
        let mut drains = false;
        let mut sample = if home.is_some() { None } else { scheduling.sample() };
        let placed = loop {
            let mut candidates = self.store().host_candidates(*placed_for, template.id, sample).await?;
            // Nothing new goes to a host that does not answer, though its silence is not yet long enough for the monitor.
            candidates
                .retain(|host| !tried.contains(&host.host_id) && self.host_clients().answers(host.host_id));
            if let Some(home) = home {
                candidates.retain(|host| host.host_id == home);
                drains = candidates.iter().any(|host| host.is_draining);
            }
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
                // Before anything is carried for it.
                if let Some(id) = self.answered_before(request).await? {
                    return Ok(Placed::Known(id));
                }
                match self.fetch_template(template.id, host, self.config().fetch_wait).await {
                    Awaited::Ready => {}
                    Awaited::Late => return Err(SandboxError::TemplateOnItsWay),
                    Awaited::Failed(FetchFault::Gone) => {
                        return Err(SandboxError::TemplateNotFound { name: template.name.to_string() });
                    }
                    Awaited::Failed(fault) => {
                        reason = fault.into();
                        continue;
                    }
                }
            }
            match self.place_on(ctx, request, host).await? {
                Ok(placed) => return Ok(placed),
                Err(full) => reason = full,
            }
        }
        // A repeated request is answered although nothing could be placed now.
        match self.answered_before(request).await? {
            Some(id) => Ok(Placed::Known(id)),
            None => Err(request.volumes.no_host(reason, drains)),
        }
    }

    async fn place_on(
        &self,
        ctx: &OpContext,
        request: &Request,
        host: Id<Host>,
    ) -> Result<Result<Placed, NoHostReason>, SandboxError> {
        let Request {
            team,
            placed_for: _,
            template,
            checked,
            size,
            metadata,
            env: _,
            secrets: _,
            volumes,
            ingress,
            key,
        } = request;
        let id = Id::new();
        let mut tx = self.store().begin().await?;
        // Before the row is made, which would be counted.
        let mut room = self.headroom(&mut tx, *team).await?;
        // This commit need not reach the disk before the host is called: if the database server crashes and forgets the row,
        // the machine is one that no row knows and is destroyed; the caller was told nothing yet. The commit that makes the
        // sandbox `running` waits for the disk, and this one is in the log before it.
        tx.relax_durability().await?;
        tx.sandbox_insert(&NewSandboxRow {
            id,
            team_id: *team,
            template_id: template.id,
            vcpus: size.vcpus,
            memory_mb: size.memory_mb,
            disk_mb: size.disk_mb,
            timeout_sec: checked.timeout_sec,
            on_timeout: checked.on_timeout,
            timeout_from: checked.timeout_from,
            metadata,
            network: &checked.network,
            ingress,
            created_by: &audit::created_by(ctx),
            parent_id: None,
            volumes: &volumes.mounts,
        })
        .await?;
        if let Some((IdempotencyKey(key), hash)) = key
            && let Some(known) = tx.idempotency_take(*team, key, hash, id).await?
        {
            match judge_use(&known, hash)? {
                KeyUse::Answered(id) => return Ok(Ok(Placed::Known(id))),
                KeyUse::Failed => tx.idempotency_retake(*team, key, hash, id).await?,
            }
        }
        // The platform's own are those of its build workers, and no more than those are.
        if *team != Id::PLATFORM {
            room.take(&PerResource::of_sandbox(size.vcpus, size.memory_mb))?;
        }
        match tx.host_room(host, *size, self.config().limits(), Purpose::New).await? {
            Room::Enough => {}
            Room::Full => return Ok(Err(NoHostReason::Full)),
            Room::Gone | Room::Draining => return Ok(Err(NoHostReason::NoneOnline)),
        }
        volumes.claim(&mut tx, *team, id).await?;
        let row = tx.sandbox_place(id, host).await?.ok_or(SandboxError::Interrupted { id })?;
        tx.commit().await?;
        Ok(Ok(Placed::New(Box::new(row))))
    }

    /// The sandbox that an earlier request with the same key made.
    async fn answered_before(&self, request: &Request) -> Result<Option<Id<id::Sandbox>>, SandboxError> {
        let Some((IdempotencyKey(key), hash)) = &request.key else { return Ok(None) };
        let Some(known) = self.store().idempotency_find(request.team, key).await? else { return Ok(None) };
        Ok(match judge_use(&known, hash)? {
            KeyUse::Answered(id) => Some(id),
            KeyUse::Failed => None,
        })
    }

    /// Step 2. Returns once the guest answers.
    async fn start_machine(
        &self,
        client: &HostClient,
        row: &SandboxRow,
        request: &Request,
    ) -> Result<RunningOn, HostError> {
        let defaults = &request.template.defaults;
        // What the caller says comes before what the template's recipe said.
        let env: BTreeMap<_, _> = defaults.env.iter().chain(&request.env).collect();
        let call = CreateSandboxRequest {
            id: row.id.to_string(),
            template_id: row.template_id.to_string(),
            access_token: self.guest_key().token(row.id).expose_secret().to_owned(),
            env: env.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            secrets: request
                .secrets
                .iter()
                .map(|(key, value)| (key.clone(), value.expose_secret().to_owned()))
                .collect(),
            timeout_sec: row.timeout_sec,
            hostname: row.id.to_string(),
            on_timeout: on_timeout_word(Some(row.on_timeout)).into(),
            timeout_from: timeout_from_word(Some(row.timeout_from)).into(),
            network: network_word(&row.network).into(),
            default_user: defaults.user.clone().unwrap_or_default(),
            default_workdir: defaults.workdir.clone().unwrap_or_default(),
            vcpus: row.vcpus,
            memory_mb: row.memory_mb,
            volumes: request.volumes.to_proto(),
            ..Default::default()
        };
        let answer = client.create_sandbox(call, self.create_limit(request)).await?;
        Ok(reported::running_on(&answer))
    }

    /// How long the host may take.
    fn create_limit(&self, request: &Request) -> Duration {
        match request.template.kind {
            TemplateKind::Snapshot => self.config().create_deadline,
            TemplateKind::Base => self.config().boot_deadline,
        }
    }

    /// Step 3. None when the row is no longer ours to run: it was stopped meanwhile, or given up.
    pub(super) async fn mark_running(
        &self,
        ctx: &OpContext,
        id: Id<id::Sandbox>,
        on: &RunningOn,
    ) -> Result<Option<SandboxRow>, SandboxError> {
        let transition = Transition::new(id, SandboxStatus::Running)
            .only_from(&[SandboxStatus::Starting, SandboxStatus::Missing]);
        let mut tx = self.store().begin().await?;
        let Some(row) = tx.sandbox_run(&transition, on).await? else { return Ok(None) };
        tx.audit(&audit::sandbox(ctx, &row, "create", Outcome::Success)).await?;
        tx.commit().await?;
        Ok(Some(row))
    }

    /// Takes back steps 1 and 2. What cannot be taken back now, the reconciler takes back later: the row of an ended sandbox tells
    /// it to destroy the machine, and a row that stays in `starting` is past its deadline soon.
    pub(super) async fn undo_create(
        &self,
        ctx: &OpContext,
        client: &HostClient,
        id: Id<id::Sandbox>,
        why: &str,
    ) {
        self.destroy_leftover(client, id).await;
        let transition = Transition::new(id, SandboxStatus::Error)
            .only_from(&[SandboxStatus::Starting, SandboxStatus::Missing])
            .because(why);
        let undone = async {
            let mut tx = self.store().begin().await?;
            if let Some(row) = tx.sandbox_transition(&transition).await? {
                tx.audit(&audit::sandbox(ctx, &row, "create", Outcome::Error)).await?;
            }
            tx.commit().await
        };
        if let Err(error) = undone.await {
            tracing::error!(%id, error = &error as &dyn std::error::Error, "cannot write down that a create failed");
        }
    }

    /// Destroys a machine that no row wants. A host that does not answer is asked again by the reconciler.
    pub(super) async fn destroy_leftover(&self, client: &HostClient, id: Id<id::Sandbox>) {
        if let Err(error) = client.destroy_sandbox(id, self.config().call_deadline).await {
            tracing::warn!(%id, host = %client.id(), error = &error as &dyn std::error::Error,
                "cannot destroy what is left of a create; the reconciler will");
            self.wants_reconcile(client.id());
        }
    }

    /// What the caller is told when the host failed to make the sandbox.
    async fn create_failed(&self, row: &SandboxRow, limit: Duration, error: HostError) -> SandboxError {
        match error.reason() {
            Some(Reason::REASON_NO_CAPACITY) => SandboxError::NoHosts { reason: NoHostReason::Full },
            Some(Reason::REASON_TEMPLATE_NOT_FOUND) => {
                // The host knows best what it has. Without its row the next create goes elsewhere.
                if let Some(host) = row.host_id
                    && let Err(error) = self.store().template_location_forget(row.template_id, host).await
                {
                    tracing::error!(%host, error = &error as &dyn std::error::Error,
                        "cannot write down that a host lacks a template");
                }
                SandboxError::NoHosts { reason: NoHostReason::NoTemplateFiles }
            }
            _ => self.host_failed(
                CallSite { sandbox: row.id, host: row.host_id, what: "making the sandbox", limit },
                error,
            ),
        }
    }
}

/// A request that was checked, with all that the steps need.
pub(super) struct Request {
    /// Whose it is.
    team: Id<Team>,
    /// Whose hosts and files it may use.
    placed_for: Id<Team>,
    template: TemplateRow,
    checked: Checked,
    size: Demand,
    metadata: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    /// By the variable that each is the value of. In no row: the host keeps them.
    secrets: BTreeMap<String, SecretString>,
    volumes: Volumes,
    ingress: Ingress,
    key: Option<(IdempotencyKey, [u8; 32])>,
}

/// What a key that was used before means for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyUse {
    /// The first request made this sandbox.
    Answered(Id<id::Sandbox>),
    /// The first request failed: this one may try.
    Failed,
}

pub(super) fn judge_use(known: &idempotency::Use, request_hash: &[u8; 32]) -> Result<KeyUse, SandboxError> {
    if known.request_hash != request_hash {
        return Err(SandboxError::KeyReused);
    }
    if known.started {
        return Ok(KeyUse::Answered(known.sandbox_id));
    }
    // It never ran: it is being made, or it failed. A first attempt whose control plane died stays in `starting` until the
    // reconciler ends it, so no key blocks for longer than that.
    if known.sandbox_status.is_end() { Ok(KeyUse::Failed) } else { Err(SandboxError::KeyInProgress) }
}

/// Whether another host may succeed: this one has no room or not the files, or it did not even hear of it. Where it was asked and did not
/// answer in time, the caller has waited long enough.
pub(super) fn may_go_elsewhere(error: &HostError) -> bool {
    let elsewhere =
        [Reason::REASON_NO_CAPACITY, Reason::REASON_TEMPLATE_NOT_FOUND, Reason::REASON_INCOMPATIBLE];
    matches!(error, HostError::Unreachable(_))
        || error.reason().is_some_and(|reason| elsewhere.contains(&reason))
}

/// How large the sandbox is. A machine that goes on keeps the size that it had; one that boots has the one that is asked for.
fn size_of(template: &TemplateRow, checked: &Checked) -> Demand {
    let &TemplateRow { vcpus, memory_mb, disk_mb, .. } = template;
    match template.kind {
        TemplateKind::Snapshot => Demand { memory_mb, vcpus, disk_mb },
        TemplateKind::Base => Demand {
            memory_mb: checked.memory_mb.unwrap_or(memory_mb),
            vcpus: checked.vcpus.unwrap_or(vcpus),
            disk_mb,
        },
    }
}

impl From<Option<Obstacle>> for NoHostReason {
    fn from(obstacle: Option<Obstacle>) -> Self {
        match obstacle {
            None | Some(Obstacle::NotForThis) => Self::NoneOnline,
            Some(Obstacle::OtherMachine) => Self::OtherMachine,
            Some(Obstacle::NoFiles) => Self::NoTemplateFiles,
            Some(Obstacle::Full) => Self::Full,
        }
    }
}

impl From<FetchFault> for NoHostReason {
    fn from(fault: FetchFault) -> Self {
        match fault {
            FetchFault::NoSource | FetchFault::Gone | FetchFault::Failed => Self::NoTemplateFiles,
            FetchFault::NoRoom => Self::Full,
            FetchFault::Incompatible => Self::OtherMachine,
            FetchFault::Unreachable => Self::NoneOnline,
        }
    }
}

/// What tells two requests apart. Maps are sorted, so the order of a client's keys does not matter.
fn request_hash(new: &NewSandbox) -> [u8; 32] {
    let text = serde_json::to_vec(new).expect("maps of strings and numbers can be written as JSON");
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(status: SandboxStatus, started: bool) -> idempotency::Use {
        idempotency::Use { request_hash: vec![7; 32], sandbox_id: Id::new(), sandbox_status: status, started }
    }

    #[test]
    fn a_key_answers_blocks_or_frees_by_what_became_of_its_sandbox() {
        for status in SandboxStatus::ALL {
            let ran = used(status, true);
            assert_eq!(judge_use(&ran, &[7; 32]).unwrap(), KeyUse::Answered(ran.sandbox_id), "{status}");
            let never_ran = judge_use(&used(status, false), &[7; 32]);
            if status.is_end() {
                assert_eq!(never_ran.unwrap(), KeyUse::Failed, "{status}");
            } else {
                assert!(matches!(never_ran, Err(SandboxError::KeyInProgress)), "{status}");
            }
            assert!(matches!(judge_use(&used(status, true), &[8; 32]), Err(SandboxError::KeyReused)));
        }
    }

    #[test]
    fn the_hash_tells_requests_apart() {
        let base = NewSandbox::default();
        let mut other = NewSandbox::default();
        other.env.insert("A".to_owned(), "1".to_owned());
        assert_eq!(request_hash(&base), request_hash(&NewSandbox::default()));
        assert_ne!(request_hash(&base), request_hash(&other));
        assert_ne!(request_hash(&base), request_hash(&NewSandbox { timeout_sec: Some(0), ..base.clone() }));
    }
}
