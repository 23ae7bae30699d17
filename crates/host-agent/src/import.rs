//! Templates of images that others made: fetched from a registry or uploaded, laid out as a disk, booted once and kept.
//!
//! One import of a template at a time, and few at once. Until the template is published all that an import has is in the store's session
//! (draft, folder, archive), or a machine without a record: what a killed agent leaves of either is reclaimed at the next start. Layers
//! that were fetched stay in the cache, which is bounded.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt as _;
use sandbar_oci::{
    Cache, Credentials, FetchLimits, Fetched, Image, ImageError, Reference, Registries, Registry, RunConfig,
    open_archive,
};
use sandbar_proto::host::{self, ImportImageRequest, ImportImageResponse, import_image_request};
use sandbar_storage::{Import, Store, StoreError, Template};
use sandbar_trace::FutureExt as _;
use sandbar_types::id::{self, Id};
use sandbar_types::{Arch, limits};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::resources::{Resources, blocking};
use crate::template::{self, Making, WarmUp, cancelled, check_size};
use crate::wire::{describe_template, parse};

use host::import_image_response::{Done, Progress, Response};
use import_image_request::{Request, Start};

/// Imports that work at the same time; others wait.
const AT_ONCE: usize = 2;
/// How often the caller is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Messages on their way to the caller. One that does not read is told less.
const MESSAGES_IN_FLIGHT: usize = 16;
/// An archive has its layers compressed or not, and may hold other images too.
const ARCHIVE_SHARE: u64 = 2;

type Replies = mpsc::Sender<Result<ImportImageResponse, ConnectError>>;

/// What imports share. One for the agent's life.
#[derive(Debug)]
pub(crate) struct Imports {
    cache: Cache,
    registries: Registries,
    turns: Semaphore,
    under_way: Mutex<HashSet<Id<id::Template>>>,
}

impl Imports {
    pub(crate) fn new(cache: Cache, registries: Registries) -> Self {
        Self { cache, registries, turns: Semaphore::new(AT_ONCE), under_way: Mutex::default() }
    }

    /// Lets one import of a template begin.
    fn begin(&self, template: Id<id::Template>) -> Result<UnderWay<'_>, Error> {
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(template) {
            return Err(Error::Busy(format!("template {template} is being imported")));
        }
        Ok(UnderWay { imports: self, template })
    }
}

/// An import that has begun and not ended.
struct UnderWay<'a> {
    imports: &'a Imports,
    template: Id<id::Template>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.imports.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.template);
    }
}

/// What is asked for, seen to be possible.
struct Order {
    template: Id<id::Template>,
    /// None: an archive follows.
    registry: Option<(Reference, Registry)>,
    vcpus: u32,
    memory_mb: u32,
    disk_bytes: u64,
}

impl Order {
    fn read(start: Start, registries: &Registries) -> Result<Self, Error> {
        let Start { template_id, reference, credentials, vcpus, memory_mb, disk_mb, .. } = start;
        let template = parse(&template_id)?;
        check_size(vcpus, memory_mb)?;
        if !limits::DISK_MB.contains(&disk_mb) {
            let possible = limits::DISK_MB;
            return Err(Error::BadInput(format!(
                "{disk_mb} MiB is no size of a disk: {possible:?} are possible"
            )));
        }
        let credentials = credentials.into_option().map(|credentials| Credentials {
            username: credentials.username.clone(),
            password: credentials.password.clone().into(),
        });
        let registry = if reference.is_empty() {
            None
        } else {
            let reference: Reference = reference.parse().map_err(|error: sandbar_oci::ReferenceError| {
                Error::BadInput(format!("{reference:?} names no image: {error}"))
            })?;
            let registry = Registry::new(&reference, credentials, registries)?;
            Some((reference, registry))
        };
        Ok(Self { template, registry, vcpus, memory_mb, disk_bytes: u64::from(disk_mb) << 20 })
    }
}

