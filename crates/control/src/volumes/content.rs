//! The files of a volume, by E2B's contract: whoever has the volume's token may do with them what they like.
//!
//! All of it is done in the sandbox that has the volume meanwhile (`server`), as root, by the calls that serve every sandbox's files and by a few
//! lines of shell. Paths are kept beneath the volume's folder by their text alone: a link in the volume may lead out of it, but out there
//! is nothing but the platform's own template, in a machine that has no network and that nobody else uses.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use sandbar_types::id;
use sandbar_types::{Id, limits};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::listing::{self, FORMAT, VolumeEntry};
use super::server::ROOT;
use super::{Volume, VolumeError, not_found};
use crate::sandboxes::{
    Command, ExecEvent, ExecStreamOptions, FileContents, FileTarget, Sandbox, SandboxError, WriteCondition,
};
use crate::{Actor, Control, OpContext};

/// Who does it.
const USER: &str = "root";
/// How long one of the scripts may take: removing or listing very many files.
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
/// Most bytes that are read of what a script prints: some hundred thousand files.
const PRINTED_BYTES: usize = 32 << 20;
/// Most bytes that are kept of what it complains of.
const COMPLAINT_BYTES: usize = 512;
/// Deepest listing.
const DEPTH: std::ops::RangeInclusive<u32> = 1..=64;

/// How a script ends where nothing is at the path.
const MISSING: i32 = 44;
/// Where something is there that may not be.
const EXISTS: i32 = 49;
/// Where it is no folder.
const NO_FOLDER: i32 = 41;

