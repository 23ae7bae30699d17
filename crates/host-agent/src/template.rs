//! Making a snapshot template: an image is booted once, warmed up, and kept as a running machine. Which image: the host's own (`create`),
//! or a disk that is ready (`boot_and_keep`).

use sandbar_hostnet::Slot;
use sandbar_oci::ImageError;
use sandbar_storage::{StoreError, Template, TemplateDraft, TemplateFile, TemplateSpec, clone_file};
use sandbar_types::guest::DEFAULT_USER;
use sandbar_types::id::{self, Id};
use sandbar_types::{Arch, TemplateKind, limits};
use sandbar_vmm::{Compatibility, DiskRate, Machine, MachineSpec, SnapshotFiles};

use tokio_util::sync::CancellationToken;

use crate::boot::{self, Guest};
use crate::error::Error;
use crate::exec;
use crate::guest::{Defaults, GuestClient, Identity};
use crate::resources::{Resources, blocking};
use sandbar_proto::host::{Command, ExecRequest};

/// What most sandboxes do first. Run once before the snapshot, so that its pages, and the translated code of an emulated
/// processor's first steps, are in memory for every sandbox made from it.
const WARM_UP: [[&str; 4]; 2] = [
    ["/bin/bash", "-l", "-c", "true"],
    ["/bin/bash", "-l", "-c", "command -v python3 >/dev/null && python3 -c 'import json, os, sys' || true"],
];
const WARM_UP_TIMEOUT_SEC: u32 = 120;

/// What is run before a template is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WarmUp {
    /// [`WARM_UP`], which must succeed: the image is ours.
    Own,
    /// This shell, if there is one; whether it works is its image's business.
    Foreign(Option<&'static str>),
}

impl WarmUp {
    fn commands(self) -> Vec<Vec<&'static str>> {
        match self {
            Self::Own => WARM_UP.iter().map(|command| command.to_vec()).collect(),
            Self::Foreign(shell) => shell.iter().map(|shell| vec![*shell, "-c", "true"]).collect(),
        }
    }
}

/// What is made of a disk.
#[derive(Debug)]
pub(crate) struct Making {
    pub(crate) id: Id<id::Template>,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    pub(crate) warm_up: WarmUp,
    /// How the image that the disk was made of says that it is run.
    pub(crate) image_config: Option<serde_json::Value>,
    /// Ends it: nothing is left then.
    pub(crate) cancelled: CancellationToken,
}

/// What a template is made of.
#[derive(Debug, Clone)]
pub(crate) struct TemplateRequest {
    pub(crate) id: Id<id::Template>,
    pub(crate) image: String,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
}

impl TemplateRequest {
    fn making(&self) -> Making {
        let &Self { id, vcpus, memory_mb, .. } = self;
        let (warm_up, cancelled) = (WarmUp::Own, CancellationToken::new());
        Making { id, vcpus, memory_mb, warm_up, image_config: None, cancelled }
    }
}

/// Refuses what no machine can be made of.
pub(crate) fn check_size(vcpus: u32, memory_mb: u32) -> Result<(), Error> {
    if !limits::VCPUS.contains(&vcpus) {
        return Err(Error::BadInput(format!(
            "{vcpus} is no number of vCPUs: {:?} are possible",
            limits::VCPUS
        )));
    }
    if !limits::MEMORY_MB.contains(&memory_mb) {
        return Err(Error::BadInput(format!(
            "{memory_mb} MiB is no size of memory: {:?} are possible",
            limits::MEMORY_MB
        )));
    }
    Ok(())
}

