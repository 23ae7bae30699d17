//! The `qemu` driver against real QEMU processes, in software emulation. Needs root (network namespaces), QEMU, binutils, iproute2.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod confinement;
mod guest;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use guest::{MEMORY_MB, Place, line, past, vmm, within};
use sandbar_vmm::{
    Machine, MachineSpec, QemuVmm, Saved, SnapshotFiles, Vmm, VmmError,
    probe::{KvmProbe, KvmVerdict, ProbedVmm},
    process::{self, machines_under},
};

async fn boot(vmm: &QemuVmm, place: &mut Place, name: &str) -> (MachineSpec, Box<dyn Machine>) {
    let spec = place.spec(name);
    let machine = vmm.boot(&spec, &place.source(&format!("{name}.memory"))).await.unwrap();
    (spec, machine)
}

/// Boots, saves and freezes a machine. Returns the snapshot and the last line that the guest wrote before.
async fn snapshot(vmm: &QemuVmm, place: &mut Place) -> (SnapshotFiles, guest::Line) {
    let spec = place.spec("origin");
    snapshot_of(vmm, place, &spec).await
}

async fn snapshot_of(vmm: &QemuVmm, place: &Place, spec: &MachineSpec) -> (SnapshotFiles, guest::Line) {
    let source = place.source("snapshot.memory");
    let machine = vmm.boot(spec, &source).await.unwrap();
    past(&*machine, 3).await;
    machine.pause().await.unwrap();
    let files = SnapshotFiles { state: place.path("snapshot.state"), memory: source.memory };
    let saved = machine.save(&files).await.unwrap();
    assert!(saved.changed_bytes > 0, "{saved:?}");
    let last = line(&*machine).unwrap();
    machine.kill().await.unwrap();
    (files, last)
}

/// Pauses a restored machine and saves it into `name.state` and `name.memory`.
async fn save(place: &Place, machine: &dyn Machine, name: &str) -> (SnapshotFiles, Saved, guest::Line) {
    machine.pause().await.unwrap();
    let files = SnapshotFiles {
        state: place.path(&format!("{name}.state")),
        memory: place.path(&format!("{name}.memory")),
    };
    fs::copy(machine.memory_image(), &files.memory).unwrap();
    let saved = machine.save(&files).await.unwrap();
    (files, saved, line(machine).unwrap())
}

#[tokio::test]
async fn a_machine_runs_pauses_and_runs_on() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (_, machine) = boot(&vmm, &mut place, "one").await;
    let first = past(&*machine, 1).await;
    machine.pause().await.unwrap();
    machine.pause().await.unwrap();
    let stopped = line(&*machine).unwrap();
    // Round trips through the machine's main loop, in which a running guest would count on.
    for _ in 0..20 {
        machine.pause().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(line(&*machine).unwrap(), stopped, "a paused guest went on");
    machine.resume().await.unwrap();
    machine.resume().await.unwrap();
    let later = past(&*machine, stopped.counter).await;
    assert_eq!(first.nonce, later.nonce);
    machine.kill().await.unwrap();
    machine.kill().await.unwrap();
    within("the end", machine.exited()).await;
    assert_eq!(place.processes(), 0);
    assert!(matches!(machine.pause().await, Err(VmmError::Ended { .. } | VmmError::Control { .. })));
}

