//! The store against real filesystems: run as root.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::fixture::{Place, commit_one, fill, in_tmp, options, spec};
use sandbar_storage::{
    Backing, CloneMethod, Store, StoreError, StoreKind, StoreOptions, TemplateFile, clone_file,
};
use sandbar_types::{Id, TemplateKind};

#[test]
fn a_folder_without_reflink_gets_an_image_and_keeps_it() {
    let place = Place::new();
    let store = place.open();
    let image = place.store_dir().with_extension("xfs").canonicalize().unwrap();
    assert_eq!(*store.kind(), StoreKind::LoopXfs { image: image.clone() });
    let template = commit_one(&store, 7);

    // Mounted already: the same one is used, by as many as like.
    let second = place.open();
    assert_eq!(second.kind(), store.kind());
    assert_eq!(second.templates().unwrap().len(), 1);
    drop((store, second));

    // After a restart of the machine it is mounted again.
    Store::unmount(&place.store_dir()).unwrap();
    assert!(!place.store_dir().join("store.json").exists());
    let store = place.open();
    store.template(template.id()).unwrap().verify().unwrap();

    // A folder on a filesystem with reflink needs no image.
    let inner = place.store_dir().join("inner");
    let native = Store::open(&inner, &options()).unwrap();
    assert_eq!(*native.kind(), StoreKind::Reflink);
    assert!(!inner.with_extension("xfs").exists());
}

#[test]
fn a_half_made_image_is_made_anew_and_a_broken_one_is_an_error() {
    let place = Place::new();
    let image = place.store_dir().with_extension("xfs");
    fs::write(place.path().join("store.xfs.new"), "cut short").unwrap();
    drop(place.open());
    assert!(!place.path().join("store.xfs.new").exists());

    Store::unmount(&place.store_dir()).unwrap();
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[0; 1 << 20], 0).unwrap();
    let error = Store::open(&place.store_dir(), &options()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Backing { image: named, .. } if named.ends_with("store.xfs")),
        "{error:?}"
    );
    // Nothing was put in its place.
    assert_eq!(fs::read_dir(place.store_dir()).unwrap().count(), 0);
}

#[test]
fn sandboxes_share_the_templates_blocks_and_nothing_else() {
    let place = Place::new();
    let store = place.open();
    let template = commit_one(&store, 7);
    let ids = [Id::new(), Id::new()];
    let [a, b] = ids.map(|id| store.create_sandbox(id, &template.image().unwrap()).unwrap());
    assert_eq!(store.sandboxes().unwrap(), ids);

    let write = |path: &std::path::Path, byte| {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[byte; 4096], 0).unwrap();
    };
    write(&a.disk, 1);
    write(&b.disk, 2);
    let first = |path: &std::path::Path| fs::read(path).unwrap()[0];
    assert_eq!((first(&a.disk), first(&b.disk)), (1, 2));
    template.verify().unwrap();

    assert!(
        matches!(store.create_sandbox(ids[0], &template.image().unwrap()), Err(StoreError::SandboxExists { id }) if id == ids[0])
    );
    assert_eq!(first(&a.disk), 1, "the folder that was there is left alone");

    // Deleting is idempotent, and what is not a sandbox's is not listed.
    fs::create_dir(a.dir.join("deep")).unwrap();
    fs::create_dir(place.store_dir().join("sandboxes/lost+found")).unwrap();
    for _ in 0..2 {
        store.remove_sandbox(ids[0]).unwrap();
    }
    assert_eq!(store.sandboxes().unwrap(), [ids[1]]);
    assert!(!a.dir.exists());

    // A template may go while sandboxes of it live.
    store.delete_template(template.id()).unwrap();
    store.delete_template(template.id()).unwrap();
    assert_eq!(first(&b.disk), 2);
    let error = store.create_sandbox(ids[0], &template.image().unwrap()).unwrap_err();
    assert!(
        matches!(error, StoreError::File(ref error) if error.source.kind() == ErrorKind::NotFound),
        "{error:?}"
    );
    assert_eq!(store.sandboxes().unwrap(), [ids[1]], "a failed creation leaves no folder");
}

#[test]
fn clones_are_by_reference_on_the_image_and_by_content_elsewhere() {
    let place = Place::new();
    let store = place.open();
    let (inside, outside) = (place.store_dir().join("f"), place.path().join("f"));
    fs::write(&inside, [5; 100_000]).unwrap();
    assert_eq!(clone_file(&inside, &place.store_dir().join("g")).unwrap(), CloneMethod::Reflink);
    assert_eq!(clone_file(&inside, &outside).unwrap(), CloneMethod::Copied);
    assert_eq!(clone_file(&outside, &place.path().join("g")).unwrap(), CloneMethod::Copied);
    assert_eq!(fs::read(place.path().join("g")).unwrap(), [5; 100_000]);
    drop(store);
}

