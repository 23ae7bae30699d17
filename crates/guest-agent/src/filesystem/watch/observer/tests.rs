//! Real folders, real events.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::users::User;

fn watch_as(user: &str, folder: &Path, depth: Depth) -> Result<Observer, WatchError> {
    Observer::open(Spec {
        folder: folder.to_path_buf(),
        user: User::by_name(user).unwrap(),
        depth,
        entries: Entries::LeftOut,
        network_mounts: NetworkMounts::Refused,
    })
}

fn watch(folder: &Path, depth: Depth) -> Observer {
    watch_as("root", folder, depth).unwrap()
}

/// All that the queue has now.
fn seen(observer: &mut Observer) -> Vec<(String, Change)> {
    let mut all = Vec::new();
    loop {
        let seen = observer.look().unwrap();
        all.extend(
            seen.events.into_iter().map(|event| (event.name.to_str().unwrap().to_owned(), event.change)),
        );
        if seen.queue == Queue::Empty || seen.life == Life::Gone {
            return all;
        }
    }
}

fn events<const N: usize>(events: [(&str, Change); N]) -> Vec<(String, Change)> {
    events.map(|(name, change)| (name.to_owned(), change)).to_vec()
}

use Change::{Chmod, Create, Remove, Rename, Write};

#[test]
fn each_kind_of_change_is_one_event() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut observer = watch(dir.path(), Depth::OwnEntries);
    fs::write(at("a"), "x").unwrap();
    assert_eq!(seen(&mut observer), events([("a", Create), ("a", Write)]));
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(seen(&mut observer), events([("a", Chmod)]));
    fs::rename(at("a"), at("b")).unwrap();
    assert_eq!(seen(&mut observer), events([("a", Rename), ("b", Create)]));
    fs::remove_file(at("b")).unwrap();
    assert_eq!(seen(&mut observer), events([("b", Remove)]));
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/below"), "x").unwrap();
    assert_eq!(seen(&mut observer), events([("d", Create)]));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(seen(&mut observer), events([(".", Chmod)]));
    // To read is no change, nor is to close.
    let open = fs::OpenOptions::new().write(true).open(at("d/below")).unwrap();
    drop((fs::read_dir(at("d")).unwrap().count(), open));
    assert_eq!(seen(&mut observer), []);
}

#[test]
fn a_folder_that_goes_is_the_last_event() {
    let dir = tempfile::tempdir().unwrap();
    for (end, change) in [
        (&(|path: &Path| fs::remove_dir(path).unwrap()) as &dyn Fn(&Path), Remove),
        (&|path| fs::rename(path, path.with_extension("moved")).unwrap(), Rename),
    ] {
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let mut observer = watch(&folder, Depth::WholeTree);
        end(&folder);
        let seen = observer.look().unwrap();
        assert_eq!(seen.life, Life::Gone);
        let last: Vec<_> =
            seen.events.iter().map(|event| (event.name.to_str().unwrap(), event.change)).collect();
        assert_eq!(last, [(".", change)]);
    }
}

#[test]
fn a_folder_that_appears_is_told_with_all_that_is_in_it_once() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name);
    let mut observer = watch(dir.path(), Depth::WholeTree);
    let whole = |top: &str| {
        [
            ("", Create),
            ("/empty", Create),
            ("/file", Create),
            ("/file", Write),
            ("/sub", Create),
            ("/sub/deep", Create),
            ("/sub/deep", Write),
        ]
        .map(|(name, change)| (format!("{top}{name}"), change))
        .to_vec()
    };
    let make = |top: &Path| {
        fs::create_dir_all(top.join("sub")).unwrap();
        fs::write(top.join("sub/deep"), "x").unwrap();
        fs::write(top.join("file"), "x").unwrap();
        fs::write(top.join("empty"), "").unwrap();
    };
    // Made before anybody could watch it.
    make(&at("made"));
    assert_eq!(seen(&mut observer), whole("made"));
    // Moved in, moved within, moved out.
    make(&elsewhere.path().join("moved"));
    fs::rename(elsewhere.path().join("moved"), at("in")).unwrap();
    assert_eq!(seen(&mut observer), whole("in"));
    fs::rename(at("in"), at("made/in")).unwrap();
    assert_eq!(seen(&mut observer), [events([("in", Rename)]), whole("made/in")].concat());
    fs::write(at("made/in/sub/deep"), "new").unwrap();
    assert_eq!(seen(&mut observer), events([("made/in/sub/deep", Write)]));
    fs::rename(at("made/in"), elsewhere.path().join("out")).unwrap();
    fs::write(elsewhere.path().join("out/sub/deep"), "unseen").unwrap();
    assert_eq!(seen(&mut observer), events([("made/in", Rename)]));
    // What is watched is watched: no event of a folder twice, nor of what a link leads to.
    symlink("made", at("link")).unwrap();
    fs::write(at("made/file"), "xx").unwrap();
    assert_eq!(seen(&mut observer), events([("link", Create), ("made/file", Write)]));
    fs::remove_dir_all(at("made")).unwrap();
    let removed = seen(&mut observer);
    assert!(removed.iter().all(|(_, change)| *change == Remove), "{removed:?}");
    assert_eq!(removed.last(), Some(&("made".to_owned(), Remove)));
    make(&at("made"));
    assert_eq!(seen(&mut observer), whole("made"));
}

