//! The kernel and the base image, for real: from Debian's packages, once per build folder, since that takes a minute and a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::fixture::{fill, spec};
use sandbar_storage::{
    Backing, BaseImageOptions, DebianSource, GuestBinaries, Store, StoreOptions, TemplateSpec,
    build_base_image, prepare_kernel,
};
use sandbar_types::{Id, TemplateKind, TemplateName};

/// A store that stays. Without a mount: nobody would take it away.
fn lasting_store() -> Store {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-system");
    let options = StoreOptions { backing: Backing::Native, ..StoreOptions::default() };
    Store::open(&dir, &options).unwrap()
}

/// Runs `work` with a progress display that remembers.
fn steps<T>(work: impl FnOnce(&dyn sandbar_storage::Progress) -> T) -> (T, Vec<String>) {
    let seen = Mutex::new(Vec::new());
    let result = work(&|text: &str| seen.lock().unwrap().push(text.to_owned()));
    (result, seen.into_inner().unwrap())
}

fn output(program: &str, args: &[&str], input: Option<&Path>) -> String {
    let stdin = input.map_or(Stdio::null(), |path| fs::File::open(path).unwrap().into());
    let output = Command::new(program).args(args).stdin(stdin).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_kernel_and_its_initramfs() {
    let store = lasting_store();
    let source = DebianSource::detect().unwrap();
    let prepare = |agent: &[u8]| {
        let binaries = GuestBinaries { init: b"the init", agent };
        steps(|progress| prepare_kernel(&store, binaries, &source, progress).unwrap())
    };
    let (first, _) = prepare(b"the agent");
    assert!(first.release.contains("-cloud-"), "{}", first.release);
    let vmlinux = fs::read(&first.vmlinux).unwrap();
    assert!(vmlinux.starts_with(b"\x7fELF"));
    let release = first.release.as_bytes();
    assert!(vmlinux.windows(release.len()).any(|window| window == release), "the kernel is of its release");

    let listed = output("cpio", &["-t", "--quiet"], Some(&first.initramfs));
    let names: Vec<_> = listed.lines().collect();
    for name in ["init", "sandbar/init", "sandbar/guest-agent", "modules/order", "dev/console"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let unpacked = tempfile::tempdir().unwrap();
    let mut cpio = Command::new("cpio");
    let cpio = cpio
        .args(["-i", "--quiet", "--make-directories", "modules/*", "sandbar/*"])
        .current_dir(unpacked.path());
    assert!(cpio.stdin(fs::File::open(&first.initramfs).unwrap()).status().unwrap().success());
    assert_eq!(fs::read(unpacked.path().join("sandbar/guest-agent")).unwrap(), b"the agent");
    let order = fs::read_to_string(unpacked.path().join("modules/order")).unwrap();
    assert!(order.lines().any(|line| line.starts_with("nbd.ko ")), "with its parameters: {order}");
    let order: Vec<_> = order.lines().filter_map(|line| line.split(' ').next()).collect();
    let place = |name: &str| {
        order.iter().position(|file| *file == name).unwrap_or_else(|| panic!("{name} in {order:?}"))
    };
    for (earlier, later) in [
        ("virtio.ko", "virtio_mmio.ko"),
        ("virtio_ring.ko", "virtio_mmio.ko"),
        ("virtio_ring.ko", "virtio_blk.ko"),
        ("failover.ko", "net_failover.ko"),
        ("net_failover.ko", "virtio_net.ko"),
    ] {
        assert!(place(earlier) < place(later), "{order:?}");
    }
    for file in &order {
        assert!(
            fs::read(unpacked.path().join("modules").join(file)).unwrap().starts_with(b"\x7fELF"),
            "{file}"
        );
    }

    // The same again costs nothing; a new agent needs no package; what no template names goes.
    let (again, told) = prepare(b"the agent");
    assert_eq!((again, told), (first.clone(), vec![]));
    let template = store.begin_template(Id::new(), 0).unwrap();
    fill(&template, 1);
    let of_first = TemplateSpec { kernel: first.hash.clone(), ..spec(TemplateKind::Base) };
    let template = template.commit(of_first).unwrap();
    let (second, told) = prepare(b"another agent");
    assert_eq!(told, ["making the initramfs"]);
    assert_ne!(second.hash, first.hash);
    assert_eq!(fs::read(&second.vmlinux).unwrap(), vmlinux);
    assert_eq!(store.kernel(&first.hash).unwrap(), Some(first.clone()));
    store.delete_template(template.id()).unwrap();
    prepare(b"another agent");
    assert_eq!(store.kernel(&first.hash).unwrap(), None);
    assert_eq!(store.kernel(&second.hash).unwrap(), Some(second.clone()));

    // One that lost a part of itself is as good as missing. (The part is put back: another run makes its kernel from this one.)
    let whole = fs::read(&second.initramfs).unwrap();
    fs::write(&second.initramfs, "cut short").unwrap();
    assert_eq!(store.kernel(&second.hash).unwrap(), None);
    fs::write(&second.initramfs, whole).unwrap();
    assert_eq!(store.kernel(&second.hash).unwrap(), Some(second));
}

#[test]
fn the_base_image() {
    let store = lasting_store();
    let options = BaseImageOptions::new(DebianSource::detect().unwrap());
    let image = build_base_image(&store, &options, &|_: &str| {}).unwrap();
    let (again, told) = steps(|progress| build_base_image(&store, &options, progress).unwrap());
    assert_eq!((again.manifest, told), (image.manifest.clone(), vec![]));
    assert_eq!(store.image(&TemplateName::base()).unwrap().unwrap().rootfs(), image.rootfs());

    let rootfs: PathBuf = image.rootfs();
    let rootfs = rootfs.to_str().unwrap();
    let debugfs = |request: &str| output("debugfs", &["-R", request, rootfs], None);
    assert_eq!(fs::metadata(rootfs).unwrap().len(), 4 << 30);
    output("e2fsck", &["-f", "-n", rootfs], None);
    let header = output("dumpe2fs", &["-h", rootfs], None);
    let state = header.lines().find(|line| line.starts_with("Filesystem state:")).unwrap();
    assert!(state.ends_with(" clean"), "{state}");
    assert!(header.contains("has_journal"));
    let groups = output("dumpe2fs", &[rootfs], None);
    let all = groups.lines().filter(|line| line.starts_with("Group ") && line.contains("(Blocks ")).count();
    let zeroed = groups.matches("ITABLE_ZEROED").count();
    assert_eq!(all, zeroed, "a guest's kernel has inode tables left to write");

    let cat = |path: &str| debugfs(&format!("cat {path}"));
    assert!(cat("/etc/passwd").contains("user:x:1000:1000::/home/user:/bin/bash\n"));
    assert!(cat("/etc/shadow").contains("root:!"), "root's password is locked");
    assert_eq!(cat("/etc/machine-id"), "");
    assert_eq!(cat("/etc/hostname"), "sandbox\n");
    assert!(cat("/etc/resolv.conf").contains("nameserver 1.1.1.1\n"));
    assert!(
        !cat("/etc/apt/sources.list").contains("backports")
            && cat("/etc/apt/sources.list").contains("deb.debian.org")
    );
    let stat = |path: &str| debugfs(&format!("stat {path}"));
    assert!(
        stat("/etc/sudoers.d/user").contains("Mode:  0440")
            && stat("/etc/sudoers.d/user").contains("User:     0")
    );
    assert!(stat("/home/user").contains("User:  1000   Group:  1000"));
    assert!(stat("/usr/bin/sudo").contains("Mode:  04755"));
    assert!(stat("/tmp").contains("Mode:  01777"));
    for program in ["bash", "python3", "python", "pip", "git", "curl", "ps", "ip", "tput", "less", "apt-get"]
    {
        assert!(stat(&format!("/usr/bin/{program}")).contains("Inode:"), "{program}");
    }
    assert!(stat("/usr/lib/git-core/git-daemon").contains("Inode:"));
    for emptied in ["/var/lib/apt/lists", "/usr/share/man", "/usr/share/locale", "/var/log"] {
        // Lines of `/inode/mode/uid/gid/name/size/`: folders only.
        let listed = debugfs(&format!("ls -p {emptied}"));
        assert!(
            listed.lines().all(|line| line.is_empty() || line.split('/').nth(2).unwrap().starts_with("04")),
            "{listed}"
        );
    }
    assert!(stat("/usr/share/doc/bash/copyright").contains("Inode:"), "licences stay");
    assert!(stat("/var/log/apt").contains("Type: directory"));
}
