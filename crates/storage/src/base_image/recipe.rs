//! What is in the base image, as data. Its hash decides whether an image that exists is the one wanted.

use crate::debian::DebianSource;

/// To be raised when the code makes something else of the same recipe.
const VERSION: u32 = 1;

/// On top of Debian's essential packages and apt.
pub(super) const PACKAGES: [&str; 18] = [
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "iputils-ping",
    "less",
    "ncurses-base",
    "ncurses-bin",
    "ncurses-term",
    "openssl",
    "passwd",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "sudo",
    "tzdata",
];

/// dpkg's options in a sandbox: no manuals and translations (but each package's licence), and no fsync of every file, which costs most
/// of the time of an `apt-get install`.
pub(super) const DPKG_OPTIONS: [&str; 7] = [
    FORCE_UNSAFE_IO,
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
];

/// Of these, the one that holds while the image is made: mmdebstrap sends every package through a filter in Python for the others,
/// which takes longer than deleting the files.
pub(super) const FORCE_UNSAFE_IO: &str = "force-unsafe-io";

/// Folders below which no file is to be, whoever put it there.
pub(super) const EMPTIED: [&str; 9] = [
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
    "tmp",
];

/// Where only files called `copyright`, and links to another package's folder, are to be.
pub(super) const DOCUMENTATION: &str = "usr/share/doc";

/// What only helped to make the image.
pub(super) const REMOVED: [&str; 5] = [
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list.d",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/diversions-old",
];

/// Runs at the end of the installation, on the host, with the tree's path. Python's byte code is compiled here, for a program that
/// has to do so at its first start in a sandbox takes four times as long, and root's is not the user's to write.
pub(super) const CUSTOMIZE: &str = r#"#!/bin/sh
set -eu
chroot "$1" useradd --uid 1000 --user-group --create-home --shell /bin/bash user
chroot "$1" passwd --quiet --lock root
chroot "$1" find /usr/lib/python3 /usr/lib/python3.[0-9]* -maxdepth 0 -exec \
    python3 -m compileall -q -j 0 -x '/(test|tests|lib2to3/tests|bad_coding)/' {} +
"#;

/// A file of the image.
pub(crate) struct ConfigFile {
    pub(crate) path: &'static str,
    pub(crate) mode: u32,
    pub(crate) content: &'static str,
}

/// Files that are ours to say.
pub(crate) const FILES: [ConfigFile; 8] = [
    ConfigFile { path: "etc/hostname", mode: 0o644, content: "sandbox\n" },
    ConfigFile {
        path: "etc/hosts",
        mode: 0o644,
        content: "127.0.0.1\tlocalhost\n127.0.1.1\tsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    },
    ConfigFile {
        path: "etc/resolv.conf",
        mode: 0o644,
        content: "nameserver 1.1.1.1\nnameserver 8.8.8.8\noptions timeout:2 attempts:3\n",
    },
    // Empty: of each machine that boots from it its own.
    ConfigFile { path: "etc/machine-id", mode: 0o444, content: "" },
    ConfigFile { path: "etc/sudoers.d/user", mode: 0o440, content: "user ALL=(ALL:ALL) NOPASSWD: ALL\n" },
    ConfigFile { path: "etc/default/locale", mode: 0o644, content: "LANG=C.UTF-8\n" },
    // A sandbox is a machine for one purpose: pip may install into it as it is, as root too, and asks no server about itself.
    ConfigFile {
        path: "etc/pip.conf",
        mode: 0o644,
        content: "[global]\nbreak-system-packages = true\nroot-user-action = ignore\ndisable-pip-version-check = true\n",
    },
    ConfigFile {
        path: "etc/apt/apt.conf.d/90sandbar",
        mode: 0o644,
        content: "Acquire::Languages \"none\";\n",
    },
];

/// All of the above, the release and the size, as a hash.
pub(super) fn hash(source: &DebianSource, size: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    };
    add(&VERSION.to_string());
    // Where the packages come from is not what they are: a change of mirror makes no new image.
    add(&source.public().lines().join("\n"));
    add(source.arch.as_str());
    add(&size.to_string());
    for list in [&PACKAGES[..], &DPKG_OPTIONS, &EMPTIED, &REMOVED, &[DOCUMENTATION, CUSTOMIZE]] {
        add(&list.len().to_string());
        list.iter().for_each(|part| add(part));
    }
    for ConfigFile { path, mode, content } in FILES {
        add(path);
        add(&mode.to_string());
        add(content);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}
