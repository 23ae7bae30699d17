//! Machines and those who own them die at different times.

use std::{fs, process::Command, time::Duration};

use sandbar_vmm::{MachineSpec, ProcessIdentity, Vmm, VmmError, firecracker, process};

use super::place::{Place, fill, image, jail_of, within};

pub(crate) async fn a_machine_outlives_its_handle_and_is_taken_over(mut place: Place) {
    let files = {
        let vmm = place.vmm().await;
        place.snapshot(&vmm, &[(1, 1)]).await
    };
    let spec = place.spec("one");
    let process = {
        let vmm = place.vmm().await;
        vmm.restore(&spec, &files).await.unwrap().process()
    };
    let found = process::machines_under(place.root()).unwrap();
    assert_eq!(found, [(spec.work_dir.canonicalize().unwrap(), process)]);
    fill(&spec, &[(2, 2)]);
    // By another agent, twice.
    let vmm = place.vmm().await;
    for round in 0..2 {
        let adopted = vmm.adopt(&spec.work_dir, &files.memory, process).await.unwrap();
        assert_eq!(adopted.process(), process);
        fill(&spec, &[(3, round)]);
        let (next, _) = place.save(&*adopted, &format!("next-{round}")).await;
        assert_eq!(image(&next.memory)[..4], [0, 1, 2, round]);
        adopted.resume().await.unwrap();
    }
    let adopted = vmm.adopt(&spec.work_dir, &files.memory, process).await.unwrap();
    adopted.kill().await.unwrap();
    assert!(matches!(vmm.adopt(&spec.work_dir, &files.memory, process).await, Err(VmmError::Gone { .. })));
    place.assert_nothing_left(&[&spec]);
}

/// A spare becomes a sandbox's: its work folder gets that one's name while it runs.
pub(crate) async fn a_machine_is_taken_over_where_its_folder_is_now(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[(1, 1)]).await;
    let spare = place.spec("spare");
    let machine = vmm.restore(&spare, &files).await.unwrap();
    machine.pause().await.unwrap();
    let process = machine.process();
    drop(machine);
    let work_dir = place.path("claimed");
    fs::rename(&spare.work_dir, &work_dir).unwrap();
    let claimed = MachineSpec { disk: work_dir.join("disk.ext4"), work_dir, ..spare.clone() };
    let adopted = vmm.adopt(&claimed.work_dir, &files.memory, process).await.unwrap();
    adopted.resume().await.unwrap();
    fill(&claimed, &[(2, 2)]);
    let (next, _) = place.save(&*adopted, "next").await;
    assert_eq!(image(&next.memory)[..3], [0, 1, 2]);
    adopted.kill().await.unwrap();
    place.assert_nothing_left(&[&claimed]);
}

pub(crate) async fn nobody_else_is_taken_over(mut place: Place) {
    let vmm = place.vmm().await;
    let (one, two) = (place.spec("one"), place.spec("two"));
    let first = vmm.boot(&one, &place.source("one.memory")).await.unwrap();
    let second = vmm.boot(&two, &place.source("two.memory")).await.unwrap();
    let gone = |adopted: Result<_, VmmError>| matches!(adopted.map(drop), Err(VmmError::Gone { .. }));
    assert!(
        gone(vmm.adopt(&one.work_dir, &place.path("one.memory"), second.process()).await),
        "a neighbour's process was taken over"
    );
    let later = ProcessIdentity { start_time: first.process().start_time + 1, ..first.process() };
    assert!(gone(vmm.adopt(&one.work_dir, &place.path("one.memory"), later).await));
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", stranger.id())).unwrap();
    let start_time =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    let identity = ProcessIdentity { pid: i32::try_from(stranger.id()).unwrap(), start_time };
    assert!(
        gone(vmm.adopt(&one.work_dir, &place.path("one.memory"), identity).await),
        "a stranger was taken over"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    // What a process puts in its socket's place leads nowhere.
    let socket = jail_of(&one).join("api.socket");
    fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink(jail_of(&two).join("api.socket"), &socket).unwrap();
    assert!(first.pause().await.is_err(), "another machine was paused");
    first.kill().await.unwrap();
    second.kill().await.unwrap();
}

pub(crate) async fn a_machine_that_dies_is_noticed_by_all(mut place: Place) {
    let vmm = place.vmm().await;
    let spec = place.spec("one");
    let machine = vmm.boot(&spec, &place.source("memory")).await.unwrap();
    let process = machine.process();
    assert!(tokio::time::timeout(Duration::from_millis(1), machine.exited()).await.is_err());
    let ended = async { tokio::join!(machine.exited(), machine.exited(), process::kill(process)) };
    let ((), (), killed) = within("the end", ended).await;
    killed.unwrap();
    assert!(matches!(machine.resume().await, Err(VmmError::Ended { .. })));
    assert!(machine.output().contains("first words"), "its last words are lost");
    machine.kill().await.unwrap();
    place.assert_nothing_left(&[&spec]);
}

/// An agent that was killed leaves a jail without a process, a process without a record, and half a removal.
pub(crate) async fn what_has_no_machine_is_removed(mut place: Place) {
    let vmm = place.vmm().await;
    let [kept, ended, lost] = ["kept", "ended", "lost"].map(|name| place.spec(name));
    let keep = vmm.boot(&kept, &place.source("kept.memory")).await.unwrap().process();
    let end = vmm.boot(&ended, &place.source("ended.memory")).await.unwrap().process();
    vmm.boot(&lost, &place.source("lost.memory")).await.unwrap();
    process::kill(end).await.unwrap();
    let half = place.path("half");
    fs::create_dir_all(half.join("jail/firecracker")).unwrap();
    for _ in 0..2 {
        firecracker::remove_abandoned(place.root(), &[keep]).await.unwrap();
        let left = process::machines_under(place.root()).unwrap();
        assert_eq!(left.iter().map(|(_, process)| *process).collect::<Vec<_>>(), [keep]);
        place.groups.sweep().unwrap();
        for spec in [&ended, &lost] {
            assert!(!spec.work_dir.join("jail").exists());
        }
        assert!(!half.join("jail").exists());
    }
    vmm.adopt(&kept.work_dir, &place.path("kept.memory"), keep).await.unwrap().kill().await.unwrap();
    place.assert_nothing_left(&[&kept, &ended, &lost]);
}
