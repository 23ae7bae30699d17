//! Work inside network namespaces, each on a thread of its own that ends with it.
//!
//! A thread that changed its namespace must never be a runtime's worker: whatever ran on it next would be in the wrong network.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
};

use rustix::{
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags},
};
use tokio::sync::oneshot;

use crate::{NetError, plan::NETNS_FOLDER};

/// Runs `work` on a new thread and waits for it. If this is dropped the work is finished all the same.
pub(crate) async fn on_own_thread<T, F>(work: F) -> Result<T, NetError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, NetError> + Send + 'static,
{
    let (done, outcome) = oneshot::channel();
    thread::Builder::new()
        .name("sandbar-netns".to_owned())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = done.send(work());
        })
        .map_err(NetError::system("start a thread"))?;
    outcome.await.unwrap_or(Err(NetError::ThreadLost))
}

/// Gives the calling thread a new namespace and pins it under the name.
pub(crate) fn create(path: &Path) -> Result<(), NetError> {
    let failed = |source: io::Error| NetError::System {
        action: format!("make the namespace {}", path.display()),
        source,
    };
    fs::create_dir_all(NETNS_FOLDER).map_err(failed)?;
    OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    // SAFETY: unsharing the network namespace changes nothing that Rust's rules are about: descriptors and memory stay shared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.map_err(|errno| failed(errno.into()))?;
    mount_bind("/proc/thread-self/ns/net", path).map_err(|errno| failed(errno.into()))
}

/// Moves the calling thread into a pinned namespace.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place, and only threads of `on_own_thread` call it"
)]
pub(crate) fn enter(path: &Path) -> Result<(), NetError> {
    let failed = |source: io::Error| NetError::System {
        action: format!("enter the namespace {}", path.display()),
        source,
    };
    let namespace = File::open(path).map_err(failed)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| failed(errno.into()))
}

/// Unpins a namespace; it goes when its last process is gone. Fine if it is not there, or was only half made.
pub(crate) fn remove(path: &Path) -> Result<(), NetError> {
    let failed = |source: io::Error| NetError::System {
        action: format!("remove the namespace {}", path.display()),
        source,
    };
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            // Again, until there is nothing mounted on it.
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            // Not a mount: the maker died before it pinned.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}
