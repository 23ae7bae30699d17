//! The sandboxes and templates of a simulated host.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use connectrpc::ConnectError;
use sandbar_proto::host as rpc;
use sandbar_types::guest::GUEST_IP;
use tokio::sync::watch;

use super::faults::refusal;
use super::life;
use super::transfer::Arriving;
use super::volumes::{self, Volumes};
use super::{Reason, SandboxState};

/// MiB of disk of every template.
const TEMPLATE_DISK_MB: u32 = 2_048;

/// What the host holds. Every change raises the generation.
#[derive(Default)]
pub(super) struct Inventory {
    pub(super) host_id: String,
    pub(super) generation: u64,
    /// How many sandboxes there are, for those who wait.
    count: watch::Sender<usize>,
    pub(super) sandboxes: BTreeMap<String, Vm>,
    pub(super) templates: BTreeMap<String, Stored>,
    /// Templates that are on their way here.
    pub(super) arriving: BTreeMap<String, Arriving>,
    pub(super) clock: Clock,
    pub(super) volumes: Volumes,
    /// What becomes of the children of coming forks: that many fail.
    pub(super) failing_children: usize,
}

/// The host's own, which may be off.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    pub(super) ahead_ms: i64,
}

impl Clock {
    pub(super) fn now(self) -> i64 {
        unix_ms(SystemTime::now()) + self.ahead_ms
    }
}

/// The files of a guest, by their path: all that a simulated memory and disk hold.
pub(super) type Files = HashMap<String, Vec<u8>>;

pub(super) struct Vm {
    pub(super) record: rpc::Sandbox,
    pub(super) creation: Option<rpc::CreateSandboxRequest>,
    pub(super) files: Files,
    pub(super) network: rpc::NetworkPolicy,
    /// Resumes that are not of a later generation of its row are refused.
    pub(super) row_generation: u64,
}

pub(super) struct Stored {
    pub(super) record: rpc::Template,
    pub(super) files: Files,
    /// It is not what it was.
    pub(super) spoilt: bool,
}

impl Inventory {
    pub(super) fn changed(&mut self) {
        self.generation += 1;
        self.count.send_replace(self.sandboxes.len());
    }

