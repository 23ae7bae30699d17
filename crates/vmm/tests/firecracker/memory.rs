//! What is saved is the guest's memory, whatever happens in between.

use std::fs;

use sandbar_vmm::{Vmm, VmmError, process};

use super::{
    fake::{PAGE, Step},
    place::{PAGES, Place, fill, image, jail_of, log, pages, within},
};

/// Numbers that look like chance, the same at every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

pub(crate) async fn a_chain_of_saves_is_the_guests_memory_each_time(mut place: Place) {
    let vmm = place.vmm().await;
    let mut numbers = Numbers(1);
    let mut expected = vec![0; PAGES];
    let mut files = place.snapshot(&vmm, &[]).await;
    for cycle in 0..6 {
        let spec = place.spec(&format!("cycle-{cycle}"));
        let machine = vmm.restore(&spec, &files).await.unwrap();
        // Some are saved once and ended, some go on and are saved again.
        for round in 0..=cycle % 3 {
            for _ in 0..numbers.next(40) {
                // A third of the pages become zero.
                let (page, value) = (numbers.next(PAGES), numbers.next(3) * 100);
                expected[page] = u8::try_from(value).unwrap();
                fill(&spec, &[(page, expected[page])]);
            }
            let name = format!("save-{cycle}-{round}");
            let (next, saved) = place.save(&*machine, &name).await;
            assert_eq!(image(&next.memory), expected, "{name}");
            assert!(saved.changed_bytes < (PAGES * PAGE / 2) as u64, "{saved:?}");
            machine.resume().await.unwrap();
            files = next;
        }
        assert_eq!(pages(&spec), expected);
        assert!(!log(&spec).iter().any(|request| request.ends_with("Full")), "{:?}", log(&spec));
        machine.kill().await.unwrap();
    }
}

pub(crate) async fn a_booted_machine_is_saved_into_copies_and_runs_on(mut place: Place) {
    let vmm = place.vmm().await;
    let (spec, source) = (place.spec("booted"), place.source("empty.memory"));
    let machine = vmm.boot(&spec, &source).await.unwrap();
    let mut expected = vec![0; PAGES];
    for (page, name) in [(3, "first"), (4, "second")] {
        expected[page] = 9;
        fill(&spec, &[(page, 9)]);
        let (files, _) = place.save(&*machine, name).await;
        assert_eq!(image(&files.memory), expected, "{name}");
        machine.resume().await.unwrap();
        let child = place.spec(name);
        let restored = vmm.restore(&child, &files).await.unwrap();
        assert_eq!(pages(&child), expected, "{name}");
        restored.kill().await.unwrap();
    }
    // All of it once, and then what it has changed since.
    let saves = log(&spec);
    assert_eq!(saves.iter().filter(|request| request.ends_with("Full")).count(), 1, "{saves:?}");
    machine.kill().await.unwrap();
    place.assert_nothing_left(&[&spec]);
}

pub(crate) async fn what_the_guest_zeroed_is_zero(mut place: Place) {
    let vmm = place.vmm().await;
    let everywhere: Vec<_> = (0..PAGES).map(|page| (page, 7)).collect();
    let files = place.snapshot(&vmm, &everywhere).await;
    let spec = place.spec("one");
    let machine = vmm.restore(&spec, &files).await.unwrap();
    let zeroed: Vec<_> = (100..400).chain([0, 5, PAGES - 1]).map(|page| (page, 0)).collect();
    fill(&spec, &zeroed);
    let (next, saved) = place.save(&*machine, "next").await;
    let mut expected = vec![7; PAGES];
    zeroed.iter().for_each(|&(page, _)| expected[page] = 0);
    assert_eq!(image(&next.memory), expected);
    assert_eq!(saved.changed_bytes, (zeroed.len() * PAGE) as u64);
    machine.kill().await.unwrap();
    let again = place.spec("again");
    let machine = vmm.restore(&again, &next).await.unwrap();
    assert_eq!(pages(&again), expected);
    machine.kill().await.unwrap();
}

