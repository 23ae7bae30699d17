//! Forking a running sandbox: children that go on from the same instant, on the same host.
//!
//! ```text
//!   1 place    one transaction: source -> snapshotting; a row `starting`, and its idempotency key, for each child with room
//!   2 fork     the host copies the source and starts the children, each for itself
//!   3 finish   source -> running, with the event; each child -> running, or its making is undone
//! ```
//!
//! The source serves its callers all the while. A control plane that dies leaves children in `starting`, which the reconciler
//! takes back as it does those of a create.

use futures::StreamExt as _;
use sandbar_proto::host::fork_sandbox_request::Child;
use sandbar_proto::host::fork_sandbox_response::child_result::Outcome as ChildOutcome;
use sandbar_proto::host::{ForkSandboxRequest, ForkSandboxResponse};
use sandbar_store::audit::Outcome;
use sandbar_store::hosts::{Purpose, Room};
use sandbar_store::sandboxes::{NewSandboxRow, SandboxRow, Transition};
use sandbar_types::{Id, OnTimeout, PerResource, SandboxStatus, TimeoutFrom, id, limits};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::change::{Change, return_to};
use super::create::{KeyUse, judge_use};
use super::validate::within;
use super::{CallSite, IdempotencyKey, Sandbox, SandboxError};
use crate::host_client::{HostClient, HostError, Reason, on_timeout_word, timeout_from_word};
use crate::operation::{Action, Operation};
use crate::{Control, OpContext, audit, reported};

const FORK: Change = Change {
    action: Action::Fork,
    through: SandboxStatus::Snapshotting,
    from: &[SandboxStatus::Running],
    named: ("forking", "running"),
};

/// Children that are taken back at the same time.
const AT_ONCE: usize = 4;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewFork {
    /// How many children.
    pub count: u32,
    /// Their time-out; none = the source's.
    pub timeout_sec: Option<u32>,
    /// What happens then; none = as the source.
    pub on_timeout: Option<OnTimeout>,
    /// From when these seconds count; none = as the source's.
    pub timeout_from: Option<TimeoutFrom>,
}

/// What is to be done for one child.
enum Wanted {
    /// Nothing: an earlier request with the same key made it.
    Known(Id<id::Sandbox>),
    /// It is to be made.
    New(Option<Key>),
}

/// What became of one child so far.
enum Slot {
    /// An earlier request with the same key made it.
    Known(Id<id::Sandbox>),
    /// Its row is in `starting`.
    Placed(Box<SandboxRow>),
    /// The team may not have it, or its host has no room for it.
    Refused(SandboxError),
}

/// One child's idempotency key and what its request is.
type Key = (String, [u8; 32]);

impl Control {
    /// Makes children of a running sandbox: one result for each. With an idempotency key, a repeated request is answered with the
    /// children that the first one made, and makes anew only those that failed. The work goes on when the caller goes away.
    pub async fn sandbox_fork(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        fork: NewFork,
        key: Option<&IdempotencyKey>,
    ) -> Result<Vec<Result<Sandbox, SandboxError>>, SandboxError> {
        within("count", fork.count, limits::FORK_COUNT)?;
        if let Some(timeout_sec) = fork.timeout_sec {
            within("timeout_sec", timeout_sec, limits::TIMEOUT_SEC)?;
        }
        if !sandbox.volumes.is_empty() {
            return Err(SandboxError::HasVolumes { id: sandbox.id, what: "a fork" });
        }
        let keys = (0..fork.count).map(|child| key.map(|key| child_key(key, sandbox.id, fork, child)));
        let (control, ctx, sandbox, keys) = (self.clone(), ctx.clone(), sandbox.clone(), keys.collect());
        self.finish(async move { control.fork_in_steps(&ctx, &sandbox, fork, keys).await }).await
    }

