//! One task for all sandboxes: every half second it asks the kernel what each VMM has used.
//!
//! The files in `/proc` stay open and are read into one buffer, so a sample costs two reads and no memory. Disks are asked for seldom:
//! the answer walks the file's extents.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandbar_types::id::{Id, Sandbox};
use sandbar_vmm::ProcessIdentity;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Point, figures};
use crate::registry::Registry;
use crate::resources::Resources;
use crate::sandbox::activity::now_unix_ms;

const EVERY: Duration = Duration::from_millis(500);
const DISK_EVERY: Duration = Duration::from_secs(15);
/// The unit of processor time in `/proc`, the same on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Longer than any of the two files of a process.
const PROC_BYTES: usize = 4096;

/// Samples until `shutdown`.
pub(crate) async fn run(registry: Registry, resources: Arc<Resources>, shutdown: CancellationToken) {
    let mut probes: HashMap<Id<Sandbox>, Probe> = HashMap::new();
    let mut ticks = interval(EVERY);
    // After a stop of the whole machine one sample is due, not hundreds.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut counted: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if counted.is_none_or(|counted| counted.elapsed() >= figures::EVERY) {
            counted = Some(Instant::now());
            figures::record(&registry, &resources);
        }
        let running = registry.running();
        let store = resources.store.clone();
        let sampled = tokio::task::spawn_blocking(move || {
            probes.retain(|id, probe| {
                running.iter().any(|(other, process, _)| other == id && probe.process == *process)
            });
            for (id, process, figures) in running {
                let probe = match probes.entry(id) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(new) => {
                        // It may have ended by now: then there is nothing to sample.
                        let Ok(probe) = Probe::of(process, store.sandbox_files(id).disk) else { continue };
                        new.insert(probe)
                    }
                };
                if let Some(point) = probe.sample() {
                    figures.push(point);
                }
            }
            probes
        });
        match sampled.await {
            Ok(back) => probes = back,
            Err(error) => {
                tracing::error!(%error, "a round of samples failed");
                probes = HashMap::new();
            }
        }
    }
}

/// One VMM's files.
struct Probe {
    process: ProcessIdentity,
    stat: File,
    status: File,
    disk: PathBuf,
    disk_bytes: u64,
    disk_asked: Option<Instant>,
    last: Option<(Instant, u64)>,
}

impl Probe {
    fn of(process: ProcessIdentity, disk: PathBuf) -> std::io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/{}/{name}", process.pid));
        let (stat, status) = (open("stat")?, open("status")?);
        Ok(Self { process, stat, status, disk, disk_bytes: 0, disk_asked: None, last: None })
    }

    /// What was used since the last sample. Nothing the first time: a machine that was just restored has no "since".
    fn sample(&mut self) -> Option<Point> {
        let mut buffer = [0; PROC_BYTES];
        let now = Instant::now();
        let ticks = cpu_ticks(read(&self.stat, &mut buffer)?)?;
        let mem_bytes = resident_bytes(read(&self.status, &mut buffer)?)?;
        if self.disk_asked.is_none_or(|asked| now.duration_since(asked) >= DISK_EVERY) {
            self.disk_asked = Some(now);
            self.disk_bytes = sandbar_storage::own_bytes(&self.disk).unwrap_or(self.disk_bytes);
        }
        let (before, ticks_before) = self.last.replace((now, ticks))?;
        let seconds = now.duration_since(before).as_secs_f64();
        let used = f64::from(u32::try_from(ticks.saturating_sub(ticks_before)).unwrap_or(u32::MAX));
        Some(Point {
            unix_ms: now_unix_ms(),
            cpu_pct: used / TICKS_PER_SECOND / seconds.max(f64::MIN_POSITIVE) * 100.0,
            mem_bytes,
            disk_bytes: self.disk_bytes,
        })
    }
}

/// A file of a process that has ended cannot be read.
fn read<'a>(file: &File, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = file.read_at(buffer, 0).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

/// User and system time of `/proc/PID/stat`, fields 14 and 15, of all threads. The name before them may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(14 - 3);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// `VmRSS` of `/proc/PID/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 777 1 2 3";
        for name in ["(qemu)", "(a b)", "(a) R 9 (b)"] {
            assert_eq!(cpu_ticks(&format!("12 {name} {rest}")), Some(300), "{name}");
        }
        assert_eq!(cpu_ticks("12 (qemu) S 1"), None);
        let status = "Name:\tqemu\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(resident_bytes(status), Some(1 << 20));
        assert_eq!(resident_bytes("Name:\tzombie\n"), None);
    }

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let process = ProcessIdentity { pid: i32::try_from(std::process::id()).unwrap(), start_time: 0 };
        let mut probe = Probe::of(process, disk.path().to_owned()).unwrap();
        // Before the first sample: what is measured is then never longer than this.
        let begun = Instant::now();
        assert_eq!(probe.sample(), None, "there is no time before the first sample");
        let mut turns = 0_u64;
        let point = loop {
            // Until the process has had a fifth of a second of a processor, however long that takes on a loaded machine.
            for _ in 0..1_000_000 {
                turns = std::hint::black_box(turns + 1);
            }
            if cpu_ticks(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap()
                >= probe.last.unwrap().1 + 20
            {
                break probe.sample().unwrap();
            }
        };
        let at_least = 0.2 / begun.elapsed().as_secs_f64() * 100.0;
        assert!(point.cpu_pct >= at_least * 0.9, "{point:?}, {at_least}");
        assert!(point.mem_bytes > 1 << 20, "{point:?}");
    }
}