#[tokio::test]
async fn a_machine_can_be_saved_again_and_again_and_goes_on() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (files, first) = snapshot(&vmm, &mut place).await;
    let spec = place.spec("one");
    let machine = vmm.restore(&spec, &files).await.unwrap();
    past(&*machine, first.counter).await;
    assert!(
        matches!(machine.save(&files).await, Err(VmmError::NotPaused { .. })),
        "a running guest would change under the copy"
    );
    for round in 0..5 {
        let (saved, _, stopped) = save(&place, &*machine, &format!("round-{round}")).await;
        let size = fs::metadata(&saved.state).unwrap().len();
        assert!(size > 1_000 && size < 1 << 20, "{size} bytes: the memory has no place in the state");
        assert!(matches!(machine.save(&saved).await, Err(VmmError::File { .. })), "a state was overwritten");
        machine.resume().await.unwrap();
        assert_eq!(past(&*machine, stopped.counter).await.nonce, first.nonce);
        // A snapshot of a machine that goes on is one like any other.
        let clone = place.spec(&format!("clone-{round}"));
        let clone = vmm.restore(&clone, &saved).await.unwrap();
        assert_eq!(past(&*clone, stopped.counter).await.nonce, first.nonce);
        clone.kill().await.unwrap();
    }
    machine.kill().await.unwrap();
}

/// The guest itself checks with every line that its pages, written ones and zeroed ones, are as it left them.
#[tokio::test]
async fn a_long_chain_of_saves_and_restores_keeps_every_page() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (mut files, mut last) = snapshot(&vmm, &mut place).await;
    for cycle in 0..30 {
        let spec = place.spec(&format!("cycle-{cycle}"));
        let machine = vmm.restore(&spec, &files).await.unwrap();
        let resumed = past(&*machine, last.counter + 8).await;
        assert_eq!(resumed.nonce, last.nonce, "a reboot passed for a restore");
        assert!(machine.changed_memory().await.unwrap() > 0);
        let (next, saved, stopped) = save(&place, &*machine, &format!("cycle-{cycle}")).await;
        assert!((1..1 << 20).contains(&saved.changed_bytes), "{saved:?}: only what changed is written");
        assert!(saved.zeroed_bytes > 0, "{saved:?}");
        machine.kill().await.unwrap();
        for old in [&files.state, &files.memory] {
            fs::remove_file(old).unwrap();
        }
        (files, last) = (next, stopped);
    }
    assert!(last.counter > 30 * 8);
}

