//! What of an archive a `COPY` names, and where that goes. Paths are bytes, as archives and file systems have them.

use std::fmt;
use std::str::FromStr;

/// A source of a `COPY`: a path in the archive, with `*` and `?` for parts of names. It names what it matches, and all below that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

/// A source that leads out of the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is outside of the files of the build")]
pub struct Outside(String);

/// Where an entry of an archive goes, seen from the destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placed<'a> {
    /// A file that is named itself: to the destination; into it, under its own name, where that is a folder.
    Named(&'a [u8]),
    /// What is in a folder that is named, by its path below that: below the destination, which is a folder. The folder itself has no path.
    Below(&'a [&'a [u8]]),
}

impl FromStr for Pattern {
    type Err = Outside;

    /// As Docker reads them: what begins with a slash is seen from the archive's root, as all others are.
    fn from_str(text: &str) -> Result<Self, Outside> {
        let names = text.split('/').filter(|name| !matches!(*name, "" | "."));
        let names: Vec<String> = names.map(str::to_owned).collect();
        if names.iter().any(|name| name == "..") || text.contains('\0') {
            return Err(Outside(text.to_owned()));
        }
        Ok(Self(names))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str(".") } else { f.write_str(&self.0.join("/")) }
    }
}

impl Pattern {
    /// Whether it names the whole archive.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it may match more than one path.
    #[must_use]
    pub fn has_wildcards(&self) -> bool {
        self.0.iter().any(|name| name.contains(['*', '?']))
    }

    /// Where an entry of this path goes; none where it is not meant.
    #[must_use]
    pub fn place<'a>(&self, path: &'a [&'a [u8]], is_folder: bool) -> Option<Placed<'a>> {
        let (head, below) = path.split_at_checked(self.0.len())?;
        if !self.0.iter().zip(head).all(|(pattern, name)| name_matches(pattern.as_bytes(), name)) {
            return None;
        }
        match head.last() {
            Some(name) if below.is_empty() && !is_folder => Some(Placed::Named(name)),
            _ => Some(Placed::Below(below)),
        }
    }

    /// Whether something below a folder of this path may be meant.
    #[must_use]
    pub fn may_be_below(&self, folder: &[&[u8]]) -> bool {
        self.0.iter().zip(folder).all(|(pattern, name)| name_matches(pattern.as_bytes(), name))
    }
}

/// Whether a name is as a pattern with `*` (any part) and `?` (any one character) says.
#[must_use]
pub fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last star is, and from where on the rest was tried last.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                n += character(&name[n..]);
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, tried)) => {
                    star = Some((at, tried + 1));
                    (p, n) = (at + 1, tried + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How long the first character is, in UTF-8; what is none is a byte each.
fn character(bytes: &[u8]) -> usize {
    let length = match bytes.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    match bytes.get(..length) {
        Some(whole) if std::str::from_utf8(whole).is_ok() => length,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Vec<&[u8]> {
        text.split('/').map(str::as_bytes).collect()
    }

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_a_path_of_the_archive_and_nothing_outside() {
        for (text, shown) in [("", "."), (".", "."), ("./a//b/", "a/b"), ("/etc", "etc"), ("a*", "a*")] {
            assert_eq!(pattern(text).to_string(), shown);
        }
        for outside in ["..", "../a", "a/../../b", "a/..", "a\0"] {
            outside.parse::<Pattern>().unwrap_err();
        }
    }

    #[test]
    fn files_go_by_their_names_and_folders_by_what_is_in_them() {
        let (file, deep) = (path("a.txt"), path("src/sub/b.rs"));
        assert_eq!(pattern("a.txt").place(&file, false), Some(Placed::Named(b"a.txt")));
        assert_eq!(pattern("*.txt").place(&file, false), Some(Placed::Named(b"a.txt")));
        assert_eq!(pattern(".").place(&file, false), Some(Placed::Below(&file)));
        assert_eq!(pattern("src").place(&deep, false), Some(Placed::Below(&deep[1..])));
        assert_eq!(pattern("src").place(&deep[..1], true), Some(Placed::Below(&[])));
        assert_eq!(pattern("s?c/sub").place(&deep, false), Some(Placed::Below(&deep[2..])));
        assert_eq!(pattern("src/sub/b.rs").place(&deep, false), Some(Placed::Named(b"b.rs")));
        assert_eq!(pattern("src/sub/b.rs/c").place(&deep, false), None);
        assert_eq!(pattern("sub").place(&deep, false), None);
        // A star ends at a slash.
        assert_eq!(pattern("*.rs").place(&deep, false), None);
        assert!(pattern("src/*/b").may_be_below(&deep[..2]) && !pattern("lib").may_be_below(&deep[..1]));
    }

    #[test]
    fn a_character_is_one_however_many_bytes_it_has() {
        assert!(name_matches(b"?", "ä".as_bytes()) && name_matches("?€?".as_bytes(), "a€𝄞".as_bytes()));
        assert!(name_matches(b"??", b"\xff\xc3") && !name_matches(b"?", b"ab"));
    }

    proptest! {
        #[test]
        fn it_matches_what_a_slow_and_simple_one_matches(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => slow(rest, name) || (!name.is_empty() && slow(pattern, &name[1..])),
                    (Some((b'?', rest)), Some((_, behind))) => slow(rest, behind),
                    (Some((one, rest)), Some((other, behind))) => one == other && slow(rest, behind),
                    _ => false,
                }
            }
            prop_assert_eq!(
                name_matches(pattern.as_bytes(), name.as_bytes()),
                slow(pattern.as_bytes(), name.as_bytes())
            );
        }

        #[test]
        fn what_is_placed_stays_below_the_destination(source in "[a*?/.]{0,10}", entry in "[a/]{1,10}") {
            let names: Vec<&[u8]> = path(&entry).into_iter().filter(|name| !name.is_empty()).collect();
            if let Ok(pattern) = source.parse::<Pattern>()
                && let Some(Placed::Below(below)) = pattern.place(&names, false)
            {
                prop_assert!(names.ends_with(below));
            }
        }
    }
}
