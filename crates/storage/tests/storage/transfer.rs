//! Templates that go from one store to another in parts.

use std::os::unix::fs::MetadataExt as _;

use sandbar_storage::{Incoming, PART, Store, StoreError, Template, TemplateFile};

use crate::fixture::{Place, commit_one, in_tmp};

fn send(template: &Template, incoming: &Incoming, file: TemplateFile, index: u32) {
    let pieces = template.read_part(file, index).unwrap();
    incoming.write_part(file, index, pieces.iter().map(|piece| (piece.offset, &piece.data[..]))).unwrap();
}

fn lacking(template: &Template, incoming: &Incoming) -> Vec<(TemplateFile, u32)> {
    let here = incoming.here();
    let parts = template.manifest.files.keys().flat_map(|&file| {
        let here = here[&file].clone();
        let parts = template.parts(file).unwrap().into_iter();
        parts.filter(move |part| !here.contains(part)).map(move |part| (file, part))
    });
    parts.collect()
}

fn receive(store: &Store, template: &Template) -> Incoming {
    store.receive_template(template.manifest.clone(), template.size_on_disk()).unwrap()
}

#[test]
fn what_arrives_is_what_was_sent_and_as_sparse() {
    let (from, to) = (Place::new(), Place::new());
    let (source, target) = (from.open(), to.open());
    let template = commit_one(&source, 7);
    assert_eq!(template.parts(TemplateFile::Memory).unwrap(), [0, 128, 255], "512 MiB with three blocks");
    let incoming = receive(&target, &template);

    // In any order, some twice; the transfer breaks in the middle.
    let all = lacking(&template, &incoming);
    for &(file, index) in all.iter().rev().take(4).chain(&all[all.len() - 1..]) {
        send(&template, &incoming, file, index);
    }
    let rest = lacking(&template, &incoming);
    assert_eq!(rest, all[..all.len() - 4]);
    for (file, index) in rest {
        send(&template, &incoming, file, index);
    }
    assert!(target.templates().unwrap().is_empty(), "nothing is a template before it is complete");
    let arrived = incoming.commit().unwrap();
    assert_eq!(arrived.manifest, template.manifest);
    arrived.verify().unwrap();
    let blocks = |template: &Template, file| template.path(file).metadata().unwrap().blocks();
    for file in [TemplateFile::Disk, TemplateFile::State, TemplateFile::Memory] {
        assert!(blocks(&arrived, file) <= blocks(&template, file), "{file:?} is as sparse as it was");
    }
    assert!(matches!(
        target.receive_template(template.manifest.clone(), 0),
        Err(StoreError::TemplateExists { .. })
    ));
}

#[test]
fn what_is_not_as_the_manifest_says_leaves_nothing() {
    let (from, to) = (Place::new(), Place::new());
    let (source, target) = (from.open(), to.open());
    let template = commit_one(&source, 7);

    // A part that never came.
    let incoming = receive(&target, &template);
    for (file, index) in lacking(&template, &incoming).into_iter().skip(1) {
        send(&template, &incoming, file, index);
    }
    let Err(StoreError::DamagedTemplate { file, .. }) = incoming.commit() else { panic!("it is incomplete") };
    assert_eq!(file, "disk.ext4");

    // One bit.
    let incoming = receive(&target, &template);
    for (file, index) in lacking(&template, &incoming) {
        send(&template, &incoming, file, index);
    }
    incoming.write_part(TemplateFile::Memory, 128, [(0, &[6_u8][..])]).unwrap();
    let Err(StoreError::DamagedTemplate { file, .. }) = incoming.commit() else { panic!("it is damaged") };
    assert_eq!(file, "memory");

    // Beyond the end of a file, and of a part.
    let incoming = receive(&target, &template);
    for (file, index, offset, length) in [
        (TemplateFile::State, 0, 50_000, 1),
        (TemplateFile::State, 1, 0, 1),
        (TemplateFile::Memory, 0, u32::try_from(PART).unwrap() - 1, 2),
        (TemplateFile::Memory, u32::MAX, 0, 1),
        (TemplateFile::Memory, 0, u32::MAX, 1),
    ] {
        let written = incoming.write_part(file, index, [(offset, &vec![1_u8; length][..])]);
        assert!(matches!(written, Err(StoreError::DamagedTemplate { .. })), "{file:?} {index} {offset}");
    }
    drop(incoming);

    // A manifest that describes something else.
    let mut lacks = template.manifest.clone();
    lacks.files.remove(&TemplateFile::State);
    let mut foreign = template.manifest.clone();
    foreign.format += 1;
    for manifest in [lacks, foreign] {
        let refused = target.receive_template(manifest, 0);
        assert!(matches!(refused, Err(StoreError::DamagedTemplate { .. })));
    }
    assert!(target.templates().unwrap().is_empty());
    let [session] = &in_tmp(&to)[..] else { panic!("one open store, one session") };
    assert_eq!(std::fs::read_dir(session).unwrap().count(), 0);
}

#[test]
fn room_is_seen_to_first_and_a_dead_receiver_leaves_nothing() {
    let (from, to) = (Place::new(), Place::new());
    let (source, target) = (from.open(), to.open());
    let template = commit_one(&source, 7);
    let refused = target.receive_template(template.manifest.clone(), 1 << 50);
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");

    let incoming = receive(&target, &template);
    send(&template, &incoming, TemplateFile::Memory, 128);
    // As a killed process leaves it: nothing is dropped, and its lock is gone.
    let session = in_tmp(&to).remove(0);
    let left = to.store_dir().join("left");
    std::fs::rename(&session, &left).unwrap();
    drop((incoming, target));
    assert!(left.read_dir().unwrap().next().is_some(), "the part is there");
    std::fs::rename(&left, &session).unwrap();
    let next = to.open();
    assert!(next.templates().unwrap().is_empty());
    assert!(!session.exists(), "swept");
}
