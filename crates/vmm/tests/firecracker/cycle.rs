//! A machine's life when all goes well.

use std::fs;

use sandbar_types::VmmKind;
use sandbar_vmm::{Accelerator, SnapshotFiles, Vmm};

use super::place::{PAGES, Place, fill, image, log, pages, within};

pub(crate) async fn a_machine_boots_pauses_is_saved_and_goes_on(mut place: Place) {
    let vmm = place.vmm().await;
    let spec = place.spec("one");
    let source = place.source("memory");
    let machine = vmm.boot(&spec, &source).await.unwrap();
    assert!(machine.output().contains("the guest's first words"), "{}", machine.output());
    fill(&spec, &[(0, 1), (700, 2)]);
    for _ in 0..2 {
        machine.pause().await.unwrap();
    }
    let files = SnapshotFiles { state: place.path("state"), memory: source.memory };
    let saved = machine.save(&files).await.unwrap();
    let mut expected = vec![0; PAGES];
    (expected[0], expected[700]) = (1, 2);
    assert_eq!(image(&files.memory), expected);
    let zeroed = (PAGES - 2) * 4096;
    assert_eq!(saved.zeroed_bytes, zeroed as u64);
    for _ in 0..2 {
        machine.resume().await.unwrap();
    }
    // A booted machine is saved again as every other is: by what changed.
    fill(&spec, &[(700, 0), (9, 4)]);
    let (again, _) = place.save(&*machine, "again").await;
    (expected[700], expected[9]) = (0, 4);
    assert_eq!(image(&again.memory), expected);
    let creates: Vec<_> = log(&spec).into_iter().filter(|request| request.contains("create")).collect();
    assert_eq!(creates, ["PUT /snapshot/create Full", "PUT /snapshot/create Diff"]);
    machine.kill().await.unwrap();
    machine.kill().await.unwrap();
    within("the end", machine.exited()).await;
    place.assert_nothing_left(&[&spec]);
}

pub(crate) async fn requests_are_the_published_ones_in_their_order(mut place: Place) {
    let vmm = place.vmm().await;
    let compatibility = vmm.compatibility();
    assert_eq!((vmm.kind(), compatibility.vmm), (VmmKind::Firecracker, VmmKind::Firecracker));
    assert_eq!((compatibility.build.as_str(), compatibility.accelerator), ("1.16.1", Accelerator::Kvm));
    assert!(compatibility.cpu.starts_with("host: ") && compatibility.cpu.contains("features"));
    let booted = place.spec("booted");
    let machine = vmm.boot(&booted, &place.source("memory")).await.unwrap();
    assert_eq!(
        log(&booted),
        [
            "PUT /machine-config",
            "PUT /boot-source",
            "PUT /drives/disk",
            "PUT /network-interfaces/net",
            "PUT /entropy",
            "PUT /actions",
        ]
    );
    machine.pause().await.unwrap();
    let files = SnapshotFiles { state: place.path("state"), memory: place.path("memory") };
    machine.save(&files).await.unwrap();
    machine.kill().await.unwrap();
    let restored = place.spec("restored");
    let machine = vmm.restore(&restored, &files).await.unwrap();
    place.save(&*machine, "next").await;
    machine.resume().await.unwrap();
    assert_eq!(
        log(&restored),
        [
            "PUT /snapshot/load",
            "PATCH /drives/disk",
            "PATCH /vm",
            "GET /",
            "PUT /snapshot/create Diff",
            "PATCH /vm"
        ]
    );
    machine.kill().await.unwrap();
}

pub(crate) async fn clones_go_on_from_one_snapshot_and_leave_it_as_it_is(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[(1, 11), (2, 22)]).await;
    let frozen = image(&files.memory);
    let specs: Vec<_> = (0..4).map(|clone| place.spec(&format!("clone-{clone}"))).collect();
    let starts = specs.iter().map(|spec| vmm.restore(spec, &files));
    let machines: Vec<_> = futures_of(starts).await;
    for (number, spec) in specs.iter().enumerate() {
        assert_eq!(pages(spec), frozen);
        fill(spec, &[(2, u8::try_from(number).unwrap())]);
    }
    for (number, (spec, machine)) in specs.iter().zip(&machines).enumerate() {
        assert_eq!(usize::from(pages(spec)[2]), number, "a clone's page is another's");
        assert_eq!(machine.changed_memory().await.unwrap(), 4096);
        machine.kill().await.unwrap();
    }
    assert_eq!(image(&files.memory), frozen, "a clone wrote into the snapshot");
    place.assert_nothing_left(&specs.iter().collect::<Vec<_>>());
}

/// All that the real one does, and no more: whether there is a guest depends on the host's KVM.
pub(crate) async fn the_api_takes_a_whole_cycle(mut place: Place) {
    let vmm = place.vmm().await;
    let mut spec = place.spec("origin");
    spec.memory_mb = 128;
    let source = place.source("memory");
    let machine = vmm.boot(&spec, &source).await.unwrap();
    machine.pause().await.unwrap();
    let mut files = SnapshotFiles { state: place.path("state"), memory: source.memory };
    machine.save(&files).await.unwrap();
    machine.kill().await.unwrap();
    for cycle in 0..3 {
        let mut spec = place.spec(&format!("cycle-{cycle}"));
        spec.memory_mb = 128;
        let machine = vmm.restore(&spec, &files).await.unwrap();
        let process = machine.process();
        drop(machine);
        let machine = vmm.adopt(&spec.work_dir, &files.memory, process).await.unwrap();
        for round in 0..2 {
            let (next, _) = place.save(&*machine, &format!("{cycle}-{round}")).await;
            assert_eq!(fs::metadata(&next.memory).unwrap().len(), 128 << 20);
            machine.resume().await.unwrap();
            files = next;
        }
        machine.kill().await.unwrap();
        place.assert_nothing_left(&[&spec]);
    }
}

async fn futures_of<T, E: std::fmt::Debug>(
    starts: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) -> Vec<T> {
    futures::future::join_all(starts).await.into_iter().map(Result::unwrap).collect()
}
