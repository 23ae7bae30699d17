//! Images into disks: what a sandbox needs is there afterwards, and what the image had is too.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use sandbar_oci::{Image, open_archive};
use sandbar_testkit::oci::{LayerBuilder, TestImage};
use sandbar_types::Arch;
use serde_json::json;

use super::*;
use crate::{Backing, StoreOptions};

const ROOT: (u32, u32) = (0, 0);

/// Lays out by hand what an image may bring, and furnishes it.
fn furnished(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<Option<&'static str>, ImageError>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    make(&root);
    let shell = furnish::furnish(&Tree::open(&root).unwrap());
    (dir, shell)
}

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn read(dir: &tempfile::TempDir, path: &str) -> String {
    fs::read_to_string(dir.path().join("root").join(path)).unwrap()
}

#[test]
fn nothing_becomes_something_to_live_in() {
    let (dir, shell) = furnished(|_| ());
    assert_eq!(shell.unwrap(), None);
    assert_eq!(
        read(&dir, "etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
    );
    assert_eq!(read(&dir, "etc/group"), "root:x:0:\nuser:x:1000:\n");
    assert_eq!(read(&dir, "etc/hostname"), "sandbox\n");
    assert!(read(&dir, "etc/resolv.conf").contains("nameserver"));
    let seen = |path: &str| dir.path().join("root").join(path).symlink_metadata().unwrap();
    assert_eq!((seen("home/user").uid(), seen("home/user").mode() & 0o7777), (1000, 0o700));
    assert_eq!(seen("tmp").permissions().mode() & 0o7777, 0o1777);
    assert!(!dir.path().join("root/etc/shadow").exists() && !dir.path().join("root/etc/sudoers.d").exists());
}

#[test]
fn what_the_image_has_stays() {
    let (dir, shell) = furnished(|root| {
        put(
            root,
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n# none\n:::",
        );
        put(root, "etc/group", "root:x:0:\nnode:x:1000:\ndocker:x:1001:");
        put(root, "etc/shadow", "root:*::0:::::\n");
        put(root, "etc/hosts", "127.0.0.1 mine\n");
        put(root, "etc/hostname", "");
        put(root, "usr/bin/bash", "");
        put(root, "usr/bin/sudo", "");
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
    });
    assert_eq!(shell.unwrap(), Some("/bin/bash"));
    assert!(read(&dir, "etc/passwd").ends_with("\n:::\nuser:x:1002:1002::/home/user:/bin/bash\n"));
    assert!(read(&dir, "etc/group").ends_with("docker:x:1001:\nuser:x:1002:\n"));
    assert_eq!(read(&dir, "etc/shadow"), "root:*::0:::::\nuser:!:19700:0:99999:7:::\n");
    assert_eq!(
        (read(&dir, "etc/hosts").as_str(), read(&dir, "etc/hostname").as_str()),
        ("127.0.0.1 mine\n", "sandbox\n")
    );
    assert!(read(&dir, "etc/resolv.conf").contains("nameserver"));
    assert!(read(&dir, "etc/sudoers.d/user").contains("NOPASSWD"));
    let (dir, _) = furnished(|root| {
        put(root, "etc/passwd", "user:x:7:8::/srv/mine:/bin/false\n");
        put(root, "etc/group", "user:x:8:\n");
    });
    assert_eq!(read(&dir, "etc/passwd"), "user:x:7:8::/srv/mine:/bin/false\n");
    assert_eq!(dir.path().join("root/srv/mine").metadata().unwrap().gid(), 8);
}

#[test]
fn a_hostile_image_does_not_reach_the_host() {
    for hide in ["etc", "home", "etc/passwd", "etc/resolv.conf", "etc/shadow", "etc/sudoers.d", "tmp"] {
        let (dir, _) = furnished(|root| {
            let outside = root.parent().unwrap().join("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("passwd"), "secret:x:1:1::/:/bin/sh\n").unwrap();
            put(root, "usr/bin/sudo", "");
            let target =
                if hide == "etc/passwd" || hide == "etc/shadow" { outside.join("passwd") } else { outside };
            fs::create_dir_all(root.join(hide).parent().unwrap()).unwrap();
            symlink(target, root.join(hide)).unwrap();
        });
        let outside = dir.path().join("outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["passwd"], "{hide}");
        assert_eq!(
            fs::read_to_string(outside.join("passwd")).unwrap(),
            "secret:x:1:1::/:/bin/sh\n",
            "{hide}"
        );
    }
    // A pipe would be waited at forever, and a device would be read.
    for (kind, arguments) in [("p", vec![]), ("c", vec!["1", "5"])] {
        let (dir, _) = furnished(|root| {
            fs::create_dir(root.join("etc")).unwrap();
            let made = Command::new("mknod")
                .arg(root.join("etc/passwd"))
                .arg(kind)
                .args(arguments)
                .status()
                .unwrap();
            assert!(made.success());
        });
        assert!(read(&dir, "etc/passwd").contains("user:x:1000"));
    }
}

fn image(layers: Vec<Vec<u8>>) -> Image {
    let arch = match Arch::host() {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, TestImage::new(layers, json!({}), arch).layout(&[])).unwrap();
    open_archive(&path, dir.path(), 1 << 30, Arch::host(), &|_| Ok(())).unwrap()
}

#[test]
fn a_disk_holds_what_the_layers_say_and_nothing_is_left_of_the_making() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { backing: Backing::Native, reserve: Some(0), ..StoreOptions::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    let (id, other) = (Id::new(), Id::new());
    let import = store.begin_import(id, 256 << 20).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = LayerBuilder::default()
        .attribute("SCHILY.xattr.security.capability", &capability)
        .file("bin/sh", 0o4755, ROOT, b"shell")
        .node(tar::EntryType::Char, "etc/null", (1, 3))
        .file("owned", 0o640, (70_000, 5), b"x")
        .finish();
    let made = import.make_disk(&image(vec![layer]), &|_| Ok(())).unwrap();
    assert_eq!(made.shell, Some("/bin/sh"));
    let disk = made.draft.path(TemplateFile::Disk);
    assert_eq!(disk.metadata().unwrap().len(), 256 << 20);
    let debugfs = |command: &str| {
        let output = Command::new("debugfs").args(["-R", command]).arg(&disk).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(debugfs("cat /bin/sh"), "shell");
    let shell = debugfs("stat /bin/sh");
    assert!(shell.contains("04755") && shell.contains("security.capability (20)"), "{shell}");
    assert!(debugfs("stat /etc/null").contains("character special"));
    let owned = debugfs("stat /owned");
    assert!(owned.contains("User: 70000") && owned.contains("0640"), "{owned}");
    assert!(debugfs("cat /etc/passwd").contains("user:x:1000"));
    drop(made);
    // One that is ended in the middle, and one that is too large.
    let big = image(vec![LayerBuilder::default().file("big", 0o644, ROOT, &vec![1; 200 << 20]).finish()]);
    let ended = store
        .begin_import(other, 1 << 30)
        .unwrap()
        .make_disk(&big, &|_| Err(ImageError::Stopped("no".into())));
    assert!(matches!(ended, Err(ImportError::Image(ImageError::Stopped(_)))), "{ended:?}");
    let large = store.begin_import(other, 256 << 20).unwrap().make_disk(&big, &|_| Ok(()));
    assert!(matches!(large, Err(ImportError::Image(ImageError::TooLarge(_)))), "{large:?}");
    let sessions = fs::read_dir(dir.path().join("tmp")).unwrap();
    let left: Vec<_> = sessions.flat_map(|session| fs::read_dir(session.unwrap().path()).unwrap()).collect();
    assert_eq!(left.len(), 0, "{left:?}");
}