#[test]
fn what_was_made_while_a_folder_was_listed_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let folder = dir.path().join(format!("folder-{round}"));
        let mut observer = watch(dir.path(), Depth::WholeTree);
        let writer = std::thread::spawn(move || {
            fs::create_dir(&folder).unwrap();
            for file in 0..200 {
                fs::write(folder.join(file.to_string()), "").unwrap();
            }
        });
        let mut all = Vec::new();
        while !writer.is_finished() {
            all.extend(seen(&mut observer));
        }
        writer.join().unwrap();
        all.extend(seen(&mut observer));
        let created: Vec<_> = all.iter().filter(|(_, change)| *change == Create).collect();
        let distinct: BTreeSet<_> = created.iter().map(|(name, _)| name).collect();
        assert_eq!((created.len(), distinct.len()), (201, 201));
    }
}

#[test]
fn files_that_never_had_a_name_are_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut observer = watch(dir.path(), Depth::OwnEntries);
    let mut unnamed = tempfile::tempfile_in(dir.path()).unwrap();
    unnamed.write_all(b"x").unwrap();
    unnamed.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(seen(&mut observer), []);
    fs::write(dir.path().join("#1"), "x").unwrap();
    assert_eq!(seen(&mut observer), events([("#1", Create), ("#1", Write)]));
}

#[test]
fn a_user_watches_what_a_user_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    fs::create_dir_all(dir.path().join("open/below")).unwrap();
    fs::create_dir_all(closed.join("inner")).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    for refused in [closed.clone(), closed.join("inner")] {
        assert!(matches!(watch_as("nobody", &refused, Depth::OwnEntries), Err(WatchError::Refused(_))));
    }
    let mut observer = watch_as("nobody", dir.path(), Depth::WholeTree).unwrap();
    fs::write(dir.path().join("open/below/file"), "").unwrap();
    fs::write(closed.join("secret"), "").unwrap();
    fs::create_dir(dir.path().join("open/new")).unwrap();
    fs::set_permissions(dir.path().join("open/new"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.path().join("open/new/secret"), "").unwrap();
    let told = seen(&mut observer);
    assert_eq!(told, events([("open/below/file", Create), ("open/new", Create), ("open/new", Chmod)]));
}

#[test]
fn only_folders_can_be_watched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(watch_as("root", &file, Depth::OwnEntries), Err(WatchError::NotAFolder(_))));
    let missing = dir.path().join("missing");
    assert!(matches!(watch_as("root", &missing, Depth::OwnEntries), Err(WatchError::NotFound(_))));
}

#[test]
fn a_loss_is_an_error_after_which_one_can_start_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut observer = watch(dir.path(), Depth::WholeTree);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let files = ["a", "b"].map(|name| fs::File::create(dir.path().join(name)).unwrap());
    for round in 0..=limit {
        // In turns: the same twice would be one event.
        (&files[round % 2]).write_all(b"x").unwrap();
    }
    fs::create_dir(dir.path().join("missed")).unwrap();
    let lost = loop {
        match observer.look() {
            Ok(seen) => assert_eq!(seen.queue, Queue::MayHaveMore),
            Err(error) => break error,
        }
    };
    assert!(matches!(lost, WatchError::Lost));
    observer.start_over().unwrap();
    assert_eq!(seen(&mut observer), []);
    fs::write(dir.path().join("missed/file"), "x").unwrap();
    assert_eq!(seen(&mut observer), events([("missed/file", Create), ("missed/file", Write)]));
}

#[derive(Debug, Clone)]
enum Step {
    MakeDir(PathBuf),
    Write(PathBuf),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
    Look,
}

fn path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec("[a-c]", 1..4).prop_map(|parts| parts.iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path().prop_map(Step::MakeDir),
        3 => path().prop_map(Step::Write),
        3 => (path(), path()).prop_map(|(from, to)| Step::Move(from, to)),
        2 => path().prop_map(Step::Remove),
        2 => Just(Step::Look),
    ]
}

/// What somebody believes who knows the events alone.
fn believe(tree: &mut BTreeSet<PathBuf>, events: Vec<(String, Change)>) {
    for (name, change) in events {
        let name = PathBuf::from(name);
        match change {
            Create => {
                tree.insert(name);
            }
            Remove | Rename => tree.retain(|path| !path.starts_with(&name)),
            Write | Chmod => {}
        }
    }
}

fn tree(top: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(top.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                pending.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens in whatever order, seen early or late, the events lead to the tree that is there, and every folder
    /// in it is watched under its own name.
    #[test]
    fn the_events_lead_to_the_tree(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &Path| dir.path().join(path);
        let mut observer = watch(dir.path(), Depth::WholeTree);
        let mut believed = BTreeSet::new();
        for step in &steps {
            // Many steps are impossible: then nothing happens.
            let _ = match step {
                Step::MakeDir(path) => fs::create_dir(at(path)),
                Step::Write(path) => fs::write(at(path), "x"),
                Step::Move(from, to) => fs::rename(at(from), at(to)),
                Step::Remove(path) => fs::remove_dir_all(at(path)).or_else(|_| fs::remove_file(at(path))),
                Step::Look => {
                    believe(&mut believed, seen(&mut observer));
                    Ok(())
                }
            };
        }
        believe(&mut believed, seen(&mut observer));
        prop_assert_eq!(&believed, &tree(dir.path()));

        let folders: Vec<_> = believed.iter().filter(|path| at(path).is_dir()).cloned().collect();
        for folder in folders {
            let probe = folder.join("probe");
            fs::write(at(&probe), "").unwrap();
            prop_assert_eq!(seen(&mut observer), vec![(probe.to_str().unwrap().to_owned(), Create)]);
        }
    }
}