/// Makes the template, or finds it made: asking again is safe.
///
/// Its files appear under a temporary name and are renamed when they are complete; what a killed agent leaves of it (files,
/// machine, slot) has no record and is reclaimed at the next start.
pub(crate) async fn create(resources: &Resources, request: &TemplateRequest) -> Result<Template, Error> {
    check_size(request.vcpus, request.memory_mb)?;
    let id = request.id;
    if let Some(made) = current(resources, request).await? {
        return Ok(made);
    }
    resources.spares.forget(id);

    let (store, image) = (resources.store.clone(), request.image.clone());
    let draft = blocking("clone the image", move || {
        let name = image.parse().map_err(|_| Error::ImageNotFound(image.clone()))?;
        let image = store.image(&name)?.ok_or(Error::ImageNotFound(image))?;
        let draft = store.begin_template(id, 0)?;
        clone_file(&image.rootfs(), &draft.path(TemplateFile::Disk))
            .map_err(Error::internal("clone the image"))?;
        Ok(draft)
    })
    .await?;
    boot_and_keep(resources, request.making(), draft).await
}

/// Boots a draft's disk and keeps the machine as the template. To be carried to its end: only then the machine and its slot are gone.
pub(crate) async fn boot_and_keep(
    resources: &Resources,
    making: Making,
    draft: TemplateDraft,
) -> Result<Template, Error> {
    let id = making.id;
    let slot = resources.pool.take().await.map_err(|e| Error::NoCapacity(e.to_string()))?;
    let made = make(resources, making, draft, &slot).await?;
    resources.pool.release(slot.index).await.map_err(Error::internal("give the network slot back"))?;
    match made {
        // Somebody else was faster.
        Err(Error::TemplateExists(_)) => {
            let store = resources.store.clone();
            blocking("read the template", move || store.template(id).map_err(Error::from)).await
        }
        made => made,
    }
}

/// The template, if it is there and as it would be made now. One that is not (damaged, or older than the image, the guest's kernel and
/// agent, or the VMM) is deleted to be made anew; sandboxes that run from it are not touched by that.
async fn current(resources: &Resources, request: &TemplateRequest) -> Result<Option<Template>, Error> {
    let (store, id, image) = (resources.store.clone(), request.id, request.image.clone());
    let (host, kernel) = (resources.vmm.compatibility().clone(), resources.kernel.hash.clone());
    let size = (request.vcpus, request.memory_mb);
    blocking("read the template", move || {
        let stale = match store.template(id) {
            Err(StoreError::UnknownTemplate { .. }) => return Ok(None),
            Err(error @ StoreError::DamagedTemplate { .. }) => error.to_string(),
            Err(error) => return Err(error.into()),
            Ok(template) => {
                let spec = &template.manifest.spec;
                let image = image.parse().ok().map(|name| store.image(&name)).transpose()?.flatten();
                let compatible = serde_json::from_value::<Compatibility>(spec.compatibility.clone())
                    .is_ok_and(|needed| needed.check(&host).is_ok());
                if !compatible {
                    "another virtual machine monitor made it".to_owned()
                } else if spec.kernel != kernel {
                    "another kernel or guest agent is in it".to_owned()
                } else if (spec.vcpus, spec.memory_mb) != size {
                    "it has another size".to_owned()
                } else if image.is_some_and(|image| image.manifest.created_at > template.manifest.created_at)
                {
                    "its image was made anew".to_owned()
                } else {
                    return Ok(Some(template));
                }
            }
        };
        tracing::info!(template = %id, reason = stale, "template is made anew");
        store.delete_template(id)?;
        Ok(None)
    })
    .await
}

/// Makes the template in `slot`. The outer error means that its machine may still be there, so that the slot must not go to another.
async fn make(
    resources: &Resources,
    making: Making,
    draft: TemplateDraft,
    slot: &Slot,
) -> Result<Result<Template, Error>, Error> {
    let spec = MachineSpec {
        vcpus: making.vcpus,
        memory_mb: making.memory_mb,
        disk: draft.path(TemplateFile::Disk),
        work_dir: draft.dir().to_owned(),
        netns: slot.netns.clone(),
        tap: slot.tap.clone(),
        confinement: resources.confinement(slot, making.id.to_string()),
        // Nobody else waits for its disk.
        disk_rate: DiskRate::default(),
    };
    let (machine, booting) = match boot::start(resources, &spec, draft.path(TemplateFile::Memory), slot).await
    {
        Ok(started) => started,
        Err(error) => return Ok(Err(error)),
    };
    let snapshot = snapshot(resources, &making, &draft, slot, booting, &*machine).await;
    // Its files are final once nothing writes to them; and a failed one must not run on.
    machine.kill().await.map_err(Error::internal("end the template's machine"))?;
    Ok(match snapshot {
        Ok(guest_token) => commit(resources, making, draft, guest_token).await,
        Err(error) => Err(error),
    })
}

