//! Builds that start from an image, of a registry or in an archive that a client brought: a host makes a template of it, for one attempt, and how
//! that goes is step 0's log.
//!
//! The template bears the claim's name, as the attempt's sandbox does, and goes with it: by the worker, or by the sweep where that died.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, stream};
use sandbar_store::StoreError;
use sandbar_store::builds::{BuildRow, Claim, ImageLeft, NewImageRow};
use sandbar_store::hosts::{Demand, Files};
use sandbar_store::templates::{CompleteTemplate, TemplateRow};
use sandbar_types::Id;
use sandbar_types::id::{Host, Team};
use sandbar_types::recipe::{Base, Defaults, FilesName};

use super::FilesError;
use super::course::{Broken, MARGIN};
use super::mask::Mask;
use super::output::{StepLog, Stream};
use crate::bootstrap::BASE;
use crate::host_client::{
    HostError, ImageDefaults, ImageSource, ImportEvent, ImportImage, ImportStream, Imported, Reason,
};
use crate::sandboxes::{Command, Sandbox, SandboxError};
use crate::scheduler::{self, Need};
use crate::{Control, OpContext};

/// The step that comes before the recipe's.
const STEP: u32 = 0;
const MIB: u64 = 1 << 20;
/// How long it may take to find a user's name.
const FIND_USER_SEC: u32 = 60;
/// Prints the name of the user with a number, if there is one.
const FIND_USER: &str = r#"while IFS=: read -r name _ id _; do if [ "$id" = "$0" ]; then echo "$name"; exit; fi; done </etc/passwd"#;

/// What an image says of the commands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageSays {
    env: BTreeMap<String, String>,
    workdir: Option<String>,
    /// A name or a number.
    user: Option<String>,
}

impl From<ImageDefaults> for ImageSays {
    /// What it runs by itself is left out: a sandbox runs what its recipe starts.
    fn from(config: ImageDefaults) -> Self {
        let ImageDefaults { env, user, workdir, entrypoint: _, cmd: _ } = config;
        // A user's group is the one that the user has.
        let user = user.split(':').next().unwrap_or_default();
        Self {
            env: env.into_iter().collect(),
            workdir: Some(workdir).filter(|workdir| !workdir.is_empty()),
            user: Some(user.to_owned()).filter(|user| !user.is_empty()),
        }
    }
}

impl Control {
    /// Step 0: has a host make a template of the image.
    pub(super) async fn build_import(
        &self,
        claim: Claim,
        build: &BuildRow,
    ) -> Result<(TemplateRow, ImageSays), Broken> {
        let cmd = format!("FROM {}", build.base);
        let mut log = StepLog::begin(self.store(), claim, STEP, &cmd, Mask::default()).await?;
        let limit = self.config().builds.step_limit;
        let imported = tokio::time::timeout(limit + MARGIN, self.import(claim, build, &mut log));
        let imported = imported
            .await
            .unwrap_or_else(|_| Err(Broken::Failed(format!("{cmd} took longer than {} s", limit.as_secs()))));
        if let Err(Broken::Failed(reason) | Broken::Again(reason)) = &imported {
            log.take(Stream::Stderr, format!("{reason}\n").as_bytes()).await?;
        }
        log.end(Some(i32::from(imported.is_err()))).await?;
        imported
    }

