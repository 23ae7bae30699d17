//! What `/init` and `/snapshot/prepare` do to the machine. Behind a trait, so that the order and their failures can be tested
//! where the machine must stay as it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_settime};

/// What the host may have changed.
pub trait System: Send + Sync {
    /// Sets the wall clock, in nanoseconds since 1970.
    ///
    /// # Errors
    /// As the kernel says.
    fn set_clock(&self, unix_nanos: u64) -> io::Result<()>;

    /// Adds random bytes to the kernel's pool, credits them, and makes the kernel's generator take them up at once.
    ///
    /// # Errors
    /// As the kernel says.
    fn add_entropy(&self, seed: &[u8]) -> io::Result<()>;

    /// Names the machine, and makes that name resolve.
    ///
    /// # Errors
    /// As the kernel or the filesystem says.
    fn set_hostname(&self, name: &str) -> io::Result<()>;

    /// Brings everything that was written to disk; returns once it is there.
    ///
    /// # Errors
    /// If the root filesystem could not be written.
    fn flush(&self) -> io::Result<()>;
}

/// The machine that this process runs on.
pub struct ThisMachine;

impl System for ThisMachine {
    fn set_clock(&self, unix_nanos: u64) -> io::Result<()> {
        const NANOS: u64 = 1_000_000_000;
        let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let time = Timespec {
            tv_sec: i64::try_from(unix_nanos / NANOS).map_err(out_of_range)?,
            tv_nsec: i64::try_from(unix_nanos % NANOS).map_err(out_of_range)?,
        };
        Ok(clock_settime(ClockId::Realtime, time)?)
    }

    fn add_entropy(&self, seed: &[u8]) -> io::Result<()> {
        let random = OpenOptions::new().write(true).open("/dev/random")?;
        credit(&random, seed)?;
        reseed(&random)
    }

    fn set_hostname(&self, name: &str) -> io::Result<()> {
        rustix::system::sethostname(name.as_bytes())?;
        fs::write("/etc/hostname", format!("{name}\n"))?;
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let renamed = with_hostname(&hosts, name);
        if renamed == hosts {
            return Ok(());
        }
        replace(Path::new("/etc/hosts"), &renamed)
    }

    fn flush(&self) -> io::Result<()> {
        // `sync` covers every filesystem and reports nothing; `syncfs` reports what went wrong since the folder was opened.
        let root = File::open("/")?;
        rustix::fs::sync();
        Ok(rustix::fs::syncfs(&root)?)
    }
}

/// A machine that must stay as it is: every step succeeds and does nothing.
pub struct Untouched;

impl System for Untouched {
    fn set_clock(&self, _unix_nanos: u64) -> io::Result<()> {
        Ok(())
    }

    fn add_entropy(&self, _seed: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn set_hostname(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes this process the last that the guest gives up when memory is short, and lets it answer while others keep every
/// CPU busy. Processes that it starts go back to normal.
pub fn outlive_everything() {
    const NICE: i32 = -5;
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::warn!(%error, "cannot protect the agent from the OOM killer");
    }
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "cannot raise the agent's priority");
    }
}

/// Keeps what this process inherited, or opened carelessly, from whatever it starts.
///
/// # Errors
/// As the kernel says (it must be 5.11 or newer).
pub fn keep_descriptors_from_children() -> io::Result<()> {
    const FIRST_AFTER_STANDARD: libc::c_uint = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: no pointers, and nothing is closed now: descriptors are only marked to be closed by exec.
    let outcome = unsafe { libc::close_range(FIRST_AFTER_STANDARD, libc::c_uint::MAX, flags) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// From `linux/random.h`; libc does not have them.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

fn credit(random: &File, seed: &[u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // struct rand_pool_info: the credit in bits, the size in bytes, the bytes.
    let length = i32::try_from(seed.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut info = Vec::with_capacity(8 + seed.len());
    info.extend_from_slice(&length.saturating_mul(8).to_ne_bytes());
    info.extend_from_slice(&length.to_ne_bytes());
    info.extend_from_slice(seed);
    // SAFETY: the argument points to a rand_pool_info whose size field says how many bytes follow it, and the kernel only
    // reads them.
    let outcome = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, info.as_ptr()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn reseed(random: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // SAFETY: this request takes no argument.
    let outcome = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The address that Debian gives a machine's own name: without such a line `sudo` waits for a name server.
const OWN_ADDRESS: &str = "127.0.1.1";

fn with_hostname(hosts: &str, name: &str) -> String {
    let mut lines: Vec<String> = hosts
        .lines()
        .filter(|line| line.split_whitespace().next() != Some(OWN_ADDRESS))
        .map(str::to_owned)
        .collect();
    lines.push(format!("{OWN_ADDRESS}\t{name}"));
    lines.join("\n") + "\n"
}

fn replace(path: &Path, content: &str) -> io::Result<()> {
    let temporary = path.with_extension("sandbar");
    fs::write(&temporary, content)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_the_machine_once() {
        let first = with_hostname("127.0.0.1\tlocalhost\n", "one");
        assert_eq!(first, "127.0.0.1\tlocalhost\n127.0.1.1\tone\n");
        assert_eq!(with_hostname(&first, "two"), "127.0.0.1\tlocalhost\n127.0.1.1\ttwo\n");
        assert_eq!(with_hostname("", "one"), "127.0.1.1\tone\n");
    }

    /// More entropy harms no machine, so this step is tested for real; a kernel that refuses it would fail every restore.
    #[test]
    fn entropy_is_taken_by_the_kernel() {
        if rustix::process::geteuid().is_root() {
            ThisMachine.add_entropy(&[7; 64]).unwrap();
        }
    }
}