async fn commit(
    resources: &Resources,
    making: Making,
    draft: TemplateDraft,
    guest_token: String,
) -> Result<Template, Error> {
    let disk =
        std::fs::metadata(draft.path(TemplateFile::Disk)).map_err(Error::internal("measure the disk"))?;
    let spec = TemplateSpec {
        kind: TemplateKind::Snapshot,
        vcpus: making.vcpus,
        memory_mb: making.memory_mb,
        disk_mb: u32::try_from(disk.len() >> 20).unwrap_or(u32::MAX),
        arch: Arch::host(),
        vmm: resources.vmm.kind(),
        compatibility: resources.compatibility()?,
        kernel: resources.kernel.hash.clone(),
        guest_token: Some(guest_token),
        image_config: making.image_config,
        surroundings: None,
    };
    blocking("keep the template", move || draft.commit(spec).map_err(Error::from)).await
}

/// Brings the booted guest to the point where sandboxes start, and saves its state. Returns the token that its memory holds.
async fn snapshot(
    resources: &Resources,
    making: &Making,
    draft: &TemplateDraft,
    slot: &Slot,
    booting: Guest,
    machine: &dyn Machine,
) -> Result<String, Error> {
    tokio::select! {
        ready = booting.ready(resources, machine) => ready?,
        () = making.cancelled.cancelled() => return Err(cancelled()),
    }

    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(Error::internal("read random bytes"))?;
    let token = hex::encode(secret);
    let guest = GuestClient::new(slot.host_ip, token.clone());
    let defaults = Defaults { user: Some(DEFAULT_USER), workdir: None };
    let identity = Identity { access_token: &token, hostname: "sandbar", env: None, defaults };
    tokio::time::timeout(resources.deadlines.guest_init, guest.init(&identity, None))
        .await
        .map_err(|_| Error::Timeout("the guest did not take its identity in time".into()))??;

    for command in making.warm_up.commands() {
        let warmed = tokio::select! {
            warmed = warm_up(&guest, &command) => warmed,
            () = making.cancelled.cancelled() => return Err(cancelled()),
        };
        match (warmed, making.warm_up) {
            (Err(error), WarmUp::Foreign(_)) => {
                tracing::info!(template = %making.id, %error, "the image's shell does not work");
            }
            (warmed, _) => warmed?,
        }
    }
    tracing::info!(template = %making.id, "guest is warm; saving it");
    // Sealed, it serves nobody until it has been told who it is, and forgets the connections of now when it is.
    guest.prepare_snapshot(resources.deadlines.guest_flush).await?;
    machine.pause().await.map_err(Error::internal("pause the guest"))?;
    let image = draft.image();
    let files = SnapshotFiles { state: image.state, memory: image.memory };
    machine.save(&files).await.map_err(Error::internal("save the guest's state"))?;
    Ok(token)
}

async fn warm_up(guest: &GuestClient, command: &[&'static str]) -> Result<(), Error> {
    let (cmd, args) = command.split_first().map_or(("", &[][..]), |(cmd, args)| (*cmd, args));
    let command =
        Command { cmd: cmd.into(), args: args.iter().map(|&a| a.into()).collect(), ..Default::default() };
    let exec_request =
        ExecRequest { command: command.into(), timeout_sec: WARM_UP_TIMEOUT_SEC, ..Default::default() };
    let output = exec::run(guest, &exec_request).await?;
    if output.exit_code != 0 {
        return Err(Error::Internal {
            step: "warm the guest up",
            source: format!("{cmd} {args:?}: exit code {}", output.exit_code).into(),
        });
    }
    Ok(())
}

/// Whoever wanted it does so no more.
pub(crate) fn cancelled() -> Error {
    ImageError::Stopped("the import was cancelled".into()).into()
}
