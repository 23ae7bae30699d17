//! What a process is to the host.

use std::{
    fs,
    num::NonZeroU64,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use sandbar_vmm::{DiskRate, Vmm};
use serde_json::json;

use super::place::{Place, drives, jail_of};

pub(crate) async fn a_process_has_its_user_its_namespaces_and_its_files_alone(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&files.memory), 0o400, "an image is nobody's to write");
    let spec = place.spec("one");
    let machine = vmm.restore(&spec, &files).await.unwrap();
    let pid = machine.process().pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_ascii_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let user = spec.confinement.user;
    let us = user.to_string();
    assert_eq!(line("Uid:"), vec![us.clone(); 4]);
    assert_eq!(line("Gid:"), vec![us; 4]);
    assert_eq!(line("Groups:"), Vec::<String>::new());
    assert_eq!(line("CapEff:"), ["0000000000000000"]);
    assert_eq!(line("NSpid:").last().unwrap(), "1");
    // The least that a file may have is more than its memory and its disk here.
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, most) in [("Max file size", 16 << 20), ("Max open files", 512), ("Max core file size", 0)] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(line.split_ascii_whitespace().take(2).all(|limit| limit == most.to_string()), "{name}{line}");
    }
    // In its own control group, wherever there is one.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let parents = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_ne!(groups, parents, "it takes what it likes");
    let ours = format!("/{}.", spec.confinement.group);
    assert!(groups.lines().any(|line| line.contains(&ours)), "{groups}");
    for kind in ["mnt", "pid", "net"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let namespace = fs::metadata(&spec.netns).unwrap().ino();
    assert_eq!(fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino(), namespace);
    let mut names: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/root")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected =
        ["api.socket", "dev", "disk.ext4", "firecracker", "firecracker.pid", "memory", "run", "state"];
    assert_eq!(names, expected);
    // Links, not copies; and the image is shared, so read only.
    let inside = |name: &str| fs::metadata(jail_of(&spec).join(name)).unwrap();
    assert_eq!(inside("memory").ino(), fs::metadata(&files.memory).unwrap().ino());
    assert_eq!(inside("disk.ext4").ino(), fs::metadata(&spec.disk).unwrap().ino());
    assert_eq!((inside("memory").uid(), mode(&files.memory)), (0, 0o444));
    assert_eq!((inside("disk.ext4").uid(), mode(&spec.disk)), (user, 0o600));
    assert_eq!(mode(&spec.work_dir.join("jail")), 0o700);
    let saved = place.save(&*machine, "next").await.0;
    for file in [&saved.memory, &saved.state] {
        assert_eq!(fs::metadata(file).unwrap().uid(), 0);
    }
    assert!(!jail_of(&spec).join("memory.new").exists());
    machine.kill().await.unwrap();
    place.assert_nothing_left(&[&spec]);
}

pub(crate) async fn its_disk_is_as_fast_as_it_may_be(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    let mut spec = place.spec("one");
    let bound = |size: u64, refill_time: u64| json!({ "size": size, "refill_time": refill_time });
    let rates = [(None, bound(0, 0)), (NonZeroU64::new(1_000_000), bound(1_000_000, 1_000))];
    for (bytes, bandwidth) in rates {
        spec.disk_rate = DiskRate { requests: None, bytes };
        let machine = vmm.restore(&spec, &files).await.unwrap();
        assert_eq!(drives(&spec)[0]["rate_limiter"], json!({ "bandwidth": bandwidth, "ops": bound(0, 0) }));
        machine.kill().await.unwrap();
    }
    place.assert_nothing_left(&[&spec]);
}
