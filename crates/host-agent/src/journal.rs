//! The journal: what this host knows of each of its sandboxes, on disk, one file a sandbox.
//!
//! The journal is right about what exists. A record is written once a sandbox runs and again after each change of state, each
//! time under a temporary name, synced and renamed, so that a reader finds the old record or the new one, whatever was
//! killed when. What exists without a record (a process, a namespace, a folder: of a sandbox in the making, or of a spare machine)
//! belongs to nobody and is reclaimed at start.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sandbar_hostnet::SlotIndex;
use sandbar_storage::TemplateSpec;
use sandbar_types::id::{Id, Sandbox, Template};
use sandbar_types::{NetworkPolicy, OnTimeout, PauseMode, TemplateKind, TimeoutFrom};
use sandbar_vmm::ProcessIdentity;
use serde::{Deserialize, Serialize};

use crate::surroundings::{CopyOf, Surroundings};
use crate::volumes::Mount;

/// The version of the record's form. A reader refuses others, by name.
const FORMAT: u32 = 2;

/// A sandbox's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) id: Id<Sandbox>,
    pub(crate) template_id: Id<Template>,
    #[serde(flatten)]
    pub(crate) phase: Phase,
    /// Grows with each write.
    pub(crate) generation: u64,
    /// The generation that the control plane's row had at the last resume that was carried out, or that none may be of any more.
    #[serde(default)]
    pub(crate) row_generation: u64,
    /// Its network, while it has one.
    pub(crate) slot: Option<SlotIndex>,
    /// Its machine, as it was started: what a snapshot of it says of itself. The virtual machine monitor that runs it may by now be
    /// another one than this agent would start.
    pub(crate) machine: TemplateSpec,
    /// The guest's credential. The file is readable by root alone.
    pub(crate) access_token: String,
    pub(crate) hostname: String,
    /// What its guest has to be told again where it boots. Records that are older say nothing of it.
    #[serde(default)]
    pub(crate) surroundings: Surroundings,
    pub(crate) deadline: Deadline,
    /// Where it may connect to.
    pub(crate) network: NetworkPolicy,
    /// The volumes that are its alone for as long as there is this record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<Mount>,
    pub(crate) created_at_unix_ms: i64,
}

/// When a sandbox ends by itself, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deadline {
    /// Seconds; 0 = never.
    pub(crate) timeout_sec: u32,
    pub(crate) on_timeout: OnTimeout,
    /// From when they count.
    #[serde(default = "from_activity")]
    pub(crate) from: TimeoutFrom,
    /// When the sandbox was made, resumed or given this time-out.
    #[serde(default)]
    pub(crate) since_unix_ms: i64,
}

/// What records say that are older than the choice.
const fn from_activity() -> TimeoutFrom {
    TimeoutFrom::Activity
}

impl Deadline {
    /// The same, counted from this moment on.
    #[must_use]
    pub(crate) const fn since(self, unix_ms: i64) -> Self {
        Self { since_unix_ms: unix_ms, ..self }
    }

    /// When it is up for a sandbox that was last used then; none = never.
    pub(crate) fn ends_at_unix_ms(self, last_active_unix_ms: i64) -> Option<i64> {
        let counted_from = match self.from {
            TimeoutFrom::Activity => last_active_unix_ms,
            TimeoutFrom::Start => self.since_unix_ms,
        };
        (self.timeout_sec > 0).then(|| counted_from + i64::from(self.timeout_sec) * 1000)
    }
}

/// How far a sandbox has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its virtual machine runs as this process. Found at start, it is adopted.
    Running {
        /// The VMM.
        process: ProcessIdentity,
    },
    /// It is being kept. Found at start, it is paused if the files of the pause are in place, and else it goes on as this process.
    Pausing {
        /// The VMM.
        process: ProcessIdentity,
        reason: PauseReason,
        #[serde(default = "full")]
        mode: PauseMode,
    },
    /// It is files, and holds nothing else.
    Paused {
        reason: PauseReason,
        #[serde(default = "full")]
        mode: PauseMode,
    },
    /// A machine is being restored from those files, or booted, and they are still there. Found at start, it is paused.
    Resuming {
        /// Why it was paused.
        reason: PauseReason,
        /// What was kept then.
        #[serde(default = "full")]
        mode: PauseMode,
    },
    /// Being ended. Found at start, the work is finished.
    Stopping,
    /// Its virtual machine ended by itself, and all that it held is freed. Kept until the control plane has taken note.
    Stopped {
        /// Why, for people.
        reason: String,
    },
}

