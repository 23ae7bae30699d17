//! What a sandbox needs of its root filesystem, added to an image that was made for containers.
//!
//! Nothing of the image goes, but what every runtime of containers lays its own over: `/etc/resolv.conf`. `/etc/hostname` and
//! `/etc/hosts` come where there are none, or empty ones, as tools leave them. The image's files are strangers': they are read and
//! written by way of [`Tree`] alone.

use sandbar_oci::{ImageError, Kind, Tree};
use sandbar_types::guest::DEFAULT_USER;

use crate::base_image::{ConfigFile, FILES};

/// Accounts are lines; more than this is no list of them.
const ACCOUNT_BYTES: u64 = 1 << 20;
/// The user's number where it is free, and the first that is no person's any more.
const FIRST_UID: u32 = 1000;
const LAST_UID: u32 = 60_000;

const BASH: [&str; 3] = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"];
const SH: [&str; 2] = ["/bin/sh", "/usr/bin/sh"];
const SUDO: [&str; 2] = ["/usr/bin/sudo", "/usr/local/bin/sudo"];

/// What the guest mounts something on, or expects to be there.
const FOLDERS: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// Adds what is missing. Returns a shell of the image's.
pub(super) fn furnish(tree: &Tree) -> Result<Option<&'static str>, ImageError> {
    for (path, mode) in FOLDERS {
        tree.make_folder(path, mode, (0, 0))?;
    }
    for ConfigFile { path, mode, content } in FILES {
        match (path, tree.kind(path)?) {
            ("etc/resolv.conf", _) | ("etc/hostname" | "etc/hosts", Kind::Nothing | Kind::File(0)) => {
                tree.write(path, mode, content.as_bytes())?;
            }
            ("etc/sudoers.d/user", Kind::Nothing) if first(tree, &SUDO)?.is_some() => {
                tree.make_folder("etc/sudoers.d", 0o750, (0, 0))?;
                tree.write(path, mode, content.as_bytes())?;
            }
            _ => {}
        }
    }
    let bash = first(tree, &BASH)?;
    let shell = match bash {
        Some(bash) => Some(bash),
        None => first(tree, &SH)?,
    };
    add_user(tree, shell.unwrap_or("/bin/sh"))?;
    Ok(shell)
}

fn first(tree: &Tree, paths: &[&'static str]) -> Result<Option<&'static str>, ImageError> {
    for path in paths {
        if matches!(tree.kind(path)?, Kind::File(_)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The user that commands run as unless they say otherwise. One who is there stays who they are.
fn add_user(tree: &Tree, shell: &str) -> Result<(), ImageError> {
    let root = format!("root:x:0:0:root:/root:{shell}\n");
    let passwd = text_or(tree, "etc/passwd", 0o644, &root)?;
    let group = text_or(tree, "etc/group", 0o644, "root:x:0:\n")?;
    if let Some(user) = Account::all(&passwd).find(|account| account.name == DEFAULT_USER) {
        if user.home.starts_with('/') && user.home != "/" {
            tree.make_folder(user.home, 0o700, (user.uid, user.gid))?;
        }
        return Ok(());
    }
    let groups: Vec<(&str, u32)> = group.lines().filter_map(group_of).collect();
    let own_group = groups.iter().find(|(name, _)| *name == DEFAULT_USER).map(|(_, gid)| *gid);
    let free = |id: &u32| {
        let group_free = own_group.is_some() || groups.iter().all(|(_, gid)| gid != id);
        group_free && Account::all(&passwd).all(|account| account.uid != *id)
    };
    let uid = (FIRST_UID..LAST_UID).find(free);
    let uid =
        uid.ok_or_else(|| ImageError::Broken("its /etc/passwd has no number left for a user".to_owned()))?;
    let gid = own_group.unwrap_or(uid);
    if own_group.is_none() {
        append_line(tree, "etc/group", &group, &format!("{DEFAULT_USER}:x:{gid}:"))?;
    }
    let home = format!("/home/{DEFAULT_USER}");
    append_line(tree, "etc/passwd", &passwd, &format!("{DEFAULT_USER}:x:{uid}:{gid}::{home}:{shell}"))?;
    // Without an entry where there are others, `sudo` finds the account at fault.
    if let Some(shadow) = tree.read("etc/shadow", ACCOUNT_BYTES)? {
        let shadow = text("etc/shadow", shadow)?;
        if !shadow.lines().any(|line| line.split(':').next() == Some(DEFAULT_USER)) {
            append_line(tree, "etc/shadow", &shadow, &format!("{DEFAULT_USER}:!:19700:0:99999:7:::"))?;
        }
    }
    tree.make_folder(&home, 0o700, (uid, gid))
}

/// An account that matters here.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// The accounts of `/etc/passwd`; lines that are none are skipped, as the system does.
    fn all(passwd: &'a str) -> impl Iterator<Item = Self> {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?;
            Some(Self { name, uid, gid, home })
        })
    }
}

fn group_of(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((name, fields.nth(1)?.parse().ok()?))
}

/// A file's text; the file is made where there is none.
fn text_or(tree: &Tree, path: &str, mode: u32, otherwise: &str) -> Result<String, ImageError> {
    match tree.read(path, ACCOUNT_BYTES)? {
        Some(content) => text(path, content),
        None => {
            tree.write(path, mode, otherwise.as_bytes())?;
            Ok(otherwise.to_owned())
        }
    }
}

fn text(path: &str, content: Vec<u8>) -> Result<String, ImageError> {
    String::from_utf8(content).map_err(|_| ImageError::Broken(format!("its /{path} is no text")))
}

fn append_line(tree: &Tree, path: &str, there: &str, line: &str) -> Result<(), ImageError> {
    let end = if there.is_empty() || there.ends_with('\n') { "" } else { "\n" };
    tree.append(path, format!("{end}{line}\n").as_bytes())
}