    async fn fork_in_steps(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        fork: NewFork,
        keys: Vec<Option<Key>>,
    ) -> Result<Vec<Result<Sandbox, SandboxError>>, SandboxError> {
        let mut wanted = Vec::with_capacity(keys.len());
        for key in keys {
            wanted.push(self.wanted_child(sandbox.team_id, key).await?);
        }
        if wanted.iter().all(|wanted| matches!(wanted, Wanted::Known(_))) {
            return self.known_children(ctx, &wanted).await;
        }
        let operation = Operation::begun(ctx, FORK.action);
        let (source, slots) = self.place_children(ctx, sandbox, fork, wanted, &operation).await?;
        let (client, limit) = (self.client_of(&source)?, self.config().fork_deadline);
        let at = |sandbox| CallSite { sandbox, host: source.host_id, what: "the fork", limit };
        let answer = client.fork_sandbox(self.fork_request(&source, &slots), limit).await;
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let placed = slots.iter().filter_map(Slot::placed).map(|row| row.id);
                self.undo_children(ctx, &client, placed.collect(), error.agent_message()).await;
                self.follow_host(&source).await;
                return Err(self.change_error(at(source.id), error));
            }
        };
        metrics::histogram!("sandbar_snapshot_stall_seconds", "of" => "fork")
            .record(std::time::Duration::from_millis(answer.stall_ms));
        self.source_runs_on(&source, &operation).await?;
        let mut results = Vec::with_capacity(slots.len());
        for slot in slots {
            results.push(match slot {
                Slot::Known(id) => self.sandbox_get(ctx, id).await,
                Slot::Refused(error) => Err(error),
                Slot::Placed(row) => {
                    let outcome = outcome_of(&mut answer, row.id);
                    let started = match outcome {
                        Ok(seen) => self.mark_running(ctx, row.id, &reported::running_on(&seen)).await,
                        Err(error) => {
                            self.undo_create(ctx, &client, row.id, error.agent_message()).await;
                            Err(self.change_error(at(row.id), error))
                        }
                    };
                    match started {
                        Ok(Some(row)) => row.try_into().map_err(SandboxError::from),
                        Ok(None) => {
                            self.destroy_leftover(&client, row.id).await;
                            Err(SandboxError::Interrupted { id: row.id })
                        }
                        Err(error) => Err(error),
                    }
                }
            });
        }
        Ok(results)
    }

    /// Step 1. Nothing is changed unless the team may have at least one child and the host has room for it.
    async fn place_children(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        fork: NewFork,
        wanted: Vec<Wanted>,
        operation: &Operation,
    ) -> Result<(SandboxRow, Vec<Slot>), SandboxError> {
        let kept = operation.to_value();
        let from = FORK.starting_from(sandbox.status);
        let (Some(host), false) = (sandbox.host_id, from.is_empty()) else {
            return Err(self.change_refused(ctx, sandbox.id, FORK).await);
        };
        let limits = self.config().limits();
        let mut tx = self.store().begin().await?;
        // The team's row before the host's before the sandbox's: everywhere, so that nobody waits for somebody who waits for them.
        let mut room = self.headroom(&mut tx, sandbox.team_id).await?;
        match tx.host_room(host, sandbox.demand(), limits, Purpose::New).await? {
            Room::Enough => {}
            Room::Full => return Err(no_room()),
            Room::Draining => {
                let message = "it drains, and takes no new sandboxes".to_owned();
                return Err(SandboxError::NoRoom { message });
            }
            Room::Gone => return Err(SandboxError::Missing { id: sandbox.id }),
        }
        let transition = Transition::new(sandbox.id, FORK.through).only_from(from).begun_by(&kept);
        let Some(source) = tx.sandbox_transition(&transition).await? else {
            drop(tx);
            return Err(self.change_refused(ctx, sandbox.id, FORK).await);
        };
        let child = PerResource::of_sandbox(source.vcpus, source.memory_mb);
        let mut fits = room;
        fits.take(&child)?;
        let mut slots = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let key = match wanted {
                Wanted::Known(id) => {
                    slots.push(Slot::Known(id));
                    continue;
                }
                Wanted::New(key) => key,
            };
            if tx.host_room(host, sandbox.demand(), limits, Purpose::New).await? != Room::Enough {
                slots.push(Slot::Refused(no_room()));
                continue;
            }
            if let Err(exceeded) = room.take(&child) {
                slots.push(Slot::Refused(exceeded.into()));
                continue;
            }
            let id = Id::new();
            tx.sandbox_insert(&NewSandboxRow {
                id,
                team_id: source.team_id,
                template_id: source.template_id,
                vcpus: source.vcpus,
                memory_mb: source.memory_mb,
                disk_mb: source.disk_mb,
                timeout_sec: fork.timeout_sec.unwrap_or(source.timeout_sec),
                on_timeout: fork.on_timeout.unwrap_or(source.on_timeout),
                timeout_from: fork.timeout_from.unwrap_or(source.timeout_from),
                metadata: &source.metadata,
                network: &source.network,
                ingress: &source.ingress,
                created_by: &audit::created_by(ctx),
                parent_id: Some(source.id),
                volumes: &[],
            })
            .await?;
            if let Some((key, hash)) = &key
                && let Some(used) = tx.idempotency_take(source.team_id, key, hash, id).await?
            {
                match judge_use(&used, hash)? {
                    // Between our look and this: the same request, at the same time.
                    KeyUse::Answered(_) => return Err(SandboxError::KeyInProgress),
                    KeyUse::Failed => tx.idempotency_retake(source.team_id, key, hash, id).await?,
                }
            }
            let row = tx.sandbox_place(id, host).await?.ok_or(SandboxError::Interrupted { id })?;
            slots.push(Slot::Placed(Box::new(row)));
        }
        tx.commit().await?;
        Ok((source, slots))
    }

    /// Step 2's request. The environment is not sent: the children have their parent's in their memory.
    fn fork_request(&self, source: &SandboxRow, slots: &[Slot]) -> ForkSandboxRequest {
        let child = |row: &SandboxRow| Child {
            id: row.id.to_string(),
            access_token: self.guest_key().token(row.id).expose_secret().to_owned(),
            hostname: row.id.to_string(),
            timeout_sec: row.timeout_sec,
            on_timeout: on_timeout_word(Some(row.on_timeout)).into(),
            timeout_from: timeout_from_word(Some(row.timeout_from)).into(),
            ..Default::default()
        };
        ForkSandboxRequest {
            id: source.id.to_string(),
            children: slots.iter().filter_map(Slot::placed).map(child).collect(),
            ..Default::default()
        }
    }

    /// Step 3, the source. That somebody changed it meanwhile is no matter to the children; whoever did so may have told of the fork
    /// that they found under way, and then nobody tells again.
    async fn source_runs_on(&self, source: &SandboxRow, operation: &Operation) -> Result<(), SandboxError> {
        let mut tx = self.store().begin().await?;
        let back = return_to(&mut tx, source, SandboxStatus::Running).await?;
        if back.is_some() || tx.sandbox_operation_take(source.id, &operation.to_value()).await? {
            tx.audit(&operation.sandbox_event(back.as_ref().unwrap_or(source), Outcome::Success)).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn undo_children(
        &self,
        ctx: &OpContext,
        client: &HostClient,
        children: Vec<Id<id::Sandbox>>,
        why: &str,
    ) {
        futures::stream::iter(children)
            .for_each_concurrent(AT_ONCE, |child| self.undo_create(ctx, client, child, why))
            .await;
    }

    async fn known_children(
        &self,
        ctx: &OpContext,
        wanted: &[Wanted],
    ) -> Result<Vec<Result<Sandbox, SandboxError>>, SandboxError> {
        let mut children = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            if let Wanted::Known(id) = wanted {
                children.push(self.sandbox_get(ctx, *id).await);
            }
        }
        Ok(children)
    }

    /// Whether an earlier request made the child that its key stands for.
    async fn wanted_child(&self, team: Id<id::Team>, key: Option<Key>) -> Result<Wanted, SandboxError> {
        if let Some((name, hash)) = &key
            && let Some(used) = self.store().idempotency_find(team, name).await?
            && let KeyUse::Answered(id) = judge_use(&used, hash)?
        {
            return Ok(Wanted::Known(id));
        }
        Ok(Wanted::New(key))
    }
}

