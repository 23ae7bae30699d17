//! The volumes of a simulated host: each is a folder of this machine, so that what one sandbox leaves in it the next one finds. Beneath the path at
//! which a sandbox has a volume, files are that folder's, and the scripts that the control plane keeps for volumes run on it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use connectrpc::ConnectError;
use sandbar_proto::host as rpc;
use tempfile::TempDir;

use super::Reason;
use super::faults::refusal;
use super::guest::{Piece, Program};
use super::inventory::Inventory;

/// The volumes by id.
pub(super) type Volumes = BTreeMap<String, Volume>;

pub(super) struct Volume {
    size_bytes: u64,
    folder: TempDir,
}

impl Inventory {
    /// One of that id is a success.
    pub(super) fn create_volume(&mut self, id: &str, size_bytes: u64) -> Result<rpc::Volume, ConnectError> {
        if let Entry::Vacant(place) = self.volumes.entry(id.to_owned()) {
            let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
            let rights = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path(), rights).map_err(|error| failed(&error))?;
            place.insert(Volume { size_bytes, folder });
        }
        Ok(self.volume(id))
    }

    /// An unknown one is a success.
    pub(super) fn delete_volume(&mut self, id: &str) -> Result<bool, ConnectError> {
        match self.who_has(id) {
            Some(_) => Err(refusal(Reason::REASON_VOLUME_IN_USE)),
            None => Ok(self.volumes.remove(id).is_some()),
        }
    }

    pub(super) fn list_volumes(&self) -> Vec<rpc::Volume> {
        self.volumes.keys().map(|id| self.volume(id)).collect()
    }

    /// Whether a sandbox can be given these.
    pub(super) fn check_mounts(&self, mounts: &[rpc::VolumeMount]) -> Result<(), ConnectError> {
        for mount in mounts {
            if !self.volumes.contains_key(&mount.volume_id) {
                return Err(refusal(Reason::REASON_VOLUME_NOT_FOUND));
            }
            if self.who_has(&mount.volume_id).is_some() {
                return Err(refusal(Reason::REASON_VOLUME_IN_USE));
            }
        }
        Ok(())
    }

    /// Where a path of a sandbox's is here, if it is in one of its volumes. No client of a test's says `..`.
    pub(super) fn in_volume(&self, id: &str, path: &str) -> Option<PathBuf> {
        let mounts = &self.sandboxes.get(id)?.record.volumes;
        mounts.iter().find_map(|mount| {
            let below = path.strip_prefix(mount.path.as_str())?;
            let below = if below.is_empty() { below } else { below.strip_prefix('/')? };
            let is_plain = below.split('/').all(|part| part != "..");
            is_plain.then_some(())?;
            Some(self.volumes.get(&mount.volume_id)?.folder.path().join(below))
        })
    }

    /// What a command does in a volume, if it is of one: a shell's, whose first two arguments are a volume's folder and a path in it, runs here, on that folder.
    pub(super) fn volume_program(
        &self,
        id: &str,
        command: &rpc::Command,
    ) -> Result<Option<Program>, ConnectError> {
        let [dash_c, script, name, folder, path, args @ ..] = command.args.as_slice() else {
            return Ok(None);
        };
        let (Some(folder), Some(path), "/bin/sh", "-c") =
            (self.in_volume(id, folder), self.in_volume(id, path), command.cmd.as_str(), dash_c.as_str())
        else {
            return Ok(None);
        };
        let ran = std::process::Command::new("/bin/sh")
            .args(["-c", script, name])
            .args([folder, path])
            .args(args)
            .output()
            .map_err(|error| failed(&error))?;
        let pieces = vec![Piece::Stdout(ran.stdout), Piece::Stderr(ran.stderr)];
        Ok(Some(Program::Print { pieces, exit_code: ran.status.code().unwrap_or(-1) }))
    }

    fn volume(&self, id: &str) -> rpc::Volume {
        rpc::Volume {
            id: id.to_owned(),
            size_bytes: self.volumes.get(id).map(|volume| volume.size_bytes).unwrap_or_default(),
            sandbox_id: self.who_has(id).unwrap_or_default(),
            ..Default::default()
        }
    }

    fn who_has(&self, id: &str) -> Option<String> {
        let has = |record: &&rpc::Sandbox| record.volumes.iter().any(|mount| mount.volume_id == id);
        self.sandboxes.values().map(|vm| &vm.record).find(has).map(|record| record.id.clone())
    }
}

/// Something of this machine's failed.
pub(super) fn failed(error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::NotFound => refusal(Reason::REASON_FILE_NOT_FOUND),
        _ => ConnectError::internal(error.to_string()),
    }
}
