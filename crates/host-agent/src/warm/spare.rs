//! One spare: a machine that was restored from a template, has worked for a moment, and stands still.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use sandbar_hostnet::Slot;
use sandbar_proto::host::{Command, ExecRequest};
use sandbar_storage::{SpareFiles, Template};
use sandbar_vmm::{Machine, MachineSpec, SnapshotFiles};

use crate::error::{Error, chain};
use crate::exec;
use crate::guest::{Defaults, GuestClient, Identity};
use crate::resources::{Resources, blocking};

/// Who a spare's guest is until it is somebody's sandbox.
const HOSTNAME: &str = "sandbar";
/// What it runs once: the way of every command is then in memory and, under emulation, translated.
const WARM_UP: &str = "true";
const WARM_UP_TIMEOUT_SEC: u32 = 60;

/// A machine without a sandbox, and all that it holds. It has no record: what a killed agent leaves of it is reclaimed at the next
/// start.
pub(crate) struct Spare {
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) slot: Slot,
    pub(crate) files: SpareFiles,
    /// What its guest takes until it is told otherwise. Known to nobody else.
    pub(crate) token: String,
    /// Which make of its template it was restored from.
    pub(super) edition: DateTime<Utc>,
}

impl Spare {
    /// Makes a spare of a template.
    ///
    /// What a first create waits for under emulation is less the machine's start than its guest's first steps, whose code is translated
    /// as it runs (measured: an identity takes a third of the time in a guest that has had one, a command a fifth). So the guest goes
    /// through them once, under an identity that nobody will ever use. Meanwhile it has no way out: what else runs in its memory must not
    /// act for a sandbox that nobody has asked for. Then it stands still and takes memory alone; a claim gives it another identity.
    pub(super) async fn make(resources: &Resources, template: &Template) -> Result<Self, Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(Error::internal("read random bytes"))?;
        let token = hex::encode(secret);
        let slot = resources.pool.take().await.map_err(|e| Error::NoCapacity(e.to_string()))?;
        let restored = async {
            resources.pool.cut_off(&slot).await.map_err(Error::internal("cut the spare off"))?;
            restore(resources, template, &slot).await
        };
        let (machine, files) = match restored.await {
            Ok(restored) => restored,
            Err(error) => {
                release(resources, &slot).await;
                return Err(error);
            }
        };
        let spare = Self { machine, slot, files, token, edition: template.manifest.created_at };
        match spare.warm_up(resources, template.manifest.spec.guest_token.as_deref()).await {
            Ok(()) => Ok(spare),
            Err(error) => {
                spare.end(resources).await;
                Err(error)
            }
        }
    }

    async fn warm_up(&self, resources: &Resources, current_token: Option<&str>) -> Result<(), Error> {
        let guest = GuestClient::new(self.slot.host_ip, self.token.clone());
        let identity = Identity {
            access_token: &self.token,
            hostname: HOSTNAME,
            env: None,
            defaults: Defaults::default(),
        };
        tokio::time::timeout(resources.deadlines.guest_init, guest.init(&identity, current_token))
            .await
            .map_err(|_| Error::Timeout("the spare's guest did not answer in time".into()))??;
        let command = Command { cmd: WARM_UP.into(), ..Default::default() };
        let request =
            ExecRequest { command: command.into(), timeout_sec: WARM_UP_TIMEOUT_SEC, ..Default::default() };
        if let Err(error) = exec::run(&guest, &request).await {
            // A team's snapshot need not have it. The sandbox will be a little slower.
            tracing::debug!(error = chain(&error), "a spare could not warm up");
        }
        self.machine.pause().await.map_err(Error::internal("stop the spare"))?;
        // Nothing in it runs any more until it is claimed, under its sandbox's policy.
        resources.pool.reconnect(&self.slot).await.map_err(Error::internal("reconnect the spare"))
    }

    /// Whether its machine has ended by itself.
    pub(super) fn is_dead(&self) -> bool {
        self.machine.exited().now_or_never().is_some()
    }

    /// Gives everything back. What cannot be given back now is at the next start.
    pub(super) async fn end(self, resources: &Resources) {
        let Self { machine, slot, files, token: _, edition: _ } = self;
        if let Err(error) = machine.kill().await {
            // Its slot must not become another's.
            tracing::error!(slot = %slot.index, error = chain(&error), "a spare does not end");
            return;
        }
        if let Err(panic) = tokio::task::spawn_blocking(move || drop(files)).await {
            tracing::error!(%panic, "the files of a spare stay");
        }
        release(resources, &slot).await;
    }
}

async fn restore(
    resources: &Resources,
    template: &Template,
    slot: &Slot,
) -> Result<(Box<dyn Machine>, SpareFiles), Error> {
    let image = template.image().ok_or_else(|| Error::TemplateUnusable {
        id: template.id(),
        reason: "it is an image alone, without a machine's memory".into(),
    })?;
    let store = resources.store.clone();
    let state = image.state.clone();
    let spare = blocking("prepare a spare's files", move || Ok(store.create_spare(&image)?)).await?;
    let (spec, files) = (&template.manifest.spec, spare.files());
    let machine_spec = MachineSpec {
        vcpus: spec.vcpus,
        memory_mb: spec.memory_mb,
        disk: files.disk,
        work_dir: files.dir,
        netns: slot.netns.clone(),
        tap: slot.tap.clone(),
        confinement: resources.confinement(slot, "spare".to_owned()),
        disk_rate: resources.disk_rate,
    };
    let snapshot = SnapshotFiles { state, memory: files.memory };
    let machine = resources.vmm.restore(&machine_spec, &snapshot).await;
    Ok((machine.map_err(Error::internal("restore a spare"))?, spare))
}

async fn release(resources: &Resources, slot: &Slot) {
    if let Err(error) = resources.pool.release(slot.index).await {
        tracing::error!(slot = %slot.index, error = chain(&error), "a spare's network slot is not given back");
    }
}