    async fn import(
        &self,
        claim: Claim,
        build: &BuildRow,
        log: &mut StepLog<'_>,
    ) -> Result<(TemplateRow, ImageSays), Broken> {
        let name = BASE.parse().map_err(|_| Broken::Again("the platform has no base".to_owned()))?;
        let base = self.store().template_by_name(Id::PLATFORM, &name).await?;
        let base = base.ok_or_else(|| Broken::Again("the platform has no base yet".to_owned()))?;
        let BuildRow { vcpus, memory_mb, .. } = *build;
        let disk_mb = build.disk_mb.unwrap_or(base.disk_mb);
        // Hosts of the kind that the platform's own template is for.
        let need = Need { demand: Demand { memory_mb, vcpus, disk_mb }, arch: base.arch, vmm: base.vmm };
        let (host, address) = self.importing_host(build.team_id, &need).await?;
        let id = Id::new();
        let new = NewImageRow { id, host_id: host, vcpus, memory_mb, arch: need.arch, vmm: need.vmm };
        let mut tx = self.store().begin().await?;
        if !tx.build_image_reserve(claim, new).await? {
            return Err(Broken::Lost);
        }
        tx.commit().await?;

        let unread = Unread::default();
        let source = self.image_source(claim, build, &unread).await?;
        let client = self.host_clients().get(host, &address);
        let order = ImportImage { template: id, source, vcpus, memory_mb, disk_mb };
        let imported = match client.import_image(order).await {
            Ok(stream) => watch(stream, log).await?,
            Err(error) => Err(error),
        };
        let Imported { template, config } = match (imported, unread.take()) {
            (Ok(imported), _) => imported,
            // Its host says no more than that the upload broke off.
            (Err(_), Some(unread)) => return Err(unread.into()),
            (Err(error), None) => return Err(broken(&build.base, &error)),
        };
        let sizes = CompleteTemplate {
            vcpus: template.vcpus,
            memory_mb: template.memory_mb,
            disk_mb: template.disk_mb,
            size_bytes: template.size_bytes,
            compatibility: &template.compatibility,
        };
        let row = self.store().build_image_made(id, &sizes).await?.ok_or(Broken::Lost)?;
        Ok((row, config.into()))
    }

    /// Where the host has the image from.
    async fn image_source(
        &self,
        claim: Claim,
        build: &BuildRow,
        unread: &Unread,
    ) -> Result<ImageSource, Broken> {
        match &build.base {
            Base::Image(reference) => {
                let credentials = self.registry_open(claim).await?;
                Ok(ImageSource::Registry { reference: reference.clone(), credentials })
            }
            Base::Archive(hash) => {
                let reader = self.build_files_open(build.team_id, &FilesName::Content(*hash)).await?;
                let parts = stream::try_unfold((reader, unread.clone()), |(mut reader, unread)| async move {
                    match reader.next().await {
                        Ok(part) => Ok(part.map(|part| (part, (reader, unread)))),
                        Err(error) => Err(unread.put(error)),
                    }
                });
                Ok(ImageSource::Archive(parts.boxed()))
            }
            Base::Template(_) => Err(Broken::Failed(format!("{} is no image", build.base))),
        }
    }

    /// The host on which the build's sandbox would be placed if all of them had its template.
    async fn importing_host(&self, team: Id<Team>, need: &Need) -> Result<(Id<Host>, String), Broken> {
        let scheduling = self.config().scheduling;
        let mut candidates = self.store().host_candidates(team, Id::new(), None).await?;
        candidates.retain(|host| self.host_clients().answers(host.host_id));
        for candidate in &mut candidates {
            candidate.files = Files::Here;
        }
        let (limits, turn) = (self.config().limits(), self.next_turn());
        let placed = scheduler::place(scheduling.policy(), &candidates, need, limits, turn);
        let choices = placed.map_err(|obstacle| SandboxError::NoHosts { reason: obstacle.into() })?;
        let gone = || Broken::Again("the host that was to import the image is gone".to_owned());
        let host = choices.first().ok_or_else(gone)?.host;
        let address = self.store().host_find(host).await?.and_then(|row| row.address);
        Ok((host, address.ok_or_else(gone)?))
    }