/// Each script's arguments begin with the volume's folder and a path in it.
const LIST: &str = r#"
[ -e "$2" ] || [ -L "$2" ] || exit 44
[ -d "$2" ] || exit 41
exec find -H "$2" -mindepth 1 -maxdepth "$3" -printf "$4""#;
const STAT: &str = r#"
[ -e "$2" ] || [ -L "$2" ] || exit 44
exec find "$2" -maxdepth 0 -printf "$3""#;
/// Then whether missing folders before it are made, its rights, and its owner where that is not the volume's.
const MAKE: &str = r#"
set -e
if [ -d "$2" ]; then if [ "$3" = yes ]; then exit 0; else exit 49; fi; fi
if [ -e "$2" ] || [ -L "$2" ]; then exit 49; fi
top=$2
if [ "$3" = yes ]; then
    while [ ! -e "${top%/*}" ]; do top=${top%/*}; done
    mkdir -p -- "$2"
else
    [ -d "${2%/*}" ] || exit 44
    mkdir -- "$2"
fi
chown -R --reference="$1" -- "$top"
if [ -n "$5" ]; then chown -R -- "$5" "$top"; fi
chmod -- "$4" "$2""#;
/// Then rights and owner, each where it is to be another. What root wrote and was given to nobody is the volume's owner's.
const CHANGE: &str = r#"
set -e
[ -e "$2" ] || [ -L "$2" ] || exit 44
if [ "$5" = written ] && [ -z "$4" ] && [ "$(stat -c %u -- "$2")" = 0 ]; then chown -h --reference="$1" -- "$2"; fi
if [ -n "$4" ]; then chown -h -- "$4" "$2"; fi
if [ -n "$3" ]; then chmod -- "$3" "$2"; fi"#;
const REMOVE: &str = r#"
[ -e "$2" ] || [ -L "$2" ] || exit 44
exec rm -rf -- "$2""#;

/// Owner and rights of something; what is left out stays, or is the volume's owner's.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the names are the contract's")]
pub struct Attributes {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
}

/// A folder to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewFolder {
    /// Its owner and rights.
    pub attributes: Attributes,
    /// Whether missing folders before it are made, and one that is there is as good.
    pub force: bool,
}

/// A file of a volume, as it is read.
pub type VolumeContents = FileContents;

impl Attributes {
    /// As `chown` takes it; empty = nobody else.
    fn owner(self) -> String {
        match (self.uid, self.gid) {
            (None, None) => String::new(),
            (Some(uid), None) => uid.to_string(),
            (None, Some(gid)) => format!(":{gid}"),
            (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        }
    }

    /// As `chmod` takes it; five digits, so that bits that are not named are taken off folders, too.
    fn mode(self) -> Result<Option<String>, VolumeError> {
        match self.mode {
            None => Ok(None),
            Some(mode @ ..=0o7777) => Ok(Some(format!("{mode:05o}"))),
            Some(_) => Err(VolumeError::Content("mode: at most 0o7777 (4095)")),
        }
    }
}

/// A path of a volume, in its one spelling: `/` is the root. What would lead out ends there.
struct InVolume(String);

impl InVolume {
    fn read(path: &str) -> Result<Self, VolumeError> {
        if path.len() > limits::PATH_BYTES - ROOT.len() || path.contains('\0') {
            return Err(VolumeError::Content("path: too long, or with NUL"));
        }
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    /// The same, but not the root.
    fn below_root(path: &str) -> Result<Self, VolumeError> {
        let path = Self::read(path)?;
        if path.0 == "/" { Err(VolumeError::Content("path: that is the volume itself")) } else { Ok(path) }
    }

    fn in_guest(&self) -> String {
        if self.0 == "/" { ROOT.to_owned() } else { format!("{ROOT}{}", self.0) }
    }

    /// The folder that it is in.
    fn folder(&self) -> Self {
        let (folder, _) = self.0.rsplit_once('/').unwrap_or_default();
        Self(if folder.is_empty() { "/".to_owned() } else { folder.to_owned() })
    }
}

impl Control {
    /// What opens a volume's files.
    #[must_use]
    pub fn volume_token(&self, volume: Id<id::Volume>) -> SecretString {
        self.guest_key().volume_token(volume)
    }

    /// The volume that a token opens, and on whose behalf that is.
    pub async fn volume_opened(
        &self,
        request_id: Uuid,
        id: Id<id::Volume>,
        token: &[u8],
    ) -> Result<(OpContext, Volume), VolumeError> {
        let is_right: bool = self.volume_token(id).expose_secret().as_bytes().ct_eq(token).into();
        if !is_right {
            return Err(VolumeError::Token);
        }
        let volume = self.store().volume_find(id).await?.ok_or_else(|| not_found(&id.to_string()))?;
        Ok((OpContext::new(request_id, Actor::VolumeFiles { team: volume.team_id }), volume))
    }

    /// What is in a folder, and so many levels below it.
    pub async fn volume_entries(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
        depth: u32,
    ) -> Result<Vec<VolumeEntry>, VolumeError> {
        let path = InVolume::read(path)?;
        if !DEPTH.contains(&depth) {
            return Err(VolumeError::Content("depth: between 1 and 64"));
        }
        let server = self.file_server(ctx, volume.id).await?;
        let printed = self.script(ctx, &server, LIST, &path, &[&depth.to_string(), FORMAT]).await?;
        listing::read(&path.0, &printed).ok_or(VolumeError::Unreadable)
    }

    /// What is at a path.
    pub async fn volume_stat(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
    ) -> Result<VolumeEntry, VolumeError> {
        let path = InVolume::read(path)?;
        let server = self.file_server(ctx, volume.id).await?;
        self.stat(ctx, &server, &path).await
    }

    /// Makes a folder.
    pub async fn volume_make_folder(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
        new: NewFolder,
    ) -> Result<VolumeEntry, VolumeError> {
        let path = InVolume::below_root(path)?;
        new.attributes.mode()?;
        let server = self.file_server(ctx, volume.id).await?;
        self.make_folder(ctx, &server, &path, new).await?;
        self.stat(ctx, &server, &path).await
    }

    /// Gives something another owner or other rights.
    pub async fn volume_change(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
        attributes: Attributes,
    ) -> Result<VolumeEntry, VolumeError> {
        let path = InVolume::read(path)?;
        let mode = attributes.mode()?.unwrap_or_default();
        let server = self.file_server(ctx, volume.id).await?;
        self.script(ctx, &server, CHANGE, &path, &[&mode, &attributes.owner(), ""]).await?;
        self.stat(ctx, &server, &path).await
    }

    /// Removes a file, or a folder with all that is in it.
    pub async fn volume_remove_path(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
    ) -> Result<(), VolumeError> {
        let path = InVolume::below_root(path)?;
        let server = self.file_server(ctx, volume.id).await?;
        self.script(ctx, &server, REMOVE, &path, &[]).await?;
        Ok(())
    }

    /// Reads a file, as it comes.
    pub async fn volume_read(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
    ) -> Result<VolumeContents, VolumeError> {
        let path = InVolume::below_root(path)?;
        let server = self.file_server(ctx, volume.id).await?;
        self.sandbox_read_file(ctx, &server, &target(&path)).await.map_err(|error| in_words(error, &path))
    }

    /// Writes a file, as it comes; missing folders are made. It appears whole or not at all.
    pub async fn volume_write<S, E>(
        &self,
        ctx: &OpContext,
        volume: &Volume,
        path: &str,
        attributes: Attributes,
        contents: S,
    ) -> Result<VolumeEntry, VolumeError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let path = InVolume::below_root(path)?;
        let mode = attributes.mode()?.unwrap_or_default();
        let server = self.file_server(ctx, volume.id).await?;
        let folder = path.folder();
        if folder.0 != "/" {
            let owner = Attributes { mode: None, ..attributes };
            self.make_folder(ctx, &server, &folder, NewFolder { attributes: owner, force: true }).await?;
        }
        let file = target(&path);
        let written = self.sandbox_write_file(ctx, &server, &file, WriteCondition::Whatever, contents);
        written.await.map_err(|error| in_words(error, &path))?;
        self.script(ctx, &server, CHANGE, &path, &[&mode, &attributes.owner(), "written"]).await?;
        self.stat(ctx, &server, &path).await
    }

    async fn stat(
        &self,
        ctx: &OpContext,
        server: &Sandbox,
        path: &InVolume,
    ) -> Result<VolumeEntry, VolumeError> {
        let printed = self.script(ctx, server, STAT, path, &[FORMAT]).await?;
        let entry = listing::read(&path.0, &printed).and_then(|mut entries| entries.pop());
        entry.ok_or(VolumeError::Unreadable)
    }

    async fn make_folder(
        &self,
        ctx: &OpContext,
        server: &Sandbox,
        path: &InVolume,
        NewFolder { attributes, force }: NewFolder,
    ) -> Result<(), VolumeError> {
        let mode = attributes.mode()?.unwrap_or_else(|| "00755".to_owned());
        let force = if force { "yes" } else { "no" };
        self.script(ctx, server, MAKE, path, &[force, &mode, &attributes.owner()]).await?;
        Ok(())
    }

    /// Runs a script to its end: what it printed.
    async fn script(
        &self,
        ctx: &OpContext,
        server: &Sandbox,
        script: &str,
        path: &InVolume,
        args: &[&str],
    ) -> Result<Vec<u8>, VolumeError> {
        let in_guest = path.in_guest();
        let args = ["-c", script, "sh", ROOT, &in_guest].into_iter().chain(args.iter().copied());
        let command = Command {
            cmd: "/bin/sh".to_owned(),
            args: args.map(str::to_owned).collect(),
            cwd: Some("/".to_owned()),
            user: Some(USER.to_owned()),
            ..Command::default()
        };
        let options = ExecStreamOptions { timeout: Some(SCRIPT_LIMIT), ..ExecStreamOptions::default() };
        let failed = VolumeError::Sandbox;
        let mut stream = self.sandbox_exec_stream(ctx, server, &command, options).await.map_err(failed)?;
        let (mut printed, mut complaint) = (Vec::new(), Vec::new());
        while let Some(event) = stream.output.next().await.map_err(failed)? {
            match event {
                ExecEvent::Stdout(bytes) => {
                    if printed.len() + bytes.len() > PRINTED_BYTES {
                        return Err(VolumeError::Content(
                            "there are too many files to list at once: ask for less depth",
                        ));
                    }
                    printed.extend_from_slice(&bytes);
                }
                ExecEvent::Stderr(bytes) => {
                    let room = COMPLAINT_BYTES.saturating_sub(complaint.len()).min(bytes.len());
                    complaint.extend_from_slice(&bytes[..room]);
                }
                ExecEvent::Exit { exit_code, status: _ } => {
                    return ended(exit_code, printed, &complaint, path);
                }
                ExecEvent::Started { .. } | ExecEvent::Terminal(_) => {}
            }
        }
        Err(failed(SandboxError::Gone { id: server.id }))
    }
}

/// What the end of a script means.
fn ended(
    exit_code: i32,
    printed: Vec<u8>,
    complaint: &[u8],
    path: &InVolume,
) -> Result<Vec<u8>, VolumeError> {
    let of = |message: String| Err(VolumeError::PathState { message });
    match exit_code {
        0 => Ok(printed),
        MISSING => Err(VolumeError::PathNotFound { path: path.0.clone() }),
        EXISTS => of(format!("{} exists", path.0)),
        NO_FOLDER => of(format!("{} is no folder", path.0)),
        _ => of(format!("{}: {}", path.0, String::from_utf8_lossy(complaint).trim())),
    }
}

fn target(path: &InVolume) -> FileTarget {
    FileTarget { path: path.in_guest(), user: Some(USER.to_owned()) }
}

fn in_words(error: SandboxError, path: &InVolume) -> VolumeError {
    match error {
        SandboxError::FileNotFound { .. } => VolumeError::PathNotFound { path: path.0.clone() },
        error => VolumeError::Sandbox(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::*;

    #[test]
    fn no_path_leads_out() {
        for (path, spelt) in [
            ("/", "/"),
            ("", "/"),
            ("a", "/a"),
            ("/a//b/./c/", "/a/b/c"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/../../b", "/b"),
            ("..", "/"),
        ] {
            let read = InVolume::read(path).unwrap();
            assert_eq!(read.0, spelt, "{path}");
            assert!(read.in_guest() == ROOT || read.in_guest().starts_with("/volume/"));
        }
        assert!(InVolume::read("/a\0b").is_err());
        assert!(InVolume::read(&"x".repeat(limits::PATH_BYTES)).is_err());
        for root in ["/", "", "/a/..", "."] {
            assert!(InVolume::below_root(root).is_err(), "{root}");
        }
        assert_eq!(InVolume("/a".to_owned()).folder().0, "/");
        assert_eq!(InVolume("/a/b".to_owned()).folder().0, "/a");
    }

    /// Runs a script here, as it runs in a guest.
    fn run(root: &Path, script: &str, path: &str, args: &[&str]) -> (i32, Vec<u8>) {
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", script, "sh"])
            .arg(root)
            .arg(root.join(path))
            .args(args)
            .output()
            .unwrap();
        (output.status.code().unwrap(), output.stdout)
    }

    #[test]
    fn scripts_do_what_they_say() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let make = |path: &str, force: &str| run(root, MAKE, path, &[force, "00750", ""]).0;
        assert_eq!(make("a/b c", "no"), MISSING);
        assert_eq!(make("a/b c", "yes"), 0);
        assert_eq!(make("a/b c", "yes"), 0);
        assert_eq!(make("a/b c", "no"), EXISTS);
        assert_eq!(root.join("a/b c").metadata().unwrap().mode() & 0o7777, 0o750);
        std::fs::write(root.join("a/-f\n"), "hello").unwrap();
        assert_eq!(make("a/-f\n", "yes"), EXISTS);
        std::os::unix::fs::symlink("/nowhere", root.join("a/link")).unwrap();

        let list = |path: &str, depth: &str| run(root, LIST, path, &[depth, FORMAT]);
        assert_eq!(list("nothing", "1").0, MISSING);
        assert_eq!(list("a/-f\n", "1").0, NO_FOLDER);
        let paths = |depth: &str| {
            let entries = listing::read("/", &list("", depth).1).unwrap();
            entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>()
        };
        assert_eq!(paths("1"), ["/a"]);
        assert_eq!(paths("2"), ["/a", "/a/-f\n", "/a/b c", "/a/link"]);

        let stat = |path: &str| {
            let (code, printed) = run(root, STAT, path, &[FORMAT]);
            (code == 0).then(|| listing::read("/at", &printed).unwrap().remove(0)).ok_or(code)
        };
        assert_eq!(stat("nothing"), Err(MISSING));
        assert_eq!(stat("a/link").unwrap().target.as_deref(), Some("/nowhere"));
        assert_eq!(run(root, CHANGE, "a/-f\n", &["00604", "", ""]).0, 0);
        let file = stat("a/-f\n").unwrap();
        assert_eq!((file.mode, file.size, file.path.as_str()), (0o604, 5, "/at"));
        assert_eq!(run(root, CHANGE, "nothing", &["00604", "", ""]).0, MISSING);

        assert_eq!(run(root, REMOVE, "a/link", &[]).0, 0);
        assert_eq!(run(root, REMOVE, "a", &[]).0, 0);
        assert_eq!(run(root, REMOVE, "a", &[]).0, MISSING);
        assert!(root.is_dir());
    }
}
