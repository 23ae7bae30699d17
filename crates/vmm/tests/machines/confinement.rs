//! What a VMM can do and reach: asked of the kernel, and tried as its user inside its namespaces.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space,
    set_capabilities, set_thread_res_uid, unshare_unsafe,
};
use sandbar_vmm::{ProcessIdentity, SnapshotFiles, Vmm};

use crate::guest::{Place, past, vmm, within};

/// Fields of `/proc/PID/status`.
fn status(process: ProcessIdentity) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn namespace(process: impl std::fmt::Display, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap()
}

/// Runs `look` on a thread that has the process's root and is its user, without any capability.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which ends with the look")]
fn inside<T: Send + 'static>(
    process: ProcessIdentity,
    user: u32,
    look: impl FnOnce() -> T + Send + 'static,
) -> T {
    let looking = std::thread::spawn(move || {
        let mounts = File::open(format!("/proc/{}/ns/mnt", process.pid)).unwrap();
        // SAFETY: only this thread's working folder and root are its own from here on.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)).unwrap();
        let user = Uid::from_raw(user);
        set_thread_res_uid(user, user, user).unwrap();
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .unwrap();
        look()
    });
    looking.join().unwrap()
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn refused<T>(result: io::Result<T>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().kind()
}

async fn snapshot(vmm: &impl Vmm, place: &mut Place) -> SnapshotFiles {
    let spec = place.spec("origin");
    let source = place.source("snapshot.memory");
    let machine = vmm.boot(&spec, &source).await.unwrap();
    past(&*machine, 3).await;
    machine.pause().await.unwrap();
    let files = SnapshotFiles { state: place.path("snapshot.state"), memory: source.memory };
    machine.save(&files).await.unwrap();
    machine.kill().await.unwrap();
    files
}

/// The folder of the machine's group that bounds memory, and the name of the limit's file there.
fn memory_group(process: ProcessIdentity) -> (PathBuf, &'static str, &'static str) {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
    let root = Path::new("/sys/fs/cgroup");
    for line in text.lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == "memory") {
            return (root.join("memory").join(path), "memory.limit_in_bytes", "memory.usage_in_bytes");
        }
        if controllers.is_empty() && root.join(path).join("memory.max").exists() {
            return (root.join(path), "memory.max", "memory.current");
        }
    }
    panic!("memory is not bounded: {text}")
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_vmm_is_a_user_of_its_own_without_any_privilege() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let files = snapshot(&vmm, &mut place).await;
    let specs = [place.spec("one"), place.spec("two")];
    let mut machines = Vec::new();
    for spec in &specs {
        machines.push(vmm.restore(spec, &files).await.unwrap());
    }
    for (spec, machine) in specs.iter().zip(&machines) {
        let process = machine.process();
        let status = status(process);
        let user = spec.confinement.user.to_string();
        for ids in ["Uid", "Gid"] {
            assert_eq!(status[ids].split_whitespace().collect::<Vec<_>>(), [&*user; 4], "{ids}");
        }
        assert_eq!(status["Groups"], "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status[set], 16).unwrap(), 0, "{set}");
        }
        assert_eq!((&*status["NoNewPrivs"], &*status["Seccomp"]), ("1", "2"));
        assert_eq!(status["NSpid"].split_whitespace().last(), Some("1"), "{}", status["NSpid"]);
        for kind in ["mnt", "pid", "net", "ipc", "uts"] {
            assert_ne!(namespace(process.pid, kind), namespace("self", kind), "{kind}");
        }
        let slot = fs::metadata(&spec.netns).unwrap().ino();
        assert_eq!(namespace(process.pid, "net").to_str().unwrap(), format!("net:[{slot}]"));
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    }
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        let [one, two] = [0, 1].map(|index| namespace(machines[index].process().pid, kind));
        assert_ne!(one, two, "{kind}");
    }
    for machine in machines {
        machine.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_vmm_reaches_nothing_of_the_host_and_of_other_machines() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let files = snapshot(&vmm, &mut place).await;
    let (spec, other) = (place.spec("one"), place.spec("two"));
    let machine = vmm.restore(&spec, &files).await.unwrap();
    let process = machine.process();
    let (root, theirs, memory) = (place.root().to_owned(), other.disk.clone(), files.memory.clone());
    let frozen = fs::metadata(&memory).unwrap().len();
    inside(process, spec.confinement.user, move || {
        for outside in
            [&*root, &theirs, &memory, Path::new("/proc/self"), Path::new("/root"), Path::new("/tmp")]
        {
            assert_eq!(refused(fs::metadata(outside)), ErrorKind::NotFound, "{outside:?}");
        }
        let top = names("/");
        let known = ["dev", "etc", "files", "lib", "lib64", "qemu-system-x86_64", "usr"];
        assert!(top.iter().all(|name| known.contains(&&**name)), "{top:?}");
        assert_eq!(names("/dev"), ["null", "random", "urandom", "zero"]);
        assert_eq!(names("/etc"), ["ld.so.cache"]);
        assert_eq!(names("/files"), ["initramfs", "kernel", "memory"]);
        for place in ["/x", "/files/x", "/dev/x", "/usr/lib/x"] {
            assert_eq!(refused(File::create(place)), ErrorKind::ReadOnlyFilesystem, "{place}");
        }
        // Its snapshot's memory, which others run from as well, and the program that all of them run.
        assert_eq!(File::open("/files/memory").unwrap().metadata().unwrap().len(), frozen);
        for shared in ["/files/memory", "/qemu-system-x86_64"] {
            let opened = File::options().write(true).open(shared);
            assert!(
                matches!(refused(opened), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied),
                "{shared}"
            );
        }
        let up = File::open("/..").unwrap().metadata().unwrap();
        assert_eq!(up.ino(), fs::metadata("/").unwrap().ino(), "there is something above its root");
    });
    // Of the host's files it has its own disk open, and what it was restored from.
    let root = place.root().canonicalize().unwrap();
    let own = [&spec.disk, &files.state].map(|file| file.canonicalize().unwrap());
    for entry in fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        assert!(!target.starts_with(&root) || own.contains(&target), "{target:?} is open");
    }
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn the_memory_that_many_share_cannot_be_changed_by_a_machine() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (spec, source) = (place.spec("booted"), place.source("empty.memory"));
    let booted = vmm.boot(&spec, &source).await.unwrap();
    let files = snapshot(&vmm, &mut place).await;
    let spec = place.spec("one");
    let restored = vmm.restore(&spec, &files).await.unwrap();
    for memory in [source.memory, files.memory] {
        let found = fs::metadata(&memory).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o444), "{}", memory.display());
    }
    booted.kill().await.unwrap();
    restored.kill().await.unwrap();
}