    /// What a recipe finds in the image's sandbox. A user's number becomes the name that the sandbox has for it, if any.
    pub(super) async fn image_defaults(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
        says: ImageSays,
    ) -> Result<Defaults, SandboxError> {
        let ImageSays { env, workdir, user } = says;
        let user = match user {
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                let find = Command {
                    cmd: "/bin/sh".to_owned(),
                    args: vec!["-c".to_owned(), FIND_USER.to_owned(), number],
                    env: BTreeMap::new(),
                    cwd: Some("/".to_owned()),
                    user: Some("root".to_owned()),
                };
                let found = self.sandbox_exec(ctx, sandbox, &find, Some(FIND_USER_SEC)).await?;
                let name = String::from_utf8_lossy(&found.stdout).trim().to_owned();
                Some(name).filter(|name| !name.is_empty())
            }
            named => named,
        };
        Ok(Defaults { env, workdir, user })
    }

    /// Deletes a claim's templates of images.
    pub(super) async fn delete_images_of(&self, claim: Claim) -> Result<(), StoreError> {
        self.delete_images(self.store().build_images_of_claim(claim).await?).await
    }

    /// Deletes those that a dead worker left.
    pub(super) async fn delete_images_left(&self) -> Result<(), StoreError> {
        self.delete_images(self.store().build_images_left().await?).await
    }

    /// Their hosts owe the files from then on.
    async fn delete_images(&self, images: Vec<ImageLeft>) -> Result<(), StoreError> {
        for ImageLeft { id, host } in images {
            self.snapshot_abandoned(id).await?;
            if let Some(host) = host {
                self.wants_reconcile(host);
            }
        }
        Ok(())
    }
}

/// Why an archive could not be read to its end. Its reader is the stream to the host.
#[derive(Clone, Default)]
struct Unread(Arc<Mutex<Option<FilesError>>>);

impl Unread {
    fn put(&self, error: FilesError) -> io::Error {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::Error::other("the archive cannot be read")
    }

    fn take(&self) -> Option<FilesError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Waits for the import's end, and tells the log how it goes: each thing that is begun, and each tenth of it.
async fn watch(
    mut stream: ImportStream,
    log: &mut StepLog<'_>,
) -> Result<Result<Imported, HostError>, StoreError> {
    let mut told = (String::new(), 0);
    loop {
        let event = match stream.next().await {
            Ok(event) => event,
            Err(error) => return Ok(Err(error)),
        };
        match event {
            Some(ImportEvent::Progress { message, bytes_done, bytes_total }) => {
                let tenth = bytes_done.saturating_mul(10).checked_div(bytes_total).unwrap_or_default();
                if told != (message.clone(), tenth) {
                    let line = match bytes_total {
                        // As good as not known.
                        ..MIB => format!("{message}\n"),
                        total => format!("{message}: {} of {} MiB\n", bytes_done >> 20, total >> 20),
                    };
                    log.take(Stream::Stdout, line.as_bytes()).await?;
                    log.write().await?;
                    told = (message, tenth);
                }
            }
            Some(ImportEvent::Done(imported)) => return Ok(Ok(*imported)),
            None => return Ok(Err(HostError::Protocol("the stream ended before the import"))),
        }
    }
}

/// What the build's owner is told of an import that failed, and whether another attempt may succeed.
fn broken(reference: &Base, error: &HostError) -> Broken {
    tracing::info!(image = %reference, error = error as &dyn std::error::Error, "an image was not imported");
    let told = || format!("FROM {reference}: {}", error.agent_message());
    match error.reason() {
        Some(
            Reason::REASON_BAD_INPUT
            | Reason::REASON_IMAGE_NOT_FOUND
            | Reason::REASON_IMAGE_NOT_AUTHORISED
            | Reason::REASON_IMAGE_NO_PLATFORM
            | Reason::REASON_IMAGE_TOO_LARGE
            | Reason::REASON_IMAGE_BROKEN
            | Reason::REASON_IMAGE_DOES_NOT_BOOT,
        ) => Broken::Failed(told()),
        Some(Reason::REASON_REGISTRY_FAILED | Reason::REASON_NO_CAPACITY | Reason::REASON_BUSY) => {
            Broken::Again(told())
        }
        _ => Broken::Again(format!("FROM {reference}: the host that imports it has failed or is away")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_nothing_by_empty_words_and_its_group_is_the_users() {
        assert_eq!(
            ImageSays::from(ImageDefaults::default()),
            ImageSays { env: BTreeMap::new(), workdir: None, user: None }
        );
        let config = ImageDefaults { user: "1000:1000".to_owned(), ..ImageDefaults::default() };
        assert_eq!(ImageSays::from(config).user.as_deref(), Some("1000"));
    }
}
