//! Making a snapshot of a sandbox.
//!
//! ```text
//!   1 reserve   one transaction: sandbox -> snapshotting; an id, the name, and a host that may have files from now on
//!   2 copy      the host; idempotent by the id
//!   3 publish   one transaction: the snapshot can be used, the one that had its name is deleted, the sandbox is as it was
//! ```
//!
//! A step that fails gives the snapshot up: what the host may have of it is owed to be deleted, and is.

use std::time::Duration;

use sandbar_store::audit::Outcome;
use sandbar_store::sandboxes::{SandboxRow, Transition};
use sandbar_store::snapshots::{Naming, NewSnapshotRow};
use sandbar_store::templates::{CompleteTemplate, TemplateRow};
use sandbar_store::{StoreError, Tx};
use sandbar_types::{
    Arch, Id, PerResource, SandboxStatus, TemplateKind, TemplateName, TemplateTag, VmmKind, id,
};

use super::SnapshotError;
use crate::host_client::HostError;
use crate::operation::{Action, Operation};
use crate::sandboxes::{CallSite, Change, Sandbox, SandboxError, return_to};
use crate::templates::Template;
use crate::{Control, OpContext};

const SNAPSHOT: Change = Change {
    action: Action::Snapshot,
    through: SandboxStatus::Snapshotting,
    from: &[SandboxStatus::Running, SandboxStatus::Paused],
    named: ("a snapshot", "running or paused"),
};

/// Characters of a name that nobody chose, after its prefix.
const CHOSEN_CHARS: usize = 12;

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct NewSnapshot {
    /// Its name; none = one is chosen.
    pub name: Option<String>,
    /// Whether it takes the place of a snapshot of the team's that has the name.
    pub overwrite: bool,
    /// By what it is known beside others of its name; none = by the name alone. One of this tag is replaced.
    pub tag: Option<TemplateTag>,
}

/// A snapshot that was begun.
struct Reserved {
    id: Id<id::Template>,
    name: TemplateName,
    tag: TemplateTag,
    /// The sandbox's row, in `snapshotting`.
    source: SandboxRow,
    /// What the sandbox was before.
    was: SandboxStatus,
    operation: Operation,
}

impl Control {
    /// Keeps a sandbox's memory and disk as a template of its team. A running sandbox runs on. The work goes on when the caller
    /// goes away.
    pub async fn snapshot_create(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        new: &NewSnapshot,
    ) -> Result<Template, SnapshotError> {
        self.make_template(ctx, sandbox, new, TemplateKind::Snapshot).await
    }

    /// Keeps a sandbox's disk alone, as a base template of its team: what builds of templates are made of. The sandbox goes on as
    /// it was.
    pub async fn sandbox_flatten(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        new: &NewSnapshot,
    ) -> Result<Template, SnapshotError> {
        self.make_template(ctx, sandbox, new, TemplateKind::Base).await
    }

    async fn make_template(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        new: &NewSnapshot,
        kind: TemplateKind,
    ) -> Result<Template, SnapshotError> {
        if !sandbox.volumes.is_empty() {
            return Err(SandboxError::HasVolumes { id: sandbox.id, what: "a snapshot" }.into());
        }
        let name = match &new.name {
            Some(name) => name.parse()?,
            None => chosen_name()?,
        };
        let tag = new.tag.clone().unwrap_or_else(TemplateTag::default_tag);
        let naming = if new.overwrite || !tag.is_default() { Naming::Replace } else { Naming::Fresh };
        let (control, ctx, sandbox) = (self.clone(), ctx.clone(), sandbox.clone());
        self.finish(async move { control.make_in_steps(&ctx, &sandbox, (name, tag), naming, kind).await })
            .await
    }

    async fn make_in_steps(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        named: (TemplateName, TemplateTag),
        naming: Naming,
        kind: TemplateKind,
    ) -> Result<Template, SnapshotError> {
        let reserved = self.reserve(ctx, sandbox, named, naming, kind).await?;
        let limit = self.config().snapshot_deadline;
        let complete = match self.copy(&reserved, kind, limit).await {
            Ok(complete) => complete,
            Err(error) => {
                self.give_up(&reserved).await?;
                let what = "the snapshot";
                let at = CallSite { sandbox: reserved.source.id, host: reserved.source.host_id, what, limit };
                return Err(self.change_error(at, error).into());
            }
        };
        match self.publish(&reserved, &complete).await {
            Ok(row) => Ok(Template { tag: reserved.tag, ..row.into() }),
            Err(error) => {
                self.give_up(&reserved).await?;
                Err(error)
            }
        }
    }

    /// Step 1.
    async fn reserve(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        (name, tag): (TemplateName, TemplateTag),
        naming: Naming,
        kind: TemplateKind,
    ) -> Result<Reserved, SnapshotError> {
        let team = ctx.team()?;
        if team != Id::PLATFORM && self.store().snapshot_name_taken(Id::PLATFORM, &name).await? {
            return Err(SnapshotError::Reserved { name });
        }
        let (arch, vmm) = self.machine_of(sandbox).await?;
        let (operation, id) = (Operation::begun(ctx, SNAPSHOT.action), Id::new());
        let kept = operation.to_value();
        let transition = Transition::new(sandbox.id, SNAPSHOT.through)
            .only_from(SNAPSHOT.starting_from(sandbox.status))
            .keeping_the_reason()
            .begun_by(&kept);
        let mut tx = self.store().begin().await?;
        let mut room = self.headroom(&mut tx, team).await.map_err(SnapshotError::Store)?;
        let Some(source) = tx.sandbox_transition(&transition).await? else {
            drop(tx);
            return Err(self.change_refused(ctx, sandbox.id, SNAPSHOT).await.into());
        };
        let host_id = source.host_id.ok_or(SandboxError::Missing { id: source.id })?;
        // One that takes the place of another is none more.
        if naming == Naming::Fresh || !tx.tags_displace(team, &name, std::slice::from_ref(&tag)).await? {
            room.take(&PerResource::of_snapshot())?;
        }
        let operation = Operation::begun(ctx, Action::Create);
        let reserved = tx
            .snapshot_reserve(&NewSnapshotRow {
                id,
                team_id: team,
                name: &name,
                naming,
                kind,
                vcpus: source.vcpus,
                memory_mb: source.memory_mb,
                arch,
                vmm,
                host_id,
                source_id: source.id,
                defaults: None,
                operation: &operation.to_value(),
            })
            .await;
        match reserved {
            Ok(()) => tx.commit().await?,
            Err(StoreError::Taken { .. }) => return Err(SnapshotError::Exists { name }),
            Err(error) => return Err(error.into()),
        }
        Ok(Reserved { id, name, tag, source, was: sandbox.status, operation })
    }

