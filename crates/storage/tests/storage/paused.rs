//! Paused sandboxes' files against a real filesystem.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::fixture::{Place, commit_one, in_tmp, options, pause, spec};
use sandbar_storage::{MOST_PIECES, Store, StoreError, StoreOptions, own_bytes};
use sandbar_types::id::Sandbox;
use sandbar_types::{Id, PauseMode, TemplateKind};

fn sandbox(store: &Store) -> Id<Sandbox> {
    let id = Id::new();
    store.create_sandbox(id, &commit_one(store, 7).image().unwrap()).unwrap();
    id
}

fn first(path: &Path) -> u8 {
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn a_sandbox_runs_on_the_templates_very_memory_until_it_is_paused() {
    let place = Place::new();
    let store = place.open();
    let template = commit_one(&store, 7);
    let image = template.image().unwrap();
    let id = Id::new();
    let files = store.create_sandbox(id, &image).unwrap();
    let inode = |path: &Path| path.metadata().unwrap().ino();
    assert_eq!(inode(&files.memory), inode(&image.memory), "clones share their page cache");
    assert_ne!(inode(&files.disk), inode(&image.disk));
    store.delete_template(template.id()).unwrap();
    assert_eq!(first(&files.memory), 7, "a deleted template leaves its sandboxes what they need");

    assert!(matches!(store.paused(id), Err(StoreError::UnknownPause { id: named }) if named == id));
    let paused = pause(&store, id, 9);
    store.rest_sandbox(id).unwrap();
    assert!(!files.disk.exists() && !files.memory.exists());
    let read = store.paused(id).unwrap();
    assert_eq!(read.manifest, paused.manifest);
    assert_eq!(read.metrics().as_deref(), Some(&b"figures"[..]));
    assert!(store.has_paused(id));

    // Resumed, twice, since the first time was cut short: on clones, so that the pause stays as it is.
    for byte in [1, 2] {
        let awake = store.wake_sandbox(id, &paused.image().unwrap()).unwrap();
        assert_eq!(inode(&awake.memory), inode(&paused.image().unwrap().memory));
        File::options().write(true).open(&awake.disk).unwrap().write_all_at(&[byte; 4096], 0).unwrap();
        assert_eq!(first(&paused.image().unwrap().disk), 9);
    }
    store.remove_paused(id).unwrap();
    store.remove_paused(id).unwrap();
    assert!(!store.has_paused(id));
    assert_eq!((first(&files.disk), first(&files.memory)), (2, 9));
    store.remove_sandbox(id).unwrap();
    assert!(!files.dir.exists());
}

#[test]
fn a_pause_takes_the_place_of_an_older_one_whole() {
    let place = Place::new();
    let store = place.open();
    let id = sandbox(&store);
    pause(&store, id, 1);
    pause(&store, id, 2);
    let image = store.paused(id).unwrap().image().unwrap();
    assert_eq!([&image.disk, &image.state, &image.memory].map(|path| first(path)), [2; 3]);
    let [session] = &in_tmp(&place)[..] else { panic!("one open store, one session") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0, "the older one is left somewhere");
}

#[test]
fn what_a_pause_shares_is_not_its_own() {
    let place = Place::new();
    let store = place.open();
    let id = sandbox(&store);
    let paused = pause(&store, id, 1);
    let before = paused.own_bytes().unwrap();
    assert!((6 * 4096..1 << 20).contains(&before), "{before}");
    let awake = store.wake_sandbox(id, &paused.image().unwrap()).unwrap();
    assert_eq!(own_bytes(&awake.disk).unwrap(), 0, "a clone that nobody wrote to");
    assert!(paused.own_bytes().unwrap() < before);
    let disk = File::options().write(true).open(&awake.disk).unwrap();
    disk.write_all_at(&[3; 1 << 20], 8 << 20).unwrap();
    disk.sync_all().unwrap();
    assert!(own_bytes(&awake.disk).unwrap() >= 1 << 20);
}

#[test]
fn settling_takes_checksums_and_mends_files_in_many_pieces() {
    let place = Place::new();
    let store = place.open();
    let id = sandbox(&store);
    let paused = pause(&store, id, 5);
    let content = |path: &Path| fs::read(path).unwrap();
    let image = paused.image().unwrap();
    let before = (content(&image.disk), content(&image.state), content(&image.memory));
    assert!(paused.manifest.files.values().filter(|file| file.checksum.is_some()).count() == 1);
    let state_size = before.1.len() as u64;
    assert_eq!(store.verify_paused(id).unwrap(), state_size, "of the others nothing is known yet");

    assert_eq!(store.settle_paused(id, MOST_PIECES, &|| false).unwrap(), None, "it was told to stop");
    let settled = store.settle_paused(id, MOST_PIECES, &|| true).unwrap().unwrap();
    assert!(settled.rewritten.is_empty(), "{settled:?}");
    let settled = store.settle_paused(id, 0, &|| true).unwrap().unwrap();
    assert_eq!(settled.rewritten.len(), 2);
    let read = store.paused(id).unwrap();
    assert!(read.manifest.files.values().all(|file| file.checksum.is_some()));
    assert_eq!(store.verify_paused(id).unwrap(), (64 << 20) + state_size + (512 << 20));
    assert!(before == (content(&image.disk), content(&image.state), content(&image.memory)));
    assert!(image.memory.metadata().unwrap().blocks() * 512 < 1 << 20, "holes stay holes");

    // Damage is not taken for what was meant, however often the pause is settled.
    FileExt::write_at(&fs::OpenOptions::new().write(true).open(&image.memory).unwrap(), b"rot", 9).unwrap();
    store.settle_paused(id, MOST_PIECES, &|| true).unwrap().unwrap();
    store.verify_paused(id).unwrap_err();

    // Whoever is paused no more, is not settled.
    store.remove_paused(id).unwrap();
    assert_eq!(store.settle_paused(id, 0, &|| true).unwrap(), None);
    let [session] = &in_tmp(&place)[..] else { panic!("one open store, one session") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0);
}

#[test]
fn a_running_machines_memory_is_rewritten_beside_it_for_the_next_pause() {
    let place = Place::new();
    let store = place.open();
    let id = sandbox(&store);
    let paused = pause(&store, id, 5);
    let files = store.wake_sandbox(id, &paused.image().unwrap()).unwrap();
    assert!(store.copy_memory(id, &files.memory, 0, &|| true).unwrap().is_none(), "others have it, too");
    store.remove_paused(id).unwrap();
    assert!(
        store.copy_memory(id, &files.memory, MOST_PIECES, &|| true).unwrap().is_none(),
        "it lies in one piece"
    );
    assert!(store.copy_memory(id, &files.memory, 0, &|| false).unwrap().is_none(), "it was told to stop");
    drop(store.copy_memory(id, &files.memory, 0, &|| true).unwrap().unwrap());
    assert_eq!(files.memory_to_clone(&files.memory), files.memory);

    let inode = files.memory.metadata().unwrap().ino();
    store.copy_memory(id, &files.memory, 0, &|| true).unwrap().unwrap().publish(id).unwrap();
    let copy = files.memory_to_clone(&files.memory).to_owned();
    assert_ne!(copy, files.memory);
    assert!(fs::read(&copy).unwrap() == fs::read(&files.memory).unwrap());
    assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20, "holes stay holes");
    assert_eq!(files.memory.metadata().unwrap().ino(), inode, "the machine maps this one");
    assert!(store.copy_memory(id, &files.memory, 0, &|| true).unwrap().is_none(), "once is enough");

    // A VMM that counts from another image goes on from there; one may have a name of its own for it.
    let (own, other) = (files.dir.join("own"), files.dir.join("other"));
    fs::hard_link(&files.memory, &own).unwrap();
    fs::copy(&files.memory, &other).unwrap();
    assert_eq!((files.memory_to_clone(&own), files.memory_to_clone(&other)), (&*copy, &*other));
    fs::remove_file(&copy).unwrap();
    assert!(store.copy_memory(id, &other, 0, &|| true).unwrap().is_none());
    store.copy_memory(id, &own, 0, &|| true).unwrap().unwrap().publish(id).unwrap();

    // It is of no other run.
    store.rest_sandbox(id).unwrap();
    assert!(!copy.exists());
    store.remove_sandbox(id).unwrap();
    assert!(store.copy_memory(id, &files.memory, 0, &|| true).unwrap().is_none());
    let [session] = &in_tmp(&place)[..] else { panic!("one open store, one session") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0);
}