#[test]
fn a_dropped_draft_leaves_nothing_and_a_committed_one_only_its_files() {
    let place = Place::new();
    let store = place.open();
    let draft = store.begin_template(Id::new(), 0).unwrap();
    fill(&draft, 1);
    let dir = draft.dir().to_owned();
    drop(draft);
    assert!(!dir.exists());
    assert!(store.templates().unwrap().is_empty());

    let id = Id::new();
    let draft = store.begin_template(id, 0).unwrap();
    let rival = store.begin_template(id, 0).unwrap();
    for draft in [&draft, &rival] {
        fill(draft, 1);
        fs::write(draft.dir().join("qmp.sock"), "").unwrap();
    }
    let template = draft.commit(spec(TemplateKind::Snapshot)).unwrap();
    assert!(
        matches!(rival.commit(spec(TemplateKind::Snapshot)), Err(StoreError::TemplateExists { id: named }) if named == id)
    );
    assert!(matches!(store.begin_template(id, 0), Err(StoreError::TemplateExists { .. })));

    let dir = place.store_dir().join("templates").join(id.to_string());
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["disk.ext4", "manifest.json", "memory", "state"]);
    let read = store.template(id).unwrap();
    assert_eq!(read.manifest, template.manifest);
    read.verify().unwrap();

    // Of a base template, the disk is all there is.
    let draft = store.begin_template(Id::new(), 0).unwrap();
    fill(&draft, 2);
    let base = draft.commit(spec(TemplateKind::Base)).unwrap();
    assert!(base.path(TemplateFile::Disk).exists() && !base.path(TemplateFile::Memory).exists());

    // A draft without its files is refused.
    let draft = store.begin_template(Id::new(), 0).unwrap();
    assert!(matches!(draft.commit(spec(TemplateKind::Base)), Err(StoreError::File(_))));
    assert_eq!(store.templates().unwrap().len(), 2);
    let [session] = &in_tmp(&place)[..] else { panic!("one open store, one session") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0);
}

