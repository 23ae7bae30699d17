//! A store whose filesystem fills up: new work is refused in time, what is under way fails whole, what ends goes on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use sandbar_storage::{Store, StoreError, StoreKind, StoreOptions, TemplateFile};
use sandbar_types::{Id, TemplateKind};

use crate::fixture::{Place, commit_one, options, pause, spec};

/// The host's filesystem has room; the store's own is 4 GiB, the smallest there is.
const SIZE: u64 = 4 << 30;
const MIB: u64 = 1 << 20;

fn open(place: &Place, reserve: u64) -> Store {
    let options = StoreOptions { size: Some(SIZE), reserve: Some(reserve), ..options() };
    Store::open(&place.store_dir(), &options).unwrap()
}

/// A file that leaves `left` bytes of the store, taken without being written.
struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    fn new(store: &Store) -> Self {
        let path = store.dir().join("filler");
        Self { file: File::create(&path).unwrap(), path }
    }

    fn leave(&self, store: &Store, left: u64) {
        let mut most = u64::MAX;
        while most > 4096 {
            let wanted = store.space().unwrap().free.saturating_sub(left).min(most);
            if wanted == 0 {
                return;
            }
            let length = self.file.metadata().unwrap().len();
            match fallocate(&self.file, FallocateFlags::empty(), length, wanted) {
                // A filesystem keeps a little for itself as it fills.
                Err(Errno::NOSPC) => most = wanted / 2,
                taken => taken.unwrap(),
            }
        }
    }

    fn give_back(self) {
        // Cut first: the room of a file that is removed is free some time later.
        self.file.set_len(0).unwrap();
        fs::remove_file(self.path).unwrap();
    }
}

fn no_space<T>(result: Result<T, StoreError>) -> (u64, u64) {
    match result.map(|_| ()) {
        Err(StoreError::NoSpace { available, needed, .. }) => (available, needed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn below_the_reserve_nothing_begins_and_what_is_there_goes_on() {
    let place = Place::new();
    let store = open(&place, 512 * MIB);
    assert!(matches!(store.kind(), StoreKind::LoopXfs { .. }));
    let template = commit_one(&store, 7);
    let image = template.image().unwrap();
    let (running, paused) = (Id::new(), Id::new());
    store.create_sandbox(running, &image).unwrap();
    store.create_sandbox(paused, &image).unwrap();
    pause(&store, paused, 9);
    store.rest_sandbox(paused).unwrap();

    let filler = Filler::new(&store);
    filler.leave(&store, 256 * MIB);
    let (available, needed) = no_space(store.create_sandbox(Id::new(), &image));
    assert!(available <= 256 * MIB && needed == 512 * MIB, "{available} of {needed}");
    no_space(store.begin_template(Id::new(), 0));
    no_space(store.begin_image(0));
    assert_eq!(store.sandboxes().unwrap().len(), 2);

    // A pause ends in less being used, and may have what fits.
    drop(store.begin_pause(100 * MIB).unwrap());
    let (_, needed) = no_space(store.begin_pause(400 * MIB));
    assert!((400 * MIB..512 * MIB).contains(&needed), "{needed}");
    // So may a resume, and the end of a sandbox.
    let woken = store.wake_sandbox(paused, &store.paused(paused).unwrap().image().unwrap()).unwrap();
    assert_eq!(fs::read(&woken.disk).unwrap()[0], 9);
    store.remove_sandbox(running).unwrap();

    filler.give_back();
    store.create_sandbox(Id::new(), &image).unwrap();
    template.verify().unwrap();
}

#[test]
fn a_pause_that_meets_a_full_disk_leaves_nothing_and_can_be_repeated() {
    let place = Place::new();
    let store = open(&place, 512 * MIB);
    let template = commit_one(&store, 7);
    let id = Id::new();
    let files = store.create_sandbox(id, &template.image().unwrap()).unwrap();
    let draft = store.begin_pause(0).unwrap();
    let filler = Filler::new(&store);
    filler.leave(&store, 0);

    // More than is left anywhere: what the filesystem had set aside for itself is a few megabytes.
    let image = draft.image();
    let full = fs::write(&image.memory, vec![5; 256 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    drop(draft);
    assert!(!store.has_paused(id));
    assert!(files.disk.exists() && files.memory.exists(), "the sandbox has lost what it runs on");
    assert!(leftovers(&store).is_empty(), "{:?}", leftovers(&store));

    filler.give_back();
    pause(&store, id, 9);
    store.paused(id).unwrap();
    store.verify_paused(id).unwrap();
    template.verify().unwrap();
}

#[test]
fn a_template_that_meets_a_full_disk_is_not_there() {
    let place = Place::new();
    let store = open(&place, 512 * MIB);
    let id = Id::new();
    let draft = store.begin_template(id, 0).unwrap();
    let filler = Filler::new(&store);
    filler.leave(&store, 0);
    fs::write(draft.path(TemplateFile::Disk), vec![1; 256 << 20]).unwrap_err();
    drop(draft.commit(spec(TemplateKind::Base)));
    filler.give_back();
    assert!(leftovers(&store).is_empty(), "{:?}", leftovers(&store));
    drop(store);
    let store = open(&place, 512 * MIB);
    for template in store.templates().unwrap() {
        template.verify().unwrap();
    }
}

/// What this store is building or deleting.
fn leftovers(store: &Store) -> Vec<PathBuf> {
    let list = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    list(&store.dir().join("tmp")).iter().flat_map(|session| list(session)).collect()
}