/// The kernel looks for what to kill in the group that is full, and finds the largest process there.
#[tokio::test]
async fn who_takes_more_memory_than_its_own_is_ended_and_nobody_else() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let files = snapshot(&vmm, &mut place).await;
    let specs = [place.spec("one"), place.spec("two")];
    let one = vmm.restore(&specs[0], &files).await.unwrap();
    let two = vmm.restore(&specs[1], &files).await.unwrap();
    let (group, limit, usage) = memory_group(one.process());
    let bound = number(&group.join(limit));
    assert!(bound >= u64::from(specs[0].memory_mb) << 20 && bound < 1 << 30, "{bound}");

    let resident = status(one.process())["VmRSS"].trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    fs::write(group.join(limit), (number(&group.join(usage)) + resident / 4).to_string()).unwrap();
    let join = format!(
        "echo $$ > {}/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs={} count=1000000000 status=none",
        group.display(),
        resident / 2
    );
    let mut hog = Command::new("sh").args(["-c", &join]).spawn().unwrap();
    within("the end of the one", one.exited()).await;
    let seen = past(&*two, 0).await;
    past(&*two, seen.counter).await;
    hog.kill().unwrap();
    hog.wait().unwrap();
    one.kill().await.unwrap();
    two.kill().await.unwrap();
}

#[tokio::test]
async fn a_machines_group_goes_with_it_however_it_ends() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let files = snapshot(&vmm, &mut place).await;
    let mut groups = Vec::new();
    let mut started = async |name: &str| {
        let spec = place.spec(name);
        let machine = vmm.restore(&spec, &files).await.unwrap();
        groups.push(memory_group(machine.process()).0);
        (spec, machine)
    };
    let (_, killed) = started("killed").await;
    let (_, died) = started("died").await;
    let (spec, left) = started("left").await;
    let process = left.process();
    drop(left);
    let adopted = vmm.adopt(&spec.work_dir, &files.memory, process).await.unwrap();
    assert!(groups.iter().all(|group| group.exists()));
    killed.kill().await.unwrap();
    sandbar_vmm::process::kill(died.process()).await.unwrap();
    within("the end", died.exited()).await;
    adopted.kill().await.unwrap();
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

/// A guest that writes all over its disk file's end gets nowhere: the image is as large as it is.
#[tokio::test]
async fn a_disk_does_not_grow() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let spec = place.spec("one");
    let large = 64 << 20;
    File::options().write(true).open(&spec.disk).unwrap().set_len(large).unwrap();
    let machine = vmm.boot(&spec, &place.source("memory")).await.unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", machine.process().pid)).unwrap();
    let bound = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    assert_eq!(bound.split_whitespace().nth(3), Some(&*large.to_string()));
    // What the descriptor that it has would allow without that bound.
    let disk = File::options().write(true).open(&spec.disk).unwrap();
    disk.write_all_at(b"x", large + 1).unwrap();
    machine.kill().await.unwrap();
}