#[test]
fn damage_is_named() {
    let place = Place::new();
    let store = place.open();
    let damaged_by = |spoil: &dyn Fn(&std::path::Path)| {
        let id = commit_one(&store, 9).id();
        let dir = place.store_dir().join("templates").join(id.to_string());
        spoil(&dir);
        let error = store.template(id).and_then(|template| template.verify()).unwrap_err();
        let StoreError::DamagedTemplate { id: named, file, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*named, id);
        assert!(error.to_string().contains(file.as_str()));
        let listed = store.templates().unwrap().iter().any(|template| template.id() == id);
        (file.clone(), listed)
    };
    let open = |path| fs::OpenOptions::new().write(true).open(path).unwrap();
    let truncate = |dir: &std::path::Path| open(dir.join("memory")).set_len(1 << 20).unwrap();
    assert_eq!(damaged_by(&truncate), ("memory".into(), false));
    assert_eq!(damaged_by(&|dir| fs::remove_file(dir.join("state")).unwrap()), ("state".into(), false));
    assert_eq!(
        damaged_by(&|dir| fs::remove_file(dir.join("manifest.json")).unwrap()),
        ("manifest.json".into(), false)
    );
    let cut = |dir: &std::path::Path| open(dir.join("manifest.json")).set_len(40).unwrap();
    assert_eq!(damaged_by(&cut), ("manifest.json".into(), false));
    let of_another_version = |dir: &std::path::Path| {
        let path = dir.join("manifest.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    };
    assert_eq!(damaged_by(&of_another_version), ("manifest.json".into(), false));
    // Only reading it all shows this one.
    let flip = |dir: &std::path::Path| open(dir.join("disk.ext4")).write_all_at(b"!", 12_345).unwrap();
    assert_eq!(damaged_by(&flip), ("disk.ext4".into(), true));
    assert!(matches!(store.template(Id::new()), Err(StoreError::UnknownTemplate { .. })));
}

#[test]
fn a_spare_becomes_a_sandbox_by_one_rename_or_leaves_nothing() {
    let place = Place::new();
    let store = place.open();
    let image = commit_one(&store, 5).image().unwrap();
    drop(store.create_spare(&image).unwrap());
    let spare = store.create_spare(&image).unwrap();
    assert!(store.sandboxes().unwrap().is_empty(), "nobody takes it for a sandbox");
    // Whoever runs on it goes on, and finds it under its new name.
    let opened = fs::OpenOptions::new().write(true).open(spare.files().disk).unwrap();
    let id = Id::new();
    let files = spare.settle(id).unwrap();
    assert_eq!(files, store.sandbox_files(id));
    assert_eq!(store.sandboxes().unwrap(), [id]);
    opened.write_all_at(b"mine", 0).unwrap();
    assert_eq!(&fs::read(&files.disk).unwrap()[..4], b"mine");
    assert_eq!(fs::metadata(&files.memory).unwrap().len(), 512 << 20);

    let rival = store.create_spare(&image).unwrap();
    let (error, rival) = rival.settle(id).unwrap_err();
    assert!(matches!(error, StoreError::SandboxExists { id: named } if named == id));
    assert!(rival.files().disk.exists());
    drop(rival);
    let [session] = &in_tmp(&place)[..] else { panic!("one open store, one session") };
    assert_eq!(fs::read_dir(session).unwrap().count(), 0);
    store.remove_sandbox(id).unwrap();
}

#[test]
fn too_little_space_is_refused_with_figures() {
    let place = Place::new();
    drop(place.open());
    let store =
        Store::open(&place.store_dir(), &StoreOptions { reserve: Some(1 << 40), ..options() }).unwrap();
    let error = store.begin_template(Id::new(), 0).unwrap_err();
    let StoreError::NoSpace { available, needed, .. } = error else { panic!("{error:?}") };
    assert_eq!((available, needed), (store.space().unwrap().free, 1 << 40));

    let store = place.open();
    let template = commit_one(&store, 1);
    let strict =
        Store::open(&place.store_dir(), &StoreOptions { reserve: Some(u64::MAX), ..options() }).unwrap();
    assert!(matches!(
        strict.create_sandbox(Id::new(), &template.image().unwrap()),
        Err(StoreError::NoSpace { .. })
    ));
    assert!(strict.sandboxes().unwrap().is_empty());

    // A filesystem too small to hold a store worth having.
    let small = Tmpfs::mount(&place.path().join("small"));
    let error = Store::open(&small.dir.join("store"), &StoreOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { needed, .. } if needed > 4 << 30), "{error:?}");
}

#[test]
fn full_copies_where_nothing_else_is_wanted_or_would_hide_a_store() {
    let place = Place::new();
    let native = StoreOptions { backing: Backing::Native, ..options() };
    let store = Store::open(&place.store_dir(), &native).unwrap();
    assert!(matches!(store.kind(), StoreKind::FullCopy { .. }));
    let template = commit_one(&store, 3);
    let sandbox = store.create_sandbox(Id::new(), &template.image().unwrap()).unwrap();
    assert_eq!(fs::metadata(&sandbox.disk).unwrap().len(), 64 << 20);
    drop(store);

    let again = place.open();
    assert!(matches!(again.kind(), StoreKind::FullCopy { reason } if reason.contains("hide")));
    assert_eq!(again.templates().unwrap().len(), 1);
    assert!(!place.store_dir().with_extension("xfs").exists());
}

#[test]
fn another_versions_layout_is_left_alone() {
    let place = Place::new();
    drop(place.open());
    fs::write(place.store_dir().join("store.json"), r#"{"format": 9}"#).unwrap();
    let error = Store::open(&place.store_dir(), &options()).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 9, .. }), "{error:?}");
}

#[test]
fn who_opens_the_store_sweeps_the_dead_and_spares_the_living() {
    let place = Place::new();
    let living = place.open();
    let draft = living.begin_template(Id::new(), 0).unwrap();
    fill(&draft, 4);
    let dead = place.store_dir().join("tmp/dead");
    fs::create_dir_all(dead.join("deep/root/proc")).unwrap();
    let stray = Tmpfs::mount(&dead.join("deep/root/proc"));
    fs::write(stray.dir.join("behind-the-mount"), "").unwrap();
    fs::write(place.store_dir().join("tmp/a-file"), "").unwrap();

    let other = place.open();
    assert!(!dead.exists() && !place.store_dir().join("tmp/a-file").exists());
    assert_eq!(in_tmp(&place).len(), 2);
    drop(other);
    assert_eq!(in_tmp(&place).len(), 1);
    draft.commit(spec(TemplateKind::Snapshot)).unwrap().verify().unwrap();
}

/// A small filesystem, gone with the test.
struct Tmpfs {
    dir: std::path::PathBuf,
}

impl Tmpfs {
    fn mount(dir: &std::path::Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        assert!(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=8m", "none"])
                .arg(dir)
                .status()
                .unwrap()
                .success()
        );
        Self { dir: dir.to_owned() }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // The test may have seen to it already.
        let _ = Command::new("umount").arg(&self.dir).stderr(Stdio::null()).status();
    }
}
