//! Volumes: made once, whole or not at all, thin, and gone for good.

use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::fixture::{Place, options};
use sandbar_storage::{Store, StoreError, StoreOptions};
use sandbar_types::Id;
use sandbar_types::id::Volume;

const GIB: u64 = 1 << 30;

#[test]
fn a_volume_is_an_empty_filesystem_that_takes_little_until_it_is_written() {
    let place = Place::new();
    let store = place.open();
    let id = Id::<Volume>::new();
    assert!(matches!(store.volume(id), Err(StoreError::UnknownVolume { .. })));
    let made = store.create_volume(id, GIB).unwrap();
    assert_eq!(made.size_bytes, GIB);
    assert!(made.used_bytes < 64 << 20, "{} bytes", made.used_bytes);

    let disk = store.dir().join("volumes").join(id.to_string()).join("disk.ext4");
    let checked = Command::new("e2fsck").arg("-fn").arg(&disk).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let root = Command::new("debugfs").args(["-R", "stat /"]).arg(&disk).output().unwrap();
    let root = String::from_utf8_lossy(&root.stdout).into_owned();
    assert!(root.contains("Mode:  0755") && root.contains("User:  1000"), "{root}");

    let (file, size) = store.open_volume(id).unwrap();
    assert_eq!(size, GIB);
    file.write_all_at(b"kept", GIB - 4).unwrap();
    // Made again it is the same one, and another size changes nothing.
    assert_eq!(store.create_volume(id, 2 * GIB).unwrap().size_bytes, GIB);
    let mut kept = [0; 4];
    file.read_exact_at(&mut kept, GIB - 4).unwrap();
    assert_eq!(&kept, b"kept");

    let other = store.create_volume(Id::new(), 1).unwrap();
    assert_eq!(other.size_bytes, 16 << 20);
    assert_eq!(
        store.volumes().unwrap().into_iter().map(|volume| volume.id).collect::<Vec<_>>(),
        [id, other.id]
    );
    assert!(store.delete_volume(id).unwrap());
    assert!(!store.delete_volume(id).unwrap());
    assert_eq!(store.volumes().unwrap().len(), 1);
}

#[test]
fn a_volume_that_does_not_fit_beside_the_reserve_is_refused() {
    let place = Place::new();
    let options = StoreOptions { reserve: Some(u64::MAX / 2), ..options() };
    let store = Store::open(&place.store_dir(), &options).unwrap();
    assert!(matches!(store.create_volume(Id::new(), GIB), Err(StoreError::NoSpace { .. })));
    assert_eq!(store.volumes().unwrap(), []);
}