/// What records say that are older than the choice.
const fn full() -> PauseMode {
    PauseMode::Full
}

impl Phase {
    /// What is kept of a sandbox that is paused, or was about to be.
    pub(crate) const fn mode(&self) -> Option<PauseMode> {
        match self {
            Self::Pausing { mode, .. } | Self::Paused { mode, .. } | Self::Resuming { mode, .. } => {
                Some(*mode)
            }
            Self::Running { .. } | Self::Stopping | Self::Stopped { .. } => None,
        }
    }

    /// Whether there is a sandbox that a VMM may still have to go on with.
    pub(crate) fn can_go_on(&self) -> bool {
        match self {
            Self::Running { .. } | Self::Pausing { .. } | Self::Paused { .. } | Self::Resuming { .. } => true,
            Self::Stopping | Self::Stopped { .. } => false,
        }
    }
}

/// Why a sandbox was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PauseReason {
    /// Somebody asked for it.
    Requested,
    /// Its idle time-out passed.
    Idle,
    /// Its host was refused by the control plane.
    HostRefused,
}

impl PauseReason {
    /// The word for it in RPCs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Idle => "idle",
            Self::HostRefused => "host_refused",
        }
    }
}

/// What the first record of a sandbox says.
#[derive(Debug, Clone)]
pub(crate) struct Birth {
    pub(crate) id: Id<Sandbox>,
    pub(crate) template_id: Id<Template>,
    pub(crate) slot: SlotIndex,
    pub(crate) machine: TemplateSpec,
    pub(crate) access_token: String,
    pub(crate) hostname: String,
    pub(crate) surroundings: Surroundings,
    pub(crate) deadline: Deadline,
    pub(crate) network: NetworkPolicy,
    pub(crate) volumes: Vec<Mount>,
    pub(crate) row_generation: u64,
    pub(crate) created_at_unix_ms: i64,
    pub(crate) process: ProcessIdentity,
}

impl Record {
    /// The first record of a sandbox: it runs.
    pub(crate) fn born(birth: Birth) -> Self {
        let Birth {
            id,
            template_id,
            slot,
            machine,
            access_token,
            hostname,
            surroundings,
            deadline,
            network,
            volumes,
            row_generation,
            created_at_unix_ms,
            process,
        } = birth;
        Self {
            format: FORMAT,
            id,
            template_id,
            phase: Phase::Running { process },
            generation: 1,
            row_generation,
            slot: Some(slot),
            machine,
            access_token,
            hostname,
            surroundings,
            deadline,
            network,
            volumes,
            created_at_unix_ms,
        }
    }

    /// The record of the next phase.
    #[must_use]
    pub(crate) fn advance(&self, phase: Phase) -> Self {
        Self { phase, generation: self.generation + 1, ..self.clone() }
    }

    /// The same with another network, or none.
    #[must_use]
    pub(crate) fn on_slot(self, slot: Option<SlotIndex>) -> Self {
        Self { slot, ..self }
    }

    /// The same on another machine.
    #[must_use]
    pub(crate) fn on_machine(self, machine: TemplateSpec) -> Self {
        Self { machine, ..self }
    }

    /// The same, once resumes of this generation of its row and of earlier ones are a thing of the past.
    #[must_use]
    pub(crate) fn past_resumes_of(self, row_generation: u64) -> Self {
        Self { row_generation: self.row_generation.max(row_generation), ..self }
    }

    /// The same with another deadline.
    #[must_use]
    pub(crate) fn with_deadline(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    /// The same with another network policy.
    #[must_use]
    pub(crate) fn with_network(self, network: NetworkPolicy) -> Self {
        Self { network, ..self }
    }

    /// What a copy says of the machine. One with memory: that this holds the sandbox's token, and what its guest was told.
    pub(crate) fn kept_spec(&self, mode: PauseMode, of: CopyOf) -> TemplateSpec {
        let (kind, guest_token, surroundings) = match mode {
            PauseMode::Full => {
                let surroundings = Some(self.surroundings.to_json(of));
                (TemplateKind::Snapshot, Some(self.access_token.clone()), surroundings)
            }
            // Of a template nobody needs to know what its source was told.
            PauseMode::Filesystem => {
                (TemplateKind::Base, None, (of == CopyOf::Sandbox).then(|| self.surroundings.to_json(of)))
            }
        };
        TemplateSpec { kind, guest_token, surroundings, ..self.machine.clone() }
    }
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A record cannot be understood.
    #[error("{path} is not a record of this version", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { action, path, source }
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens the journal, and removes what a write that was cut short left behind.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, JournalError> {
        std::fs::create_dir_all(&folder).map_err(io("cannot make", &folder))?;
        for entry in std::fs::read_dir(&folder).map_err(io("cannot list", &folder))? {
            let path = entry.map_err(io("cannot list", &folder))?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                std::fs::remove_file(&path).map_err(io("cannot remove", &path))?;
            }
        }
        Ok(Self { folder })
    }

