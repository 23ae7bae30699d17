//! What goes wrong is said, and leaves nothing.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use sandbar_vmm::{
    FirecrackerOptions, FirecrackerVmm, Machine, MachineSpec, SnapshotFiles, Vmm, VmmError,
    probe::{KvmProbe, KvmVerdict, ProbedVmm},
    process::machines_under,
};

use super::{
    fake::Step,
    place::{Place, within},
};

pub(crate) async fn other_releases_are_refused_with_the_reason(mut place: Place) {
    let refusal =
        async |place: &Place| FirecrackerVmm::new(&place.options(), place.groups.clone()).await.unwrap_err();
    let versions = |place: &mut Place, version: &str, jailer: &str| {
        (place.plan.version, place.plan.jailer_version) = (version.to_owned(), jailer.to_owned());
        place.plan();
    };
    versions(&mut place, "v1.16.0", "v1.16.0");
    let error = refusal(&place).await;
    assert!(matches!(error, VmmError::TooOld { .. }));
    assert!(error.to_string().ends_with("is version 1.16.0; 1.16.1 or later is needed"), "{error}");
    versions(&mut place, "v1.17.0", "v1.16.1");
    let error = refusal(&place).await;
    assert!(matches!(error, VmmError::OtherJailer { .. }), "{error}");
    versions(&mut place, "unknown", "v1.16.1");
    assert!(matches!(refusal(&place).await, VmmError::UnknownBuild { .. }));
    versions(&mut place, "v1.17.0-dev", "v1.17.0-dev");
    assert_eq!(place.vmm().await.compatibility().build, "1.17.0-dev");
    let nowhere = FirecrackerOptions { jailer: "no-such-jailer".into(), ..place.options() };
    assert!(matches!(FirecrackerVmm::new(&nowhere, place.groups.clone()).await, Err(VmmError::Start { .. })));
}