/// The file holds the guest's memory from end to end; the guest sees the part above 3 GB from 4 GB on.
#[tokio::test]
async fn memory_above_three_gigabytes_and_a_second_processor_are_saved_too() {
    use std::os::unix::fs::FileExt;
    let (vmm, mut place) = (vmm().await, Place::new());
    let large = |name: &str, place: &mut Place| MachineSpec { vcpus: 2, memory_mb: 3584, ..place.spec(name) };
    let above = |memory: &Path| {
        let mut word = [0; 4];
        fs::File::open(memory).unwrap().read_exact_at(&mut word, 3 << 30).unwrap();
        u32::from_le_bytes(word)
    };
    let spec = large("origin", &mut place);
    let (mut files, mut last) = snapshot_of(&vmm, &place, &spec).await;
    for cycle in 0..3 {
        let spec = large(&format!("cycle-{cycle}"), &mut place);
        let machine = vmm.restore(&spec, &files).await.unwrap();
        assert_eq!(past(&*machine, last.counter + 3).await.nonce, last.nonce);
        let (next, saved, stopped) = save(&place, &*machine, &format!("cycle-{cycle}")).await;
        assert!(saved.changed_bytes < 1 << 20, "{saved:?}");
        assert!(stopped.counter.abs_diff(above(&next.memory)) <= 1, "{stopped:?}: {}", above(&next.memory));
        machine.kill().await.unwrap();
        (files, last) = (next, stopped);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_during_a_save_harms_nothing() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (files, first) = snapshot(&vmm, &mut place).await;
    let spec = place.spec("one");
    let machine = vmm.restore(&spec, &files).await.unwrap();
    past(&*machine, first.counter).await;
    let (known, _, stopped) = save(&place, &*machine, "known").await;
    let (page, size) = (4096, 64 << 10);
    let state_pages = usize::try_from(fs::metadata(&known.state).unwrap().len()).unwrap().div_ceil(page);
    let small = place.small_filesystem("small", size);
    // QEMU does not say why it could not write the state.
    let full = |error: VmmError| match &error {
        VmmError::Control { .. } => {}
        _ => {
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let mut reasons = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
            assert!(reasons.any(|reason| reason.kind() == io::ErrorKind::StorageFull), "{error:?}");
        }
    };
    // The state fits and not the memory, whose image is all holes; then not even the state.
    for pages_left in [state_pages + 1, 0] {
        let memory = small.join("memory");
        fs::File::create(&memory).unwrap().set_len(u64::from(MEMORY_MB) << 20).unwrap();
        fs::write(small.join("filler"), vec![1; size - pages_left * page]).unwrap();
        let into = SnapshotFiles { state: small.join("state"), memory };
        full(machine.save(&into).await.unwrap_err());
        assert!(!into.state.exists(), "half a snapshot is left");
        machine.resume().await.unwrap();
        machine.pause().await.unwrap();
    }
    machine.resume().await.unwrap();
    assert_eq!(past(&*machine, stopped.counter).await.nonce, first.nonce);
    let (saved, _, last) = save(&place, &*machine, "later").await;
    let clone = place.spec("clone");
    let clone = vmm.restore(&clone, &saved).await.unwrap();
    assert_eq!(past(&*clone, last.counter).await.nonce, first.nonce);
    for machine in [machine, clone] {
        machine.kill().await.unwrap();
    }
}

#[tokio::test]
async fn clones_go_on_where_the_snapshot_was_taken_and_leave_it_as_it_is() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (files, last) = snapshot(&vmm, &mut place).await;
    let frozen = fs::read(&files.memory).unwrap();
    for round in 0..2 {
        let specs: Vec<_> = (0..3).map(|clone| place.spec(&format!("clone-{round}-{clone}"))).collect();
        let starts = specs.iter().map(|spec| vmm.restore(spec, &files));
        let machines: Vec<_> =
            futures::future::join_all(starts).await.into_iter().map(Result::unwrap).collect();
        for machine in &machines {
            let resumed = past(&**machine, last.counter).await;
            assert_eq!(resumed.nonce, last.nonce, "a reboot passed for a restore");
            // The line that a clone writes first is the one after the snapshot's.
            assert!(resumed.counter - last.counter < 1_000, "{resumed:?} after {last:?}");
        }
        for machine in &machines {
            machine.kill().await.unwrap();
        }
    }
    assert!(fs::read(&files.memory).unwrap() == frozen, "a clone wrote into the snapshot");
    assert_eq!(place.processes(), 0);
}

#[tokio::test]
async fn a_booted_machine_is_saved_as_a_restored_one_is_and_runs_on() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (_, machine) = boot(&vmm, &mut place, "one").await;
    past(&*machine, 3).await;
    assert!(machine.changed_memory().await.unwrap() > 0);
    // Into a copy of what its memory began as, which stays as it was: other copies can be made.
    for name in ["first", "second"] {
        let (files, saved, last) = save(&place, &*machine, name).await;
        assert!(saved.changed_bytes > 0, "{saved:?}");
        assert_eq!(fs::metadata(machine.memory_image()).unwrap().blocks(), 0);
        machine.resume().await.unwrap();
        past(&*machine, last.counter).await;
        let clone = vmm.restore(&place.spec(name), &files).await.unwrap();
        assert_eq!(past(&*clone, last.counter).await.nonce, last.nonce);
        clone.kill().await.unwrap();
    }
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn a_machine_outlives_its_handle_and_is_taken_over() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (spec, machine) = boot(&vmm, &mut place, "one").await;
    let before = past(&*machine, 1).await;
    let (process, memory) = (machine.process(), place.path("one.memory"));
    drop(machine);
    let found = machines_under(place.root()).unwrap();
    assert_eq!(found, [(spec.work_dir.canonicalize().unwrap(), process)]);

    let mut other = process;
    other.start_time += 1;
    assert!(matches!(vmm.adopt(&spec.work_dir, &memory, other).await, Err(VmmError::Gone { .. })));

    // Twice: the socket has to take the next one as well.
    for _ in 0..2 {
        let adopted = vmm.adopt(&spec.work_dir, &memory, process).await.unwrap();
        assert_eq!(adopted.process(), process);
        let seen = past(&*adopted, before.counter).await;
        assert_eq!(seen.nonce, before.nonce);
        adopted.pause().await.unwrap();
        adopted.resume().await.unwrap();
    }
    let adopted = vmm.adopt(&spec.work_dir, &memory, process).await.unwrap();
    adopted.pause().await.unwrap();
    let files = SnapshotFiles { state: place.path("state"), memory: place.path("one.memory") };
    assert_eq!(adopted.memory_image(), files.memory);
    adopted.save(&files).await.unwrap();
    adopted.kill().await.unwrap();
    assert!(matches!(vmm.adopt(&spec.work_dir, &memory, process).await, Err(VmmError::Gone { .. })));
}