#[test]
fn settling_never_touches_a_later_pause() {
    let place = Place::new();
    let store = place.open();
    let id = sandbox(&store);
    pause(&store, id, 1);
    // While the first one is being settled, the sandbox is resumed and paused again.
    let replaced = std::sync::Once::new();
    let meanwhile = || {
        replaced.call_once(|| {
            store.remove_paused(id).unwrap();
            pause(&store, id, 2);
        });
        true
    };
    assert_eq!(store.settle_paused(id, 0, &meanwhile).unwrap(), None);
    let paused = store.paused(id).unwrap();
    let image = paused.image().unwrap();
    assert_eq!([&image.disk, &image.state, &image.memory].map(|path| first(path)), [2; 3]);
    assert_eq!(paused.manifest.files.values().filter(|file| file.checksum.is_some()).count(), 1);
}

#[test]
fn damage_to_a_pause_is_named() {
    let place = Place::new();
    let store = place.open();
    let open = |path| File::options().write(true).open(path).unwrap();
    type Spoil = (&'static str, fn(&Path));
    let cases: [Spoil; 6] = [
        ("memory", |dir| {
            File::options().write(true).open(dir.join("memory")).unwrap().set_len(1 << 20).unwrap();
        }),
        ("disk.ext4", |dir| fs::remove_file(dir.join("disk.ext4")).unwrap()),
        ("state", |dir| {
            File::options().write(true).open(dir.join("state")).unwrap().write_all_at(b"!", 99).unwrap();
        }),
        ("manifest.json", |dir| fs::remove_file(dir.join("manifest.json")).unwrap()),
        ("manifest.json", |dir| fs::write(dir.join("manifest.json"), "{").unwrap()),
        ("manifest.json", |dir| {
            let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
            fs::write(dir.join("manifest.json"), text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        }),
    ];
    for (file, spoil) in cases {
        let id = sandbox(&store);
        let paused = pause(&store, id, 1);
        spoil(paused.image().unwrap().disk.parent().unwrap());
        let error = store.paused(id).unwrap_err();
        assert!(
            matches!(&error, StoreError::DamagedPause { id: named, file: found, .. } if *named == id && found == file),
            "{file}: {error:?}"
        );
        assert!(error.to_string().contains(file), "{error}");
    }
    // Only reading it all shows this one, once it was settled.
    let id = sandbox(&store);
    let image = pause(&store, id, 1).image().unwrap();
    store.settle_paused(id, MOST_PIECES, &|| true).unwrap().unwrap();
    open(image.memory).write_all_at(b"!", 12_345_678).unwrap();
    store.paused(id).unwrap();
    assert!(
        matches!(store.verify_paused(id), Err(StoreError::DamagedPause { file, .. }) if file == "memory")
    );
}

#[test]
fn no_pause_is_begun_without_room_for_it() {
    let place = Place::new();
    let store = place.open();
    let free = store.space().unwrap().free;
    store.begin_image(1 << 20).unwrap();
    assert!(matches!(store.begin_image(free), Err(StoreError::NoSpace { .. })));
    assert!(matches!(store.begin_template(Id::new(), free), Err(StoreError::NoSpace { .. })));
    let [session] = &in_tmp(&place)[..] else { panic!("one open store, one session") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0);
}

#[test]
fn without_reflink_everything_works_and_costs_a_copy() {
    let place = Place::new();
    let native = StoreOptions { backing: sandbar_storage::Backing::Native, ..options() };
    let store = Store::open(&place.store_dir(), &native).unwrap();
    let id = sandbox(&store);
    let image = pause(&store, id, 4).image().unwrap();
    assert!(store.cost_of_clones([&*image.memory, &*image.disk]) >= 6 * 4096);
    store.rest_sandbox(id).unwrap();
    let awake = store.wake_sandbox(id, &image).unwrap();
    store.remove_paused(id).unwrap();
    assert_eq!((first(&awake.disk), first(&awake.memory)), (4, 4));
    drop(store);

    let with_reflink = Place::new();
    let store = with_reflink.open();
    let image = commit_one(&store, 1).image().unwrap();
    assert_eq!(store.cost_of_clones([&*image.memory]), 0);
}

#[test]
fn a_disk_is_checked_packed_and_kept_as_a_base() {
    let place = Place::new();
    let store = place.open();
    let draft = store.begin_template(Id::new(), 0).unwrap();
    let disk = draft.image().disk;
    File::create_new(&disk).unwrap().set_len(1 << 30).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).arg(&disk).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let content = tempfile::tempdir().unwrap();
    fs::write(content.path().join("kept"), vec![5; 3 << 20]).unwrap();
    fs::write(content.path().join("gone"), vec![6; 64 << 20]).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-d", content.path().to_str().unwrap()]);
    run("debugfs", &["-w", "-R", "rm gone"]);
    // As a machine leaves it that was stopped: mounted, the journal not replayed.
    run("debugfs", &["-w", "-R", "ssv state 0"]);
    draft.pack_disk().unwrap();
    let packed = disk.metadata().unwrap();
    assert_eq!(packed.len(), 1 << 30, "its size stays");
    assert!(packed.blocks() * 512 < 64 << 20, "{} bytes are still taken", packed.blocks() * 512);
    let template = draft.commit(spec(TemplateKind::Base)).unwrap();
    assert_eq!(template.image(), None);
    let disk = template.path(sandbar_storage::TemplateFile::Disk);
    let checked = std::process::Command::new("e2fsck").args(["-f", "-n"]).arg(&disk).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let read = std::process::Command::new("debugfs").args(["-R", "cat /kept"]).arg(&disk).output().unwrap();
    assert!(read.stdout == vec![5; 3 << 20]);

    let draft = store.begin_template(Id::new(), 0).unwrap();
    fs::write(draft.image().disk, vec![0; 1 << 20]).unwrap();
    assert!(matches!(draft.pack_disk(), Err(StoreError::Pack { .. })), "what is no filesystem");
}

#[test]
fn a_pause_may_keep_the_disk_alone() {
    let place = Place::new();
    let store = place.open();
    let id = sandbox(&store);
    let files = store.sandbox_files(id);
    File::options().write(true).open(&files.disk).unwrap().write_all_at(&[9], 0).unwrap();
    let draft = store.begin_pause(0).unwrap();
    sandbar_storage::clone_file(&files.disk, &draft.image().disk).unwrap();
    let paused = draft.publish_paused(id, spec(TemplateKind::Base), b"figures").unwrap();
    assert_eq!((paused.mode(), paused.image()), (PauseMode::Filesystem, None));
    store.rest_sandbox(id).unwrap();

    store.settle_paused(id, MOST_PIECES, &|| true).unwrap().unwrap();
    assert_eq!(store.verify_paused(id).unwrap(), paused.disk().metadata().unwrap().len());
    let read = store.paused(id).unwrap();
    assert_eq!((read.mode(), first(&read.disk())), (PauseMode::Filesystem, 9));
    let nowhere = store.begin_image(0).unwrap();
    assert!(matches!(read.copy(&nowhere.image()), Err(StoreError::NoMemoryKept { .. })));

    let awake = store.wake_sandbox_to_boot(id, &read.disk()).unwrap();
    assert_eq!(first(&awake.disk), 9);
    assert!(!awake.memory.exists(), "the monitor makes it");
    File::options().write(true).open(&awake.disk).unwrap().write_all_at(&[1], 0).unwrap();
    assert_eq!(first(&read.disk()), 9, "a boot that fails changes nothing");
    fs::remove_file(read.disk()).unwrap();
    assert!(matches!(store.paused(id), Err(StoreError::DamagedPause { .. })));
}