fn complaint(result: Result<Box<dyn Machine>, VmmError>) -> String {
    match result.map(|machine| machine.process()) {
        Err(VmmError::Ended { log, .. }) => log,
        Err(VmmError::Control { source, log, .. }) => format!("{source}\n{log}"),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_start_that_fails_says_why_and_leaves_nothing(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    let spec = place.spec("one");
    let steps = [
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/disk",
        "PUT /network-interfaces/net",
        "PUT /entropy",
        "PUT /actions",
    ];
    for request in steps {
        for step in [Step::Die, Step::DoneThenDie, Step::Fault("not today".to_owned())] {
            place.on(request, step.clone());
            let memory = place.path("failed.memory");
            let said = complaint(vmm.boot(&spec, &place.source("failed.memory")).await);
            if let Step::Fault(words) = step {
                let path = request.trim_start_matches("PUT ");
                assert!(said.starts_with(&format!("{path} was refused: {words}")), "{said}");
            }
            place.assert_nothing_left(&[&spec]);
            fs::remove_file(memory).unwrap();
        }
    }
    for request in ["PUT /snapshot/load", "PATCH /drives/disk"] {
        for step in [Step::Die, Step::DoneThenDie, Step::Fault("not today".to_owned())] {
            place.on(request, step);
            complaint(vmm.restore(&spec, &files).await);
            place.assert_nothing_left(&[&spec]);
        }
    }
    place.all_goes_well();
    place.plan.start = Step::Die;
    place.plan();
    assert!(complaint(vmm.restore(&spec, &files).await).contains("dying as planned"));
    place.assert_nothing_left(&[&spec]);
    place.all_goes_well();

    // The fake's own refusals: of what it is asked, not of what it is told to refuse.
    let no_tap = MachineSpec { tap: "tap7".to_owned(), ..spec.clone() };
    let said = complaint(vmm.restore(&no_tap, &files).await);
    assert!(said.contains("Open tap device failed: tap7"), "{said}");
    let damaged = SnapshotFiles { state: place.path("damaged"), ..files.clone() };
    fs::write(&damaged.state, b"{").unwrap();
    let said = complaint(vmm.restore(&spec, &damaged).await);
    assert!(said.contains("Cannot deserialize the state"), "{said}");
    let source = place.source("memory");
    fs::write(&source.kernel, b"no kernel").unwrap();
    let said = complaint(vmm.boot(&spec, &source).await);
    assert!(said.contains("no ELF file"), "{said}");
    place.assert_nothing_left(&[&spec]);

    // What is missing is named before there is a process.
    let no_disk = MachineSpec { disk: place.path("none"), ..spec.clone() };
    assert!(
        matches!(vmm.restore(&no_disk, &files).await, Err(VmmError::File { path, .. }) if path.ends_with("none"))
    );
    let no_namespace = MachineSpec { netns: "/run/netns/none".into(), ..spec.clone() };
    assert!(matches!(vmm.restore(&no_namespace, &files).await, Err(VmmError::File { action: "open", .. })));
    let smaller = SnapshotFiles { memory: place.path("smaller"), ..files.clone() };
    fs::write(&smaller.memory, b"short").unwrap();
    assert!(matches!(vmm.restore(&spec, &smaller).await, Err(VmmError::MemorySize { found: 5, .. })));
    let taken = place.source("snapshot.memory");
    assert!(matches!(vmm.boot(&spec, &taken).await, Err(VmmError::File { .. })), "a snapshot was taken over");
    place.assert_nothing_left(&[&spec]);
    vmm.restore(&spec, &files).await.unwrap().kill().await.unwrap();
}

pub(crate) async fn a_failing_jailer_says_why_and_leaves_nothing(mut place: Place) {
    let vmm = place.vmm().await;
    let spec = place.spec("one");
    place.plan.jailer = Step::Fault("Failed to create cgroup".to_owned());
    place.plan();
    let said = complaint(vmm.boot(&spec, &place.source("memory")).await);
    assert!(said.contains("exit status: 1") && said.contains("Failed to create cgroup"), "{said}");
    place.assert_nothing_left(&[&spec]);
}

pub(crate) async fn a_start_that_is_given_up_leaves_nothing(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    place.on("PUT /snapshot/load", Step::Hang);
    let mut given_up = Vec::new();
    for given in [0, 1, 5, 20, 100, 300] {
        let spec = place.spec(&format!("after-{given}"));
        let restore = tokio::time::timeout(Duration::from_millis(given), vmm.restore(&spec, &files)).await;
        assert!(restore.is_err(), "it answered");
        given_up.push(spec);
    }
    within("the end of starts that were given up", async {
        // A start goes on to its end before it is undone: a jail that nobody is at work on has neither jailer nor process.
        while !machines_under(place.root()).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    place.all_goes_well();
    for spec in &given_up {
        // What such a start left of its jail is in nobody's way, once the last step of it is over.
        within("a start where another was given up", async {
            loop {
                if let Ok(machine) = vmm.restore(spec, &files).await {
                    break machine.kill().await.unwrap();
                }
            }
        })
        .await;
    }
    place.groups.sweep().unwrap();
    place.assert_nothing_left(&given_up.iter().collect::<Vec<_>>());
}

pub(crate) async fn what_a_machine_cannot_do_is_refused(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    let spec = place.spec("one");
    let machine = vmm.restore(&spec, &files).await.unwrap();
    let into = place.laid_out(&*machine, "next");
    assert!(
        matches!(machine.save(&into).await, Err(VmmError::NotPaused { .. })),
        "a running guest would change under the copy"
    );
    machine.pause().await.unwrap();
    fs::write(&into.state, b"there").unwrap();
    assert!(matches!(machine.save(&into).await, Err(VmmError::File { .. })), "a state was overwritten");
    assert_eq!(fs::read(&into.state).unwrap(), b"there");
    fs::remove_file(&into.state).unwrap();
    let smaller = SnapshotFiles { memory: place.path("smaller"), ..into.clone() };
    fs::write(&smaller.memory, b"short").unwrap();
    assert!(matches!(machine.save(&smaller).await, Err(VmmError::MemorySize { found: 5, .. })));
    machine.save(&into).await.unwrap();
    machine.kill().await.unwrap();
    place.assert_nothing_left(&[&spec]);
}

/// Its Firecracker is a shell script: a guest cannot be had everywhere.
pub(crate) async fn the_probe_boots_the_guest_by_firecracker(place: Place) {
    let script = place.path("firecracker-script");
    let seen = place.path("seen");
    let text = format!(
        "#!/bin/sh\n[ \"$1 $2 $4 $5\" = '--no-api --config-file --level Error' ] || exit 2\n/bin/cat \"$3\" > {}\n\
         echo '[    1.744260] Run /init as init process'\necho 'init: no disk'\nexec /bin/sleep 1000\n",
        seen.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let probe = KvmProbe {
        vmm: ProbedVmm::Firecracker(script),
        kernel: place.path("kernel"),
        initramfs: place.path("initramfs"),
        work_dir: place.root().to_owned(),
        deadline: Duration::from_secs(30),
    };
    match within("the verdict", probe.run()).await {
        KvmVerdict::Unusable { reason } => {
            assert!(!Path::new("/dev/kvm").exists(), "{reason}");
        }
        KvmVerdict::Usable { .. } => {
            let machine: serde_json::Value = serde_json::from_slice(&fs::read(seen).unwrap()).unwrap();
            assert_eq!(machine["boot-source"]["kernel_image_path"], place.path("kernel").to_str().unwrap());
        }
    }
    assert_eq!(place.processes(), 0, "the probe left a process");
    assert!(!place.path("probe-machine.json").exists());
}