    pub(super) fn counted(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    pub(super) fn list(&self) -> Vec<rpc::Sandbox> {
        self.sandboxes.values().map(|vm| vm.record.clone()).collect()
    }

    pub(super) fn list_templates(&self) -> Vec<rpc::Template> {
        self.templates.values().map(|stored| stored.record.clone()).collect()
    }

    pub(super) fn creation_of(&self, id: &str) -> Option<rpc::CreateSandboxRequest> {
        self.sandboxes.get(id)?.creation.clone()
    }

    /// The same id asked for again answers what is there.
    pub(super) fn create(
        &mut self,
        request: rpc::CreateSandboxRequest,
    ) -> Result<rpc::Sandbox, ConnectError> {
        if let Some(vm) = self.sandboxes.get(&request.id) {
            return Ok(vm.record.clone());
        }
        let template = self
            .templates
            .get(&request.template_id)
            .ok_or_else(|| refusal(Reason::REASON_TEMPLATE_NOT_FOUND))?;
        let rpc::Template { vcpus, memory_mb, disk_mb, .. } = &template.record;
        let (mut vcpus, mut memory_mb, disk_mb) = (*vcpus, *memory_mb, *disk_mb);
        // What boots is as large as is asked for.
        if template.record.kind == rpc::TemplateKind::TEMPLATE_KIND_BASE {
            let asked = |asked, own| if asked == 0 { own } else { asked };
            (vcpus, memory_mb) = (asked(request.vcpus, vcpus), asked(request.memory_mb, memory_mb));
        }
        let files = template.files.clone();
        self.check_mounts(&request.volumes)?;
        let created_at = self.clock.now();
        let record = rpc::Sandbox {
            id: request.id.clone(),
            state: SandboxState::SANDBOX_STATE_RUNNING.into(),
            template_id: request.template_id.clone(),
            vcpus,
            memory_mb,
            disk_mb,
            guest_ip: GUEST_IP.to_string(),
            host_ip: self.next_address(),
            created_at_unix_ms: created_at,
            last_active_at_unix_ms: created_at,
            expires_at_unix_ms: life::expiry(created_at, request.timeout_sec),
            timeout_sec: request.timeout_sec,
            on_timeout: life::or_kill(request.on_timeout),
            timeout_from: life::or_activity(request.timeout_from),
            generation: 1,
            volumes: request.volumes.clone(),
            ..Default::default()
        };
        self.insert(record.clone(), Some(request), files);
        Ok(record)
    }

    pub(super) fn plant(&mut self, id: &str, age: Duration) {
        let created_at = self.clock.now() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let record = rpc::Sandbox {
            id: id.to_owned(),
            state: SandboxState::SANDBOX_STATE_RUNNING.into(),
            vcpus: 1,
            memory_mb: 512,
            disk_mb: TEMPLATE_DISK_MB,
            guest_ip: GUEST_IP.to_string(),
            host_ip: self.next_address(),
            created_at_unix_ms: created_at,
            last_active_at_unix_ms: created_at,
            generation: 1,
            ..Default::default()
        };
        self.insert(record, None, Files::new());
    }

    pub(super) fn insert(
        &mut self,
        record: rpc::Sandbox,
        creation: Option<rpc::CreateSandboxRequest>,
        files: Files,
    ) {
        let network = creation.as_ref().and_then(|creation| creation.network.as_option().cloned());
        let network = network.unwrap_or_default();
        let row_generation = creation.as_ref().map_or(0, |creation| creation.row_generation);
        self.sandboxes.insert(record.id.clone(), Vm { record, creation, files, network, row_generation });
        self.changed();
    }

    /// A new address in 10.64.0.0/16 for each sandbox.
    pub(super) fn next_address(&self) -> String {
        let [.., high, low] = (self.generation + 1).to_be_bytes();
        format!("10.64.{high}.{low}")
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        let existed = self.sandboxes.remove(id).is_some();
        if existed {
            self.changed();
        }
        existed
    }

    pub(super) fn set_state(&mut self, id: &str, state: SandboxState, reason: &str) {
        if let Some(vm) = self.sandboxes.get_mut(id) {
            vm.record.state = state.into();
            vm.record.generation += 1;
            reason.clone_into(&mut vm.record.stop_reason);
            self.changed();
        }
    }

    /// The sandbox, if its guest can be asked for something; counts as activity.
    pub(super) fn active(&mut self, id: &str) -> Result<rpc::Sandbox, ConnectError> {
        let now = self.clock.now();
        let vm = self.running(id)?;
        vm.record.last_active_at_unix_ms = now;
        Ok(vm.record.clone())
    }

    pub(super) fn known(&self, id: &str) -> Result<(), ConnectError> {
        self.sandboxes.get(id).map(|_| ()).ok_or_else(|| refusal(Reason::REASON_SANDBOX_NOT_FOUND))
    }

    pub(super) fn running(&mut self, id: &str) -> Result<&mut Vm, ConnectError> {
        let vm = self.sandboxes.get_mut(id).ok_or_else(|| refusal(Reason::REASON_SANDBOX_NOT_FOUND))?;
        if vm.record.state == SandboxState::SANDBOX_STATE_RUNNING {
            Ok(vm)
        } else {
            Err(refusal(Reason::REASON_INVALID_STATE))
        }
    }

    /// The files that are right in a folder. A folder is there as long as there are files in it.
    pub(super) fn list_folder(&mut self, id: &str, path: &str) -> Result<Vec<rpc::Entry>, ConnectError> {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let vm = self.running(id)?;
        let mut entries: Vec<_> = vm
            .files
            .iter()
            .filter_map(|(path, content)| {
                let name = path.strip_prefix(&folder).filter(|name| !name.contains('/'))?;
                Some(entry(name, path, rpc::EntryKind::ENTRY_KIND_FILE, content.len()))
            })
            .collect();
        if entries.is_empty() {
            return Err(refusal(Reason::REASON_FILE_NOT_FOUND));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn make_folder(&mut self, id: &str, path: &str) -> Result<rpc::Entry, ConnectError> {
        self.running(id)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        Ok(entry(name, path, rpc::EntryKind::ENTRY_KIND_DIRECTORY, 0))
    }

    pub(super) fn remove_path(&mut self, id: &str, path: &str) -> Result<(), ConnectError> {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.running(id)?.files.retain(|file, _| file != path && !file.starts_with(&folder));
        Ok(())
    }

    /// Tells the file's state.
    pub(super) fn write_file(
        &mut self,
        open: &rpc::write_file_request::Open,
        path: String,
        content: Vec<u8>,
    ) -> Result<String, ConnectError> {
        self.running(&open.id)?;
        if let Some(here) = self.in_volume(&open.id, &path) {
            let state = state(&content);
            std::fs::write(here, content).map_err(|error| volumes::failed(&error))?;
            return Ok(state);
        }
        let vm = self.running(&open.id)?;
        let is_expected = match vm.files.get(&path).map(|there| state(there)) {
            Some(there) => !open.is_new && (open.if_match.is_empty() || open.if_match.contains(&there)),
            None => open.if_match.is_empty(),
        };
        if !is_expected {
            return Err(refusal(Reason::REASON_FILE_CHANGED));
        }
        let state = state(&content);
        vm.files.insert(path, content);
        Ok(state)
    }

    /// The content, and its state.
    pub(super) fn read_file(&mut self, id: &str, path: &str) -> Result<(Vec<u8>, String), ConnectError> {
        self.running(id)?;
        if let Some(here) = self.in_volume(id, path) {
            let content = std::fs::read(here).map_err(|error| volumes::failed(&error))?;
            let state = state(&content);
            return Ok((content, state));
        }
        let content = self.running(id)?.files.get(path);
        let content = content.cloned().ok_or_else(|| refusal(Reason::REASON_FILE_NOT_FOUND))?;
        let state = state(&content);
        Ok((content, state))
    }

    /// The same id asked for again answers what is there.
    pub(super) fn create_template(
        &mut self,
        request: rpc::CreateTemplateRequest,
    ) -> Result<rpc::Template, ConnectError> {
        if request.image != "base" {
            return Err(refusal(Reason::REASON_TEMPLATE_NOT_FOUND));
        }
        Ok(self.make_template(request.id, (request.vcpus, request.memory_mb, TEMPLATE_DISK_MB)))
    }

    /// The same, of an image that came from elsewhere: vCPUs, and MiB of memory and disk.
    pub(super) fn make_template(
        &mut self,
        id: String,
        (vcpus, memory_mb, disk_mb): (u32, u32, u32),
    ) -> rpc::Template {
        let template = rpc::Template {
            id: id.clone(),
            vcpus,
            memory_mb,
            disk_mb,
            size_bytes: 300 << 20,
            arch: "x86_64".to_owned(),
            vmm: "qemu".to_owned(),
            compatibility: "simulated".to_owned(),
            kind: rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT.into(),
            ..Default::default()
        };
        let stored = Stored { record: template, files: Files::new(), spoilt: false };
        self.templates.entry(id).or_insert(stored).record.clone()
    }
}

fn entry(name: &str, path: &str, kind: rpc::EntryKind, size: usize) -> rpc::Entry {
    rpc::Entry {
        name: name.to_owned(),
        path: path.to_owned(),
        kind: kind.into(),
        size: size as u64,
        mode: 0o644,
        permissions: "-rw-r--r--".to_owned(),
        owner: "user".to_owned(),
        group: "user".to_owned(),
        modified_at_unix_ms: unix_ms(SystemTime::now()),
        ..Default::default()
    }
}

pub(super) fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Which content a file has, as the guest's agent words it.
fn state(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:x}\"", hasher.finish())
}