    /// All records. One that cannot be read is set aside under the name `*.damaged` and logged: it must not keep the
    /// others from being adopted.
    pub(crate) fn read_all(&self) -> Result<Vec<Record>, JournalError> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(io("cannot list", &self.folder))? {
            let path = entry.map_err(io("cannot list", &self.folder))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(error = %error, path = %path.display(), "record set aside");
                    let aside = path.with_extension("damaged");
                    std::fs::rename(&path, &aside).map_err(io("cannot set aside", &path))?;
                }
            }
        }
        Ok(records)
    }

    /// Sandboxes whose records were set aside.
    pub(crate) fn set_aside(&self) -> Result<Vec<Id<Sandbox>>, JournalError> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(io("cannot list", &self.folder))? {
            let path = entry.map_err(io("cannot list", &self.folder))?.path();
            if path.extension().is_some_and(|e| e == "damaged") {
                let name = path.file_stem().and_then(|name| name.to_str());
                ids.extend(name.and_then(|name| name.parse::<Id<Sandbox>>().ok()));
            }
        }
        Ok(ids)
    }

    /// Writes a record: durable when this returns.
    pub(crate) fn write(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(record.id);
        write_atomically(
            &path,
            &serde_json::to_vec(record).expect("a record has no map with keys other than text"),
        )
    }

    /// Removes a record. None there is a success.
    pub(crate) fn remove(&self, id: Id<Sandbox>) -> Result<(), JournalError> {
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_folder(&self.folder),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("cannot remove", &path)(error)),
        }
    }

    fn path(&self, id: Id<Sandbox>) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Result<Record, JournalError> {
    let bytes = std::fs::read(path).map_err(io("cannot read", path))?;
    let damaged = |source| JournalError::Damaged { path: path.to_owned(), source };
    let record: Record = serde_json::from_slice(&bytes).map_err(damaged)?;
    if record.format == FORMAT {
        Ok(record)
    } else {
        Err(damaged(serde::de::Error::custom(format_args!("format {} is not {FORMAT}", record.format))))
    }
}

