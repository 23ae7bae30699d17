//! A volume's connection into the guest that has it, kept for as long as the guest's machine runs.
//!
//! The host connects, to the guest's agent, which makes the connection its kernel's; the kernel then asks and this host answers ([`nbd`](super::nbd)). When the
//! connection breaks, or another agent takes the machine over, it is made anew, and the kernel asks again for what was not answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbar_types::guest::AGENT_PORT;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Mount;
use super::nbd::{self, Disk};
use crate::error::{Error, chain};
use crate::guest::{CONNECT_TIMEOUT, GuestClient};
use crate::resources::{Resources, blocking};
use crate::tunnel;

/// How long a guest may take to mount a volume whose connection it has: a journal may have to be played.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// How long after a connection broke the next one is tried, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const ERROR_TEXT_BYTES: usize = 4096;

/// All connections of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Links(Vec<Link>);

impl Links {
    /// Connects a sandbox's volumes and has them mounted, in their order.
    pub(crate) async fn open(
        &mut self,
        resources: &Resources,
        mounts: &[Mount],
        guest: &GuestClient,
    ) -> Result<(), Error> {
        for (device, mount) in mounts.iter().enumerate() {
            let volume = Attached::find(resources, device, mount, guest).await?;
            self.0.push(Link::open(volume).await?);
        }
        Ok(())
    }

    /// Goes on with the volumes of a guest that another agent had connected.
    pub(crate) async fn take_over(
        &mut self,
        resources: &Resources,
        mounts: &[Mount],
        guest: &GuestClient,
    ) -> Result<(), Error> {
        for (device, mount) in mounts.iter().enumerate() {
            let volume = Attached::find(resources, device, mount, guest).await?;
            self.0.push(Link::start(volume, None));
        }
        Ok(())
    }

    /// Ends them; nothing of them reads or writes when this returns.
    pub(crate) async fn close(&mut self) {
        for link in self.0.drain(..) {
            link.close().await;
        }
    }
}

/// What one connection after another is for.
#[derive(Debug, Clone)]
struct Attached {
    device: usize,
    mount: Mount,
    disk: Disk,
    guest: GuestClient,
}

/// A volume that is connected. Dropped, it is not any more.
#[derive(Debug)]
pub(crate) struct Link {
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Link {
    async fn open(volume: Attached) -> Result<Self, Error> {
        let stream = volume.connect().await?;
        let guest = volume.clone();
        let link = Self::start(volume, Some(stream));
        match guest.mount().await {
            Ok(()) => Ok(link),
            Err(error) => {
                link.close().await;
                Err(error)
            }
        }
    }

    fn start(volume: Attached, first: Option<Upgraded>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let jobs = TaskTracker::new();
            stopped.run_until_cancelled(volume.keep(first, &jobs)).await;
            jobs.close();
            jobs.wait().await;
        });
        Self { stop: stop.drop_guard(), task }
    }

    async fn close(self) {
        let Self { stop, task } = self;
        drop(stop);
        let _ended = task.await;
    }
}

impl Attached {
    async fn find(
        resources: &Resources,
        device: usize,
        mount: &Mount,
        guest: &GuestClient,
    ) -> Result<Self, Error> {
        let (store, id) = (resources.store.clone(), mount.volume);
        let (file, size) = blocking("open the volume", move || Ok(store.open_volume(id)?)).await?;
        let disk = Disk { file: Arc::new(file), size };
        Ok(Self { device, mount: mount.clone(), disk, guest: guest.clone() })
    }

    /// Serves the guest for ever, on one connection after another.
    async fn keep(&self, first: Option<Upgraded>, jobs: &TaskTracker) {
        if let Some(stream) = first {
            self.serve(stream, jobs).await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect().await {
                Ok(stream) => {
                    tracing::info!(volume = %self.mount.volume, "connected again");
                    let mounted = async {
                        match self.mount().await {
                            Ok(()) => {}
                            Err(error) => {
                                let volume = self.mount.volume;
                                tracing::warn!(%volume, error = chain(&error), "the guest does not go on with it");
                                return;
                            }
                        }
                        // The other half says when the connection ends.
                        std::future::pending::<()>().await;
                    };
                    let begun = tokio::time::Instant::now();
                    tokio::select! {
                        () = self.serve(stream, jobs) => {}
                        () = mounted => {}
                    }
                    if begun.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                }
                Err(error) => {
                    tracing::debug!(volume = %self.mount.volume, error = chain(&error), "not connected");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn serve(&self, stream: Upgraded, jobs: &TaskTracker) {
        let volume = self.mount.volume;
        match nbd::serve(TokioIo::new(stream), &self.disk, jobs).await {
            Ok(()) => tracing::info!(%volume, "its guest ended the connection"),
            Err(error) => tracing::warn!(%volume, error = chain(&error), "its connection ended"),
        }
        // What comes on the next one must not be overtaken by what came on this one.
        jobs.close();
        jobs.wait().await;
        jobs.reopen();
    }

    /// A connection that is the guest's kernel's.
    async fn connect(&self) -> Result<Upgraded, Error> {
        let failed = |error: hyper::Error| Error::GuestUnreachable(chain(&error));
        let asked = async {
            let stream = tunnel::connect(&self.guest, AGENT_PORT).await?;
            let (mut sender, connection) =
                http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(failed)?;
            tokio::spawn(connection.with_upgrades());
            let (token_header, token) = self.guest.credential();
            let request =
                Request::get(format!("/volumes/connect?device={}&size={}", self.device, self.disk.size))
                    .header(HOST, "guest")
                    .header(token_header, token)
                    .header(CONNECTION, "upgrade")
                    .header(UPGRADE, "nbd")
                    .body(Empty::new())
                    .map_err(Error::internal("ask for a volume's connection"))?;
            let response = sender.send_request(request).await.map_err(failed)?;
            match response.status() {
                StatusCode::SWITCHING_PROTOCOLS => hyper::upgrade::on(response).await.map_err(failed),
                // What older agents say of the route, and newer ones of an older kernel.
                StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                    let refusal = "its template was made before volumes: build it again";
                    Err(Error::Incompatible(refusal.into()))
                }
                status => {
                    let body = Limited::new(response.into_body(), ERROR_TEXT_BYTES).collect().await;
                    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
                    let text = text.unwrap_or_default();
                    Err(Error::GuestUnreachable(format!("/volumes/connect: {status}: {text}")))
                }
            }
        };
        let late = |_| Error::Timeout("the guest agent did not answer in time".into());
        timeout(2 * CONNECT_TIMEOUT, asked).await.map_err(late)?
    }

    /// Has the guest mount what it is connected to, if it has not.
    async fn mount(&self) -> Result<(), Error> {
        let body = serde_json::json!({ "device": self.device, "path": self.mount.path });
        self.guest.command("/volumes/mount", &body, MOUNT_LIMIT).await
    }
}
