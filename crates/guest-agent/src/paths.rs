//! What callers' paths mean: absolute, relative to a folder (a home, mostly), or `~`.

use std::path::{Component, Path, PathBuf};

use sandbar_types::limits::PATH_BYTES;

/// A path that means nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// A NUL byte, which no path can hold.
    #[error("path contains a NUL byte")]
    Nul,
    /// Longer than Linux allows.
    #[error("path is longer than {PATH_BYTES} bytes")]
    TooLong,
    /// `~name`.
    #[error("cannot expand another user's home: '{0}'")]
    OtherHome(String),
}

/// The absolute path that `path` means to somebody whose home (or working folder) is `base`, with `.` and `..` taken out.
///
/// # Errors
/// If it cannot be a path.
pub fn resolve(path: &str, base: &Path) -> Result<PathBuf, PathError> {
    resolve_from(path, base, base)
}

/// As [`resolve`], where `~` is `home` and relative paths begin at `base`.
///
/// # Errors
/// If it cannot be a path.
pub fn resolve_from(path: &str, home: &Path, base: &Path) -> Result<PathBuf, PathError> {
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.len() > PATH_BYTES {
        return Err(PathError::TooLong);
    }
    let joined = match path.strip_prefix('~') {
        Some("") => home.to_path_buf(),
        Some(rest) => match rest.strip_prefix('/') {
            Some(below) => home.join(below.trim_start_matches('/')),
            None => return Err(PathError::OtherHome(path.to_owned())),
        },
        None => base.join(path),
    };
    Ok(clean(&joined))
}

/// Takes out `.` and `..` by their text alone, as the root: what links mean is the kernel's business.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(path: &str) -> String {
        resolve(path, Path::new("/home/user")).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_usual_forms() {
        for (path, expected) in [
            ("a", "/home/user/a"),
            ("a/b/", "/home/user/a/b"),
            ("./a/../b", "/home/user/b"),
            ("", "/home/user"),
            (".", "/home/user"),
            ("~", "/home/user"),
            ("~/a", "/home/user/a"),
            ("~//etc", "/home/user/etc"),
            ("/", "/"),
            ("/etc//passwd", "/etc/passwd"),
            ("/../../etc", "/etc"),
            ("../../../etc", "/etc"),
            ("a/~", "/home/user/a/~"),
        ] {
            assert_eq!(resolved(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_working_folder_is_not_the_home() {
        let (home, base) = (Path::new("/home/user"), Path::new("/srv"));
        assert_eq!(resolve_from("a", home, base).unwrap(), Path::new("/srv/a"));
        assert_eq!(resolve_from("~/a", home, base).unwrap(), Path::new("/home/user/a"));
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        let home = Path::new("/");
        assert_eq!(resolve("a\0b", home), Err(PathError::Nul));
        assert_eq!(resolve("~root/a", home), Err(PathError::OtherHome("~root/a".into())));
        assert_eq!(resolve(&"a".repeat(PATH_BYTES + 1), home), Err(PathError::TooLong));
    }

    proptest! {
        #[test]
        fn the_result_is_absolute_clean_and_stable(path in "[a~./\\x20é]{0,40}") {
            if let Ok(resolved) = resolve(&path, Path::new("/home/user")) {
                prop_assert!(resolved.is_absolute());
                prop_assert!(resolved.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_))));
                let text = resolved.to_str().unwrap();
                prop_assert_eq!(resolve(text, Path::new("/elsewhere")).unwrap(), resolved.clone());
                if path.starts_with('/') {
                    prop_assert_eq!(resolve(&path, Path::new("/elsewhere")).unwrap(), resolved.clone());
                }
            }
        }
    }
}