#[tokio::test]
async fn a_machine_that_dies_is_noticed_by_all_and_leaves_no_zombie() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (_, machine) = boot(&vmm, &mut place, "one").await;
    past(&*machine, 1).await;
    let process = machine.process();
    // Given up at once, so as to leave no trace in the next one.
    assert!(tokio::time::timeout(Duration::from_millis(1), machine.exited()).await.is_err());
    let ended = async { tokio::join!(machine.exited(), machine.exited(), process::kill(process)) };
    let ((), (), killed) = within("the end", ended).await;
    killed.unwrap();
    assert!(!Path::new(&format!("/proc/{}", process.pid)).exists());
    assert!(matches!(machine.resume().await, Err(VmmError::Ended { .. })));
}

#[tokio::test]
async fn a_failed_start_says_why_and_leaves_nothing() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let (files, _) = snapshot(&vmm, &mut place).await;
    let good = place.spec("good");

    let no_tap = MachineSpec { tap: "tap7".to_owned(), ..good.clone() };
    let no_disk = MachineSpec { disk: place.path("none"), ..good.clone() };
    let no_namespace = MachineSpec { netns: "/run/netns/none".into(), ..good.clone() };
    let complaint = |result: Result<Box<dyn Machine>, VmmError>| match result.map(|_| ()) {
        Err(VmmError::Ended { log, .. } | VmmError::Control { log, .. }) => log,
        other => panic!("{other:?}"),
    };
    let refusal = |result: Result<Box<dyn Machine>, VmmError>| match result.map(|_| ()) {
        Err(error @ (VmmError::Launch { .. } | VmmError::File { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refusal(vmm.restore(&no_disk, &files).await).starts_with("cannot open the disk"));
    assert!(refusal(vmm.restore(&no_tap, &files).await).ends_with("cannot open the TAP device"));
    assert!(refusal(vmm.restore(&no_namespace, &files).await).ends_with("cannot open the network namespace"));

    let damaged = SnapshotFiles { state: place.path("damaged"), ..files.clone() };
    fs::write(&damaged.state, &fs::read(&files.state).unwrap()[..3_000]).unwrap();
    let log = complaint(vmm.restore(&good, &damaged).await);
    assert!(log.contains("Unable to read"), "{log}");
    let missing = SnapshotFiles { state: place.path("missing"), ..files.clone() };
    assert!(refusal(vmm.restore(&good, &missing).await).starts_with("cannot open the state"));
    let smaller = SnapshotFiles { memory: place.path("smaller"), ..files.clone() };
    fs::write(&smaller.memory, b"short").unwrap();
    assert!(matches!(vmm.restore(&good, &smaller).await, Err(VmmError::MemorySize { found: 5, .. })));

    let taken = place.source("snapshot.memory");
    assert!(
        matches!(vmm.boot(&good, &taken).await, Err(VmmError::File { .. })),
        "a snapshot's memory was taken over"
    );
    assert_eq!(place.processes(), 0);
    assert!(matches!(
        QemuVmm::new(Path::new("no-such-qemu"), sandbar_vmm::Accelerator::Tcg, guest::cgroups()).await,
        Err(VmmError::Start { .. })
    ));
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let (vmm, mut place) = (vmm().await, Place::new());
    let spec = place.spec("one");
    for (round, given) in [0, 1, 3, 10, 20].into_iter().enumerate() {
        let source = place.source(&format!("memory.{round}"));
        let boot = tokio::time::timeout(Duration::from_millis(given), vmm.boot(&spec, &source)).await;
        if let Ok(machine) = boot {
            machine.unwrap().kill().await.unwrap();
        }
        // It may be in the middle of its start, where it has no mark yet, or of its end: its device, which one process has at a time, is free
        // when nothing of it is left.
        let mut tries = 0..;
        let next = within("the end of a start that was given up", async {
            loop {
                let source = place.source(&format!("memory.{round}.{}", tries.next().unwrap()));
                match vmm.boot(&spec, &source).await {
                    Ok(machine) => break machine,
                    Err(VmmError::Launch { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        next.await.kill().await.unwrap();
        assert_eq!(place.processes(), 0);
    }
}

/// A probe whose QEMU is a shell script.
async fn probe_with(place: &Place, script: &str, deadline: Duration) -> KvmVerdict {
    let qemu = place.path("fake-qemu");
    fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let probe = KvmProbe {
        vmm: ProbedVmm::Qemu(qemu),
        kernel: place.path("kernel"),
        initramfs: place.path("initramfs"),
        work_dir: place.root().to_owned(),
        deadline,
    };
    let verdict = within("the verdict", probe.run()).await;
    assert_eq!(place.processes(), 0, "the probe left a process");
    verdict
}

#[tokio::test]
async fn the_probe_says_what_it_found_and_leaves_nothing() {
    let place = Place::new();
    let init = "echo '[    1.744260] Run /init as init process'";
    let (soon, ample) = (Duration::from_millis(200), Duration::from_secs(30));
    let cases = [
        ("exec /bin/sleep 1000".to_owned(), soon, "printed nothing"),
        (
            "echo '[    0.1] Linux'; exec /bin/sleep 1000".to_owned(),
            soon,
            "the last it said: \"[    0.1] Linux\"",
        ),
        (format!("{init}; exec /bin/sleep 1000"), soon, "Run /init"),
        (
            "echo '[    1.0] Kernel panic - not syncing'; exec /bin/sleep 1000".to_owned(),
            ample,
            "Kernel panic",
        ),
        ("echo 'failed to set MSR' >&2; exit 1".to_owned(), ample, "failed to set MSR"),
        (format!("{init}; echo 'init: no disk'; exec /bin/sleep 1000"), ample, ""),
        (init.to_owned(), ample, ""),
    ];
    for (script, deadline, reason_has) in cases {
        match probe_with(&place, &script, deadline).await {
            KvmVerdict::Unusable { reason } if !Path::new("/dev/kvm").exists() => {
                assert!(reason.contains("there is no /dev/kvm"), "{reason}");
            }
            KvmVerdict::Unusable { reason } => {
                assert!(!reason_has.is_empty() && reason.contains(reason_has), "{script}: {reason}");
            }
            KvmVerdict::Usable { .. } => assert_eq!(reason_has, "", "{script}"),
        }
    }
}

#[tokio::test]
async fn the_probe_of_a_kernel_that_starts_no_process_ends_in_time() {
    let place = Place::new();
    let probe = KvmProbe {
        vmm: ProbedVmm::Qemu("qemu-system-x86_64".into()),
        // It never starts an init: KVM or not, the verdict is no.
        kernel: place.path("kernel"),
        initramfs: place.path("initramfs"),
        work_dir: place.root().to_owned(),
        deadline: Duration::from_secs(1),
    };
    let verdict = within("the verdict", probe.run()).await;
    assert!(matches!(verdict, KvmVerdict::Unusable { .. }), "{verdict:?}");
    assert_eq!(place.processes(), 0);
}