pub(crate) async fn a_refused_save_loses_no_changes(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[(3, 3)]).await;
    let spec = place.spec("one");
    place.on("PUT /snapshot/create", Step::Fault("No space left on device".to_owned()));
    let machine = vmm.restore(&spec, &files).await.unwrap();
    fill(&spec, &[(4, 4)]);
    machine.pause().await.unwrap();
    let into = place.laid_out(&*machine, "refused");
    let error = machine.save(&into).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "/snapshot/create was refused: No space left on device");
    assert!(!into.state.exists(), "half a snapshot is left");
    machine.resume().await.unwrap();
    assert_eq!(machine.changed_memory().await.unwrap(), PAGE as u64, "the next one would write more");
    let mut expected = vec![0; PAGES];
    (expected[3], expected[4]) = (3, 4);
    assert_eq!(pages(&spec), expected, "the guest was harmed");
    machine.kill().await.unwrap();
}

pub(crate) async fn after_a_save_that_was_cut_off_the_next_one_is_whole(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[(3, 3)]).await;
    let spec = place.spec("one");
    place.on("PUT /snapshot/create", Step::DoneThenWait);
    let machine = vmm.restore(&spec, &files).await.unwrap();
    fill(&spec, &[(4, 4)]);
    machine.pause().await.unwrap();
    let into = place.laid_out(&*machine, "cut");
    let state = jail_of(&spec).join("state.new");
    // The process has written all of it and forgotten what had changed; whoever asked is killed before he hears of it.
    let written = async {
        while !fs::metadata(&state).is_ok_and(|state| state.len() > 0) || pages_of(&into.memory) != 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        saved = machine.save(&into) => panic!("{saved:?}"),
        () = within("the save", written) => {}
    }
    let process = machine.process();
    drop(machine);
    fs::write(jail_of(&spec).join("go"), b"").unwrap();

    let machine = within("the adoption", vmm.adopt(&spec.work_dir, &files.memory, process)).await.unwrap();
    assert_eq!(machine.changed_memory().await.unwrap(), (PAGES * PAGE) as u64);
    machine.resume().await.unwrap();
    fill(&spec, &[(5, 5)]);
    let (next, _) = place.save(&*machine, "next").await;
    let mut expected = vec![0; PAGES];
    (expected[3], expected[4], expected[5]) = (3, 4, 5);
    assert_eq!(image(&next.memory), expected);
    // From there on as ever.
    machine.resume().await.unwrap();
    fill(&spec, &[(3, 0)]);
    let (last, _) = place.save(&*machine, "last").await;
    expected[3] = 0;
    assert_eq!(image(&last.memory), expected);
    let creates: Vec<_> = log(&spec).into_iter().filter(|request| request.contains("create")).collect();
    assert_eq!(creates.join(", ").replace("PUT /snapshot/create ", ""), "Diff, Full, Diff");
    machine.kill().await.unwrap();
}

/// What the fourth page of an image is filled with.
fn pages_of(memory: &std::path::Path) -> u8 {
    use std::os::unix::fs::FileExt;
    let mut byte = [0];
    fs::File::open(memory).unwrap().read_exact_at(&mut byte, 4 * PAGE as u64).unwrap();
    byte[0]
}

pub(crate) async fn an_image_that_the_vmm_holds_is_refused(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    let spec = place.spec("one");
    place.on("PUT /snapshot/create", Step::KeepOpen);
    let machine = vmm.restore(&spec, &files).await.unwrap();
    machine.pause().await.unwrap();
    let into = place.laid_out(&*machine, "held");
    let error = machine.save(&into).await.unwrap_err();
    assert!(matches!(&error, VmmError::ImageHeld { image, .. } if *image == into.memory), "{error:?}");
    assert!(!into.state.exists());
    machine.kill().await.unwrap();
}

pub(crate) async fn a_state_that_is_a_link_is_refused(mut place: Place) {
    let vmm = place.vmm().await;
    let files = place.snapshot(&vmm, &[]).await;
    let spec = place.spec("one");
    place.on("PUT /snapshot/create", Step::LinkState);
    let machine = vmm.restore(&spec, &files).await.unwrap();
    machine.pause().await.unwrap();
    let into = place.laid_out(&*machine, "linked");
    let error = machine.save(&into).await.unwrap_err();
    assert!(matches!(error, VmmError::File { action: "read", .. }), "{error:?}");
    assert!(!into.state.exists(), "a file of the host became a state");
    process::kill(machine.process()).await.unwrap();
    machine.kill().await.unwrap();
}
