//! Volumes: disks of the host that the guest's kernel mounts, over connections that the host makes (its own routes, `auth`).
//!
//! `GET /volumes/connect?device=N&size=BYTES` with `Upgrade: nbd` is answered by 101, and the connection becomes the kernel's ([`nbd`]): the host
//! speaks the transmission phase of NBD on it, and no process of the guest has a part in it. A device that had a connection before gets
//! this one in its place, and what was asked for on the old one is asked again. `POST /volumes/mount` then waits until that is done, and mounts what
//! is not mounted yet. 501: the machine's kernel has no such devices.

mod mount;
mod nbd;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, Request, State as Extract};
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use sandbar_types::limits::SANDBOX_VOLUMES;
use serde::Deserialize;
use tokio::sync::watch;

use self::nbd::Device;
use crate::connections::Connection;
use crate::error::ApiError;
use crate::server::Agent;

const PROTOCOL: &str = "nbd";
/// How long a connection may take to become the kernel's before whoever waits to mount gives up.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The devices.
pub(crate) struct Volumes {
    links: watch::Sender<[Link; SANDBOX_VOLUMES]>,
    devices: [Arc<Mutex<Device>>; SANDBOX_VOLUMES],
}

/// How far a device's last connection has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Link {
    #[default]
    None,
    Connecting,
    Connected,
    Failed(String),
}

impl Default for Volumes {
    fn default() -> Self {
        let devices = std::array::from_fn(|index| {
            Arc::new(Mutex::new(Device::new(u32::try_from(index).unwrap_or(u32::MAX))))
        });
        Self { links: watch::Sender::default(), devices }
    }
}

impl Volumes {
    fn show(&self, device: usize, link: Link) {
        self.links.send_modify(|links| links[device] = link);
    }
}

/// What the host connects.
#[derive(Debug, Deserialize)]
pub(crate) struct Connect {
    device: usize,
    size: u64,
}

/// What it wants mounted.
#[derive(Debug, Deserialize)]
pub(crate) struct Mount {
    device: usize,
    path: PathBuf,
}

/// Handles `/volumes/connect`.
pub(crate) async fn handle_connect(
    Extract(agent): Extract<Arc<Agent>>,
    target: Result<Query<Connect>, QueryRejection>,
    request: Request,
) -> Response {
    match connect(&agent, target, request) {
        Ok(()) => {
            let headers = [
                (CONNECTION, HeaderValue::from_static("upgrade")),
                (UPGRADE, HeaderValue::from_static(PROTOCOL)),
            ];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        Err(error) => error.into_response(),
    }
}

fn connect(
    agent: &Arc<Agent>,
    target: Result<Query<Connect>, QueryRejection>,
    mut request: Request,
) -> Result<(), ApiError> {
    let Query(Connect { device, size }) = target.map_err(|error| ApiError::bad_request(error.body_text()))?;
    check(device)?;
    let asked = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked).ok_or_else(|| {
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "this takes a request with Upgrade: nbd")
    })?;
    agent.volumes.show(device, Link::Connecting);
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let link = match hand_over(&agent, device, size, upgrade).await {
            Ok(()) => Link::Connected,
            Err(error) => {
                tracing::warn!(device, error, "a volume is not connected");
                Link::Failed(error)
            }
        };
        agent.volumes.show(device, link);
    });
    Ok(())
}

fn check(device: usize) -> Result<(), ApiError> {
    if device >= SANDBOX_VOLUMES {
        return Err(ApiError::bad_request("there is no such device"));
    }
    if !nbd::path(device).exists() {
        let missing = "this machine's kernel has no network block devices";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, missing));
    }
    Ok(())
}

/// Makes the connection the kernel's.
async fn hand_over(agent: &Agent, device: usize, size: u64, upgraded: OnUpgrade) -> Result<(), String> {
    let upgraded = upgraded.await.map_err(|error| error.to_string())?;
    let parts = upgrade::downcast::<TokioIo<Connection>>(upgraded)
        .map_err(|_| "it is no connection of this server".to_owned())?;
    if !parts.read_buf.is_empty() {
        return Err("the host spoke first".to_owned());
    }
    let stream = parts.io.into_inner().into_stream().into_std().map_err(|error| error.to_string())?;
    let (socket, device) = (OwnedFd::from(stream), Arc::clone(&agent.volumes.devices[device]));
    let handed = tokio::task::spawn_blocking(move || {
        // A panic while it is locked leaves a connection that is replaced by the next one.
        device.lock().unwrap_or_else(PoisonError::into_inner).take(socket, size)
    });
    handed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Handles `/volumes/mount`.
pub(crate) async fn handle_mount(
    Extract(agent): Extract<Arc<Agent>>,
    body: Result<Json<Mount>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(Mount { device, path }) = body.map_err(|error| ApiError::bad_request(error.body_text()))?;
    check(device)?;
    if !path.is_absolute() || path == Path::new("/") {
        return Err(ApiError::bad_request("a volume is mounted at an absolute path"));
    }
    let mut links = agent.volumes.links.subscribe();
    let settled = links.wait_for(|links| links[device] != Link::Connecting);
    let link = match tokio::time::timeout(CONNECT_LIMIT, settled).await {
        Ok(Ok(links)) => links[device].clone(),
        Ok(Err(_)) | Err(_) => Link::Failed("it takes too long".into()),
    };
    match link {
        Link::Connected => {}
        Link::None | Link::Connecting => return Err(ApiError::bad_request("nothing is connected")),
        Link::Failed(error) => {
            return Err(ApiError::internal(format!("the volume is not connected: {error}")));
        }
    }
    let mounted = tokio::task::spawn_blocking(move || mount::mount(&nbd::path(device), &path));
    let mounted = mounted.await.map_err(|error| ApiError::internal(error.to_string()))?;
    mounted.map_err(|error| ApiError::internal(format!("the volume cannot be mounted: {error}")))?;
    Ok(StatusCode::NO_CONTENT)
}