/// Writes a file readable by its owner alone, so that at any moment it has its old content or its new one.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), JournalError> {
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("cannot make", &temporary))?;
    file.write_all(content).map_err(io("cannot write", &temporary))?;
    file.sync_data().map_err(io("cannot sync", &temporary))?;
    std::fs::rename(&temporary, path).map_err(io("cannot put in place", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A rename or removal is durable once its folder is synced.
fn sync_folder(folder: &Path) -> Result<(), JournalError> {
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(io("cannot sync", folder))
}

#[cfg(test)]
mod tests {
    use sandbar_types::{Arch, VmmKind};

    use super::*;
    use crate::surroundings::Secrets;

    fn record() -> Record {
        Record::born(Birth {
            id: Id::new(),
            template_id: Id::new(),
            slot: SlotIndex(7),
            machine: TemplateSpec {
                kind: TemplateKind::Snapshot,
                vcpus: 1,
                memory_mb: 512,
                disk_mb: 4096,
                arch: Arch::X86_64,
                vmm: VmmKind::Qemu,
                compatibility: serde_json::json!({ "build": "10.0.2" }),
                kernel: "0123".into(),
                guest_token: Some("the template's".into()),
                image_config: None,
                surroundings: None,
            },
            access_token: "secret".into(),
            hostname: "sb".into(),
            surroundings: Surroundings {
                env: vec![("A".into(), "1".into())],
                secrets: [("B".into(), "hunter2".into())].into_iter().collect(),
                user: None,
                workdir: Some("/srv".into()),
            },
            deadline: Deadline {
                timeout_sec: 60,
                on_timeout: OnTimeout::Pause,
                from: TimeoutFrom::Start,
                since_unix_ms: 1,
            },
            network: NetworkPolicy { allow_internet: false, ..NetworkPolicy::default() },
            volumes: vec![Mount { volume: Id::new(), path: "/data".into() }],
            row_generation: 0,
            created_at_unix_ms: 1,
            process: ProcessIdentity { pid: 41, start_time: 4141 },
        })
    }

    fn running() -> Phase {
        Phase::Running { process: ProcessIdentity { pid: 42, start_time: 4242 } }
    }

    #[test]
    fn records_survive_a_reopen_and_a_later_one_replaces_the_earlier() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().join("journal")).unwrap();
        let first = record();
        journal.write(&first).unwrap();
        let second = first.advance(running());
        journal.write(&second).unwrap();
        let other = record();
        journal.write(&other).unwrap();

        let reopened = Journal::open(folder.path().join("journal")).unwrap();
        let mut found = reopened.read_all().unwrap();
        found.sort_by_key(|r| r.id);
        assert_eq!(found, [second.clone(), other]);

        reopened.remove(second.id).unwrap();
        reopened.remove(second.id).unwrap();
        assert_eq!(reopened.read_all().unwrap().len(), 1);
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_old_record() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().to_owned()).unwrap();
        let record = record();
        journal.write(&record).unwrap();
        std::fs::write(folder.path().join(format!("{}.tmp", record.id)), b"{\"form").unwrap();

        let reopened = Journal::open(folder.path().to_owned()).unwrap();
        assert_eq!(reopened.read_all().unwrap(), [record]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_foreign_record_is_set_aside_and_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().to_owned()).unwrap();
        let good = record();
        journal.write(&good).unwrap();
        std::fs::write(folder.path().join("sb-x.json"), b"{}").unwrap();
        let mut foreign = record();
        foreign.format = FORMAT + 1;
        journal.write(&foreign).unwrap();

        assert_eq!(journal.read_all().unwrap(), [good]);
        assert!(folder.path().join("sb-x.damaged").exists());
        assert!(folder.path().join(format!("{}.damaged", foreign.id)).exists());
        // What there is of it is not taken for nobody's.
        assert_eq!(journal.set_aside().unwrap(), [foreign.id]);
    }

    #[test]
    fn every_phase_is_kept_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().to_owned()).unwrap();
        let process = ProcessIdentity { pid: 42, start_time: 4242 };
        let phases = [
            running(),
            Phase::Pausing { process, reason: PauseReason::Idle, mode: PauseMode::Filesystem },
            Phase::Paused { reason: PauseReason::HostRefused, mode: PauseMode::Full },
            Phase::Resuming { reason: PauseReason::Requested, mode: PauseMode::Filesystem },
            Phase::Stopping,
            Phase::Stopped { reason: "it ended".into() },
        ];
        let mut last = record();
        for phase in phases {
            last = last.advance(phase);
            journal.write(&last).unwrap();
            assert_eq!(journal.read_all().unwrap(), [last.clone()]);
        }
        let pause = last.kept_spec(PauseMode::Full, CopyOf::Sandbox);
        assert_eq!(Surroundings::in_memory_of(&pause).unwrap(), last.surroundings);
        let snapshot = last.kept_spec(PauseMode::Full, CopyOf::Template);
        assert_eq!(snapshot.guest_token.as_deref(), Some("secret"), "the token that the memory holds by now");
        let without = Surroundings { secrets: Secrets::default(), ..last.surroundings.clone() };
        assert_eq!(Surroundings::in_memory_of(&snapshot).unwrap(), without, "secrets are not a template's");
        let disk = last.kept_spec(PauseMode::Filesystem, CopyOf::Template);
        assert_eq!((disk.kind, disk.guest_token, disk.surroundings), (TemplateKind::Base, None, None));
    }

    #[test]
    fn a_record_that_is_older_than_pauses_without_memory_is_of_one_with_it() {
        let mode = PauseMode::Filesystem;
        let record = record().advance(Phase::Paused { reason: PauseReason::Idle, mode });
        let mut json = serde_json::to_value(&record).unwrap();
        assert_eq!((&json["phase"], &json["mode"]), (&"paused".into(), &"filesystem".into()));
        let fields = json.as_object_mut().unwrap();
        fields.remove("mode");
        fields.remove("surroundings");
        let older: Record = serde_json::from_value(json).unwrap();
        assert_eq!(older.phase, Phase::Paused { reason: PauseReason::Idle, mode: PauseMode::Full });
        assert_eq!(older.surroundings, Surroundings::default());
    }

    #[test]
    fn a_secret_is_told_to_the_guest_and_to_no_log() {
        let record = record();
        assert_eq!(record.surroundings.env(), [("A", "1"), ("B", "hunter2")]);
        let logged = format!("{record:?}");
        assert!(logged.contains("\"B\"") && !logged.contains("hunter2"), "{logged}");
    }

    #[test]
    fn only_the_owner_may_read_a_record() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().to_owned()).unwrap();
        let record = record();
        journal.write(&record).unwrap();
        let mode = std::fs::metadata(journal.path(record.id)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