/// Begins an import. It ends by itself when nobody listens to the replies any more.
pub(crate) fn start(
    resources: Arc<Resources>,
    start: Start,
    requests: InboundStream<ImportImageRequest>,
) -> Result<mpsc::Receiver<Result<ImportImageResponse, ConnectError>>, Error> {
    let order = Order::read(start, &resources.imports.registries)?;
    let (replies, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
    let course = async move {
        let stop = CancellationToken::new();
        let work = import(&resources, order, requests, &replies, &stop);
        tokio::pin!(work);
        let ended = tokio::select! {
            ended = &mut work => ended,
            () = replies.closed() => {
                // What it is at may have a machine: it ends itself.
                stop.cancel();
                work.await
            }
        };
        let answer = ended.map(|template| done(&template)).map_err(ConnectError::from);
        // Gone, if it was cancelled.
        let _ = replies.send(answer).await;
    };
    tokio::spawn(course.with_current_context());
    Ok(receiver)
}

async fn import(
    resources: &Resources,
    order: Order,
    requests: InboundStream<ImportImageRequest>,
    replies: &Replies,
    stop: &CancellationToken,
) -> Result<Template, Error> {
    let _under_way = resources.imports.begin(order.template)?;
    let (store, id) = (resources.store.clone(), order.template);
    let there = blocking("read the template", move || match store.template(id) {
        Ok(template) => Ok(Some(template)),
        Err(StoreError::UnknownTemplate { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    });
    if let Some(there) = there.await? {
        return Ok(there);
    }
    let teller = Arc::new(Teller::new(replies.clone()));
    let prepared = async {
        teller.say("waiting for other imports");
        let _turn = resources.imports.turns.acquire().await.map_err(Error::internal("wait for a turn"))?;
        prepare(resources, &order, requests, &teller, stop).await
    };
    let (disk, config) = tokio::select! {
        prepared = prepared => prepared?,
        // Files that are being made notice it by themselves, and take with them what they made.
        () = stop.cancelled() => return Err(cancelled()),
    };
    teller.say("booting the image");
    let making = Making {
        id: order.template,
        vcpus: order.vcpus,
        memory_mb: order.memory_mb,
        warm_up: WarmUp::Foreign(disk.shell),
        image_config: Some(config),
        cancelled: stop.clone(),
    };
    template::boot_and_keep(resources, making, disk.draft).await
}

/// From the order to a disk that can be booted, and the image's configuration as it is kept.
async fn prepare(
    resources: &Resources,
    order: &Order,
    requests: InboundStream<ImportImageRequest>,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<(sandbar_storage::ImportedDisk, serde_json::Value), Error> {
    let (store, id, size) = (resources.store.clone(), order.template, order.disk_bytes);
    let import = blocking("begin the import", move || Ok(store.begin_import(id, size)?)).await?;
    let (import, image) = match &order.registry {
        Some((reference, registry)) => {
            let image = fetch(resources, reference, registry, import.bounds().bytes, teller).await?;
            (import, image)
        }
        None => upload(resources, import, requests, teller, stop).await?,
    };
    let config = serde_json::to_value(KeptConfig::from(&image.config))
        .map_err(Error::internal("describe the image's configuration"))?;
    teller.say("unpacking the layers");
    // What is laid out, and the disk that it is copied into.
    let wanted = image.packed_bytes().saturating_mul(2).min(size.saturating_mul(2));
    let (store, teller, stop) = (resources.store.clone(), Arc::clone(teller), stop.clone());
    let disk = blocking("make the image's disk", move || {
        store.require_space(wanted)?;
        let watch = |bytes: u64| {
            teller.tell("unpacking the layers", bytes, 0);
            go_on(&store, &stop)
        };
        Ok(import.make_disk(&image, &watch)?)
    });
    Ok((disk.await?, config))
}

/// Whether work on files should: somebody wants it, and the store's reserve is whole.
fn go_on(store: &Store, stop: &CancellationToken) -> Result<(), ImageError> {
    let refused =
        if stop.is_cancelled() { Some(cancelled()) } else { store.require_space(0).err().map(Error::from) };
    refused.map_or(Ok(()), |error| Err(ImageError::Stopped(Box::new(error))))
}

async fn fetch(
    resources: &Resources,
    reference: &Reference,
    registry: &Registry,
    limit: u64,
    teller: &Arc<Teller>,
) -> Result<Image, Error> {
    let message = format!("fetching {reference}");
    teller.say(&message);
    tracing::info!(image = %reference, "importing");
    let store = resources.store.clone();
    let progress = |Fetched { done, total }: Fetched| {
        if teller.tell(&message, done, total) == Told::Now {
            let left = total.saturating_sub(done);
            store.require_space(left).map_err(|error| ImageError::Stopped(Box::new(Error::from(error))))?;
        }
        Ok(())
    };
    let fetched =
        registry.fetch(&resources.imports.cache, Arch::host(), FetchLimits { bytes: limit }, &progress);
    Ok(fetched.await?)
}

/// Takes an archive, and finds the image in it.
async fn upload(
    resources: &Resources,
    import: Import,
    mut requests: InboundStream<ImportImageRequest>,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<(Import, Image), Error> {
    let path: PathBuf = import.archive();
    let limit = import.bounds().bytes.saturating_mul(ARCHIVE_SHARE);
    let failed = || Error::internal("keep the archive");
    let mut file = tokio::fs::File::create_new(&path).await.map_err(failed())?;
    let mut bytes = 0;
    loop {
        let request = requests.next().await.transpose();
        let request = request.map_err(|error| Error::BadInput(format!("the upload broke off: {error}")))?;
        match request.and_then(|request| request.to_owned_message().request) {
            Some(Request::Chunk(chunk)) => {
                bytes += chunk.len() as u64;
                if bytes > limit {
                    let most = limit >> 20;
                    return Err(ImageError::TooLarge(format!(
                        "for such a disk an archive may have {most} MiB"
                    ))
                    .into());
                }
                file.write_all(&chunk).await.map_err(failed())?;
                if teller.tell("receiving the archive", bytes, 0) == Told::Now {
                    let store = resources.store.clone();
                    blocking("look at the store", move || Ok(store.require_space(0)?)).await?;
                }
            }
            Some(Request::End(true)) => break,
            Some(Request::Start(_) | Request::End(false)) => {
                return Err(Error::BadInput(
                    "only chunks and the end may follow the beginning of an import".into(),
                ));
            }
            None => return Err(Error::BadInput("the upload broke off".into())),
        }
    }
    file.flush().await.map_err(failed())?;
    teller.say("reading the archive");
    let (store, stop) = (resources.store.clone(), stop.clone());
    blocking("read the archive", move || {
        let watch = |_: u64| go_on(&store, &stop);
        let image = open_archive(&path, import.scratch(), limit, Arch::host(), &watch)?;
        Ok((import, image))
    })
    .await
}

/// An image's configuration, as a template keeps it.
#[derive(serde::Serialize, serde::Deserialize)]
struct KeptConfig {
    env: Vec<(String, String)>,
    user: String,
    workdir: String,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
}

impl From<&RunConfig> for KeptConfig {
    fn from(config: &RunConfig) -> Self {
        let RunConfig { env, user, workdir, entrypoint, cmd } = config.clone();
        Self { env, user, workdir, entrypoint, cmd }
    }
}

fn done(template: &Template) -> ImportImageResponse {
    // One that was made otherwise says nothing.
    let kept = template.manifest.spec.image_config.clone();
    let kept = kept.and_then(|config| serde_json::from_value(config).ok());
    let config = kept.map(|KeptConfig { env, user, workdir, entrypoint, cmd }| host::ImageConfig {
        env: env
            .into_iter()
            .map(|(name, value)| host::image_config::Variable { name, value, ..Default::default() })
            .collect(),
        user,
        workdir,
        entrypoint,
        cmd,
        ..Default::default()
    });
    reply(Response::from(Done {
        template: describe_template(template).into(),
        config: config.unwrap_or_default().into(),
        ..Default::default()
    }))
}

fn reply(response: Response) -> ImportImageResponse {
    ImportImageResponse { response: Some(response), ..Default::default() }
}

/// Whether the caller was told just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Now,
    Lately,
}

/// Tells the caller how far it is, but not all the time.
struct Teller {
    replies: Replies,
    last: Mutex<Option<Instant>>,
}

impl Teller {
    const fn new(replies: Replies) -> Self {
        Self { replies, last: Mutex::new(None) }
    }

    /// What begins now. Told in any case, if the caller reads.
    fn say(&self, message: &str) {
        self.send(message, 0, 0);
    }

    fn tell(&self, message: &str, bytes_done: u64, bytes_total: u64) -> Told {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if last.is_some_and(|last| now.duration_since(last) < TELL_EVERY) {
                return Told::Lately;
            }
            *last = Some(now);
        }
        self.send(message, bytes_done, bytes_total);
        Told::Now
    }

    fn send(&self, message: &str, bytes_done: u64, bytes_total: u64) {
        let progress =
            Progress { message: message.to_owned(), bytes_done, bytes_total, ..Default::default() };
        // Whoever does not read misses a step, and hears of the next.
        let _ = self.replies.try_send(Ok(reply(Response::from(progress))));
    }
}