    /// What the sandbox's host runs it on.
    async fn machine_of(&self, sandbox: &Sandbox) -> Result<(Arch, VmmKind), SandboxError> {
        let missing = SandboxError::Missing { id: sandbox.id };
        let Some(host) = sandbox.host_id else { return Err(missing) };
        // Nobody looks at a host that is not heard of: a row that is in between there would stay so.
        let row = self.store().host_find(host).await?;
        let row = row.filter(|row| matches!(row.status.as_str(), "online" | "draining"));
        row.and_then(|row| Some((row.arch?, row.vmm?))).ok_or(missing)
    }

    /// Step 2.
    async fn copy(
        &self,
        reserved: &Reserved,
        kind: TemplateKind,
        limit: Duration,
    ) -> Result<sandbar_proto::host::Template, HostError> {
        let Reserved { id, source, .. } = reserved;
        let client =
            self.client_of(source).map_err(|_| HostError::Protocol("the sandbox's host has no address"))?;
        match kind {
            TemplateKind::Snapshot => {
                let (template, stall_ms) = client.snapshot_sandbox(source.id, *id, limit).await?;
                metrics::histogram!("sandbar_snapshot_stall_seconds", "of" => "snapshot")
                    .record(Duration::from_millis(stall_ms));
                tracing::info!(id = %source.id, template = %id, stall_ms, "snapshot taken");
                Ok(template)
            }
            TemplateKind::Base => client.flatten_rootfs(source.id, *id, limit).await,
        }
    }

    /// Step 3.
    async fn publish(
        &self,
        reserved: &Reserved,
        complete: &sandbar_proto::host::Template,
    ) -> Result<TemplateRow, SnapshotError> {
        let Reserved { id, name, tag, source, was, operation } = reserved;
        let overtaken = || SnapshotError::Overtaken { name: name.clone() };
        let host = source.host_id.ok_or(SandboxError::Missing { id: source.id })?;
        let sizes = CompleteTemplate {
            vcpus: complete.vcpus,
            memory_mb: complete.memory_mb,
            disk_mb: complete.disk_mb,
            size_bytes: complete.size_bytes,
            compatibility: &complete.compatibility,
        };
        let mut tx = self.store().begin().await?;
        let row = match tx.snapshot_publish(*id, host, &sizes, std::slice::from_ref(tag)).await {
            Ok(row) => row.ok_or_else(overtaken)?,
            // Somebody took the name that this was to replace, and is not done.
            Err(StoreError::Taken { .. }) => return Err(overtaken()),
            Err(error) => return Err(error.into()),
        };
        return_to(&mut tx, source, *was).await?;
        tx.audit(&operation.snapshot_event(row.team_id, &row.name, Outcome::Success)).await?;
        tx.commit().await?;
        // The files of the one that was replaced are owed to be deleted.
        self.wants_reconcile(host);
        self.copies_wanted().notify_one();
        Ok(row)
    }

    /// Takes back what was begun. What cannot be taken back now, the reconciler takes back.
    async fn give_up(&self, reserved: &Reserved) -> Result<(), StoreError> {
        self.snapshot_abandoned(reserved.id).await?;
        self.follow_host(&reserved.source).await;
        if let Some(host) = reserved.source.host_id {
            self.wants_reconcile(host);
        }
        Ok(())
    }

    /// Gives a snapshot up that is not ready, and tells the trail.
    pub(crate) async fn snapshot_abandoned(&self, id: Id<id::Template>) -> Result<(), StoreError> {
        let mut tx = self.store().begin().await?;
        abandon(&mut tx, id).await?;
        tx.commit().await
    }
}

/// Gives a snapshot up, where it is not ready, and tells the trail.
pub(crate) async fn abandon(tx: &mut Tx, id: Id<id::Template>) -> Result<(), StoreError> {
    if let Some(ended) = tx.snapshot_abandon(id).await?
        && let Some(operation) = Operation::read(ended.operation.as_ref())
    {
        tx.audit(&operation.snapshot_event(ended.team_id, &ended.name, Outcome::Error)).await?;
    }
    Ok(())
}

/// A name for a snapshot that nobody named.
fn chosen_name() -> Result<TemplateName, SnapshotError> {
    let random = Id::<id::Template>::new().uuid().simple().to_string();
    // The end of such an id is random; its beginning is the time.
    Ok(format!("snapshot-{}", &random[random.len() - CHOSEN_CHARS..]).parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_names_differ_and_are_names() {
        let (one, two) = (chosen_name().unwrap(), chosen_name().unwrap());
        assert_ne!(one, two);
        assert!(one.as_str().starts_with("snapshot-"), "{one}");
    }
}