impl Slot {
    fn placed(&self) -> Option<&SandboxRow> {
        match self {
            Self::Placed(row) => Some(row),
            Self::Known(_) | Self::Refused(_) => None,
        }
    }
}

/// What the host says of one child.
fn outcome_of(
    answer: &mut ForkSandboxResponse,
    id: Id<id::Sandbox>,
) -> Result<sandbar_proto::host::Sandbox, HostError> {
    let id = id.to_string();
    let place = answer.children.iter().position(|child| child.id == id);
    match place.and_then(|place| answer.children.swap_remove(place).outcome) {
        Some(ChildOutcome::Sandbox(sandbox)) => Ok(*sandbox),
        Some(ChildOutcome::Error(failure)) => {
            let reason = failure.reason.as_known().unwrap_or(Reason::REASON_UNSPECIFIED);
            Err(HostError::Refused { reason, message: failure.message.clone() })
        }
        None => Err(HostError::Protocol("a child is missing in the answer to a fork")),
    }
}

fn no_room() -> SandboxError {
    SandboxError::NoRoom { message: "its memory is promised to other sandboxes".to_owned() }
}

/// A child's own key: what a client can send has no spaces, so that the two never meet.
fn child_key(key: &IdempotencyKey, source: Id<id::Sandbox>, fork: NewFork, child: u32) -> Key {
    let NewFork { count, timeout_sec, on_timeout, timeout_from } = fork;
    let IdempotencyKey(key) = key;
    let request = format!("fork {source} {count} {timeout_sec:?} {on_timeout:?} {timeout_from:?}");
    let key = format!("fork {child} {}", hex::encode(Sha256::digest(key.as_bytes())));
    (key, Sha256::digest(request.as_bytes()).into())
}
