//! Which watch is which folder. Each watch has one folder, each folder one watch.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::inotify::Wd;

/// The watched folders, by paths relative to the top one, which is the empty path.
#[derive(Debug, Default)]
pub(super) struct Folders {
    by_wd: HashMap<Wd, PathBuf>,
    /// Ordered by components, so that a tree lies together.
    by_path: BTreeMap<PathBuf, Wd>,
}

impl Folders {
    /// The folder of a watch.
    pub(super) fn path(&self, wd: Wd) -> Option<&Path> {
        self.by_wd.get(&wd).map(PathBuf::as_path)
    }

    /// Makes `wd` the watch of `path`. What either of them was before, it is no more. Returns the watch that `path` had, if
    /// it was another.
    pub(super) fn insert(&mut self, wd: Wd, path: PathBuf) -> Option<Wd> {
        self.forget(wd);
        let displaced = self.by_path.insert(path.clone(), wd);
        if let Some(displaced) = displaced {
            self.by_wd.remove(&displaced);
        }
        self.by_wd.insert(wd, path);
        displaced
    }

    /// The watch has ended.
    pub(super) fn forget(&mut self, wd: Wd) {
        if let Some(path) = self.by_wd.remove(&wd) {
            self.by_path.remove(&path);
        }
    }

    /// Takes a folder and all below it out.
    pub(super) fn take_tree(&mut self, top: &Path) -> Vec<Wd> {
        let tree = self
            .by_path
            .range::<Path, _>((Bound::Included(top), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(top));
        let watches: Vec<Wd> = tree.map(|(_, wd)| *wd).collect();
        for wd in &watches {
            self.forget(*wd);
        }
        watches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(i32, PathBuf),
        Forget(i32),
        Take(PathBuf),
    }

    fn path() -> impl Strategy<Value = PathBuf> {
        // Names that sort between a name and its subfolders as text: `a-`, `a.` come before `a/`.
        proptest::collection::vec("a|b|a-|a\\.|ab", 0..4).prop_map(|parts| parts.iter().collect())
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12, path()).prop_map(|(wd, path)| Step::Insert(wd, path)),
            1 => (0..12).prop_map(Step::Forget),
            1 => path().prop_map(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn it_is_one_to_one_and_a_tree_goes_whole(steps in proptest::collection::vec(step(), 0..40)) {
            let mut folders = Folders::default();
            let mut naive: Vec<(Wd, PathBuf)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(wd, path) => {
                        let wd = Wd(wd);
                        naive.retain(|(other, _)| *other != wd);
                        let displaced = naive.iter().find(|(_, other)| *other == path).map(|(wd, _)| *wd);
                        naive.retain(|(_, other)| *other != path);
                        naive.push((wd, path.clone()));
                        prop_assert_eq!(folders.insert(wd, path), displaced);
                    }
                    Step::Forget(wd) => {
                        naive.retain(|(other, _)| *other != Wd(wd));
                        folders.forget(Wd(wd));
                    }
                    Step::Take(top) => {
                        let mut expected: Vec<_> =
                            naive.extract_if(.., |(_, path)| path.starts_with(&top)).map(|(wd, _)| wd).collect();
                        let mut taken = folders.take_tree(&top);
                        expected.sort();
                        taken.sort();
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(folders.by_wd.len(), naive.len());
                prop_assert_eq!(folders.by_path.len(), naive.len());
                for (wd, path) in &naive {
                    prop_assert_eq!(folders.path(*wd), Some(path.as_path()));
                }
            }
        }
    }
}
