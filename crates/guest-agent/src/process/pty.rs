//! A terminal's master side, read and written asynchronously.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Gid, OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) cols: u16,
    pub(crate) rows: u16,
}

impl From<Size> for Winsize {
    fn from(size: Size) -> Self {
        Self { ws_col: size.cols, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 }
    }
}

/// The master side of a terminal.
#[derive(Clone)]
pub(crate) struct Pty(Arc<AsyncFd<OwnedFd>>);

impl Pty {
    /// Opens a terminal of this size. The second value is the child's side, which belongs to `owner`.
    pub(crate) fn open(size: Size, owner: u32) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        // Not by its path: an image may have mounted anything over /dev/pts.
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        tcsetwinsize(&master, size.into())?;
        fchown(&slave, Some(Uid::from_raw(owner)), None::<Gid>)?;
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        // SAFETY: an OwnedFd names one open file for as long as it lives, and nothing takes it out of the AsyncFd.
        let master = unsafe { AsyncFd::register(master) }.map_err(|refused| refused.into_parts().1)?;
        Ok((Self(Arc::new(master)), slave))
    }

    /// Tells the programs on the terminal that it has another size.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        Ok(tcsetwinsize(self.0.get_ref().as_fd(), size.into())?)
    }

    /// Types.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                bytes = &bytes[written?..];
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, or the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads what there is. Nothing at the end.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
            // How Linux says that no process has the terminal open any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            read => read,
        }
    }
}
