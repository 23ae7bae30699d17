use std::os::unix::fs::MetadataExt as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// An archive to be.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // As it stands: the crate would refuse what is tested here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, content.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Where to unpack, and what of it.
struct Guest {
    folder: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn order(&self, into: &str, sources: &[&str]) -> Order {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Order {
            into: format!("{}/{into}", self.folder.path().display()),
            owner: format!("{uid}:{gid}"),
            mode: None,
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        }
    }

    fn unpack(&self, tar: Tar, into: &str, sources: &[&str]) -> Result<u64, UnpackError> {
        unpack(&self.order(into, sources), &*tar.bytes())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    /// Everything below, sorted.
    fn tree(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, root, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut found);
        found.sort();
        found
    }
}

fn context() -> Tar {
    Tar::new()
        .entry(EntryType::Directory, "src/", "", 0o750, b"")
        .file("src/main.rs", "main")
        .entry(EntryType::Regular, "src/run", "", 0o755, b"#!")
        .link("src/again", "main.rs")
        .file("a.toml", "a")
        .file("b.toml", "b")
}

#[test]
fn folders_are_merged_and_files_go_where_they_are_told() {
    let guest = Guest::new();
    fs::create_dir(guest.at("app")).unwrap();
    fs::write(guest.at("app/kept"), "kept").unwrap();
    fs::write(guest.at("app/main.rs"), "old").unwrap();
    assert_eq!(guest.unpack(context(), "app", &["src"]).unwrap(), 3);
    assert_eq!((guest.read("app/kept").as_str(), guest.read("app/main.rs").as_str()), ("kept", "main"));
    assert_eq!(fs::read_link(guest.at("app/again")).unwrap(), Path::new("main.rs"));
    let run = fs::metadata(guest.at("app/run")).unwrap();
    assert_eq!((run.mode() & 0o7777, run.mtime()), (0o755, 1_700_000_000));

    // One file: to the name that is told, into a folder that is there, into one that is asked for.
    guest.unpack(context(), "x/config", &["a.toml"]).unwrap();
    assert_eq!(guest.read("x/config"), "a");
    guest.unpack(context(), "app", &["b.toml"]).unwrap();
    guest.unpack(context(), "y/", &["a.toml"]).unwrap();
    guest.unpack(context(), "z", &["*.toml"]).unwrap();
    for (path, content) in [("app/b.toml", "b"), ("y/a.toml", "a"), ("z/a.toml", "a"), ("z/b.toml", "b")] {
        assert_eq!(guest.read(path), content);
    }
    // All of it; a folder is as it was in the archive, and the destination is not.
    guest.unpack(context(), "all", &["."]).unwrap();
    let mode = |path: &str| fs::metadata(guest.at(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("all"), mode("all/src"), guest.read("all/src/main.rs").as_str()),
        (0o755, 0o750, "main")
    );
    // By two sources, to two places.
    guest.unpack(context(), "both", &["src", "src/main.rs", "."]).unwrap();
    assert_eq!(
        (guest.read("both/main.rs"), guest.read("both/src/main.rs")),
        ("main".to_owned(), "main".to_owned())
    );
}

#[test]
fn it_may_be_compressed_and_have_its_modes_said() {
    let guest = Guest::new();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&context().bytes()).unwrap();
    let order = Order { mode: Some(0o600), ..guest.order("app", &["src"]) };
    unpack(&order, &*packed.finish().unwrap()).unwrap();
    let mode = |path: &str| fs::metadata(guest.at(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("app/main.rs"), mode("app/run"), mode("app")), (0o600, 0o600, 0o600));
    let order = Order { owner: "no-such-user".to_owned(), ..guest.order("app", &["src"]) };
    assert!(matches!(unpack(&order, &*context().bytes()), Err(UnpackError::Owner(_))));
}

#[test]
fn hard_links_are_to_what_is_copied() {
    let guest = Guest::new();
    let tar = || Tar::new().file("d/one", "1").entry(EntryType::Link, "d/two", "d/one", 0o644, b"");
    guest.unpack(tar(), "app", &["d"]).unwrap();
    assert_eq!(guest.read("app/two"), "1");
    assert!(matches!(guest.unpack(tar(), "alone", &["d/two"]), Err(UnpackError::HardLink(..))));
    let out = Tar::new().entry(EntryType::Link, "passwd", "../../etc/passwd", 0o644, b"");
    assert!(matches!(guest.unpack(out, "out", &["."]), Err(UnpackError::HardLink(..))));
    let out = Tar::new().entry(EntryType::Link, "passwd", "/etc/passwd", 0o644, b"");
    assert!(matches!(guest.unpack(out, "out", &["."]), Err(UnpackError::HardLink(..))));
}

#[test]
fn what_leads_out_or_is_no_file_is_refused() {
    let guest = Guest::new();
    for name in ["../x", "a/../../x", "/etc/x", ".."] {
        let refused = guest.unpack(Tar::new().file(name, "x"), "app", &["."]);
        assert!(matches!(refused, Err(UnpackError::Outside(_))), "{name}");
    }
    for kind in
        [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse, EntryType::new(b'Z')]
    {
        let refused = guest.unpack(Tar::new().entry(kind, "x", "", 0o644, b""), "app", &["."]);
        assert!(matches!(refused, Err(UnpackError::Kind(_) | UnpackError::Archive(_))), "{kind:?}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let through = Tar::new().link("out", elsewhere.path().to_str().unwrap()).file("out/x", "x");
    assert!(matches!(guest.unpack(through, "app", &["."]), Err(UnpackError::ThroughLink(_))));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    // A link in the place of a file is replaced, not followed.
    symlink(elsewhere.path().join("x"), guest.at("app/x")).unwrap();
    guest.unpack(Tar::new().file("x", "x"), "app", &["."]).unwrap();
    assert_eq!((guest.read("app/x").as_str(), fs::read_dir(elsewhere.path()).unwrap().count()), ("x", 0));
}

#[test]
fn what_does_not_fit_is_told() {
    let guest = Guest::new();
    let missing = guest.unpack(context(), "app", &["nothing"]).unwrap_err();
    assert_eq!(missing.to_string(), "nothing is not among the files of the build");
    fs::create_dir_all(guest.at("app/a.toml")).unwrap();
    fs::write(guest.at("file"), "").unwrap();
    assert!(matches!(guest.unpack(context(), "app", &["*.toml"]), Err(UnpackError::IsFolder(_))));
    assert!(matches!(guest.unpack(context(), "file", &["src"]), Err(UnpackError::NotAFolder(_))));
    assert!(matches!(guest.unpack(context(), "file/", &["a.toml"]), Err(UnpackError::NotAFolder(_))));
    let order = guest.order("cut", &["."]);
    let tar = Tar::new().file("x", &"x".repeat(10_000)).bytes();
    assert!(matches!(unpack(&order, &tar[..4096]), Err(UnpackError::Cut(_) | UnpackError::Archive(_))));
    assert!(matches!(unpack(&order, &b"this is no archive".repeat(100)[..]), Err(UnpackError::Archive(_))));
    assert!(unpack(&order, &b""[..]).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_is_ever_written_elsewhere(
        entries in proptest::collection::vec(("[a-c./]{1,6}", "[a-c./]{0,6}", 0..4_u8), 0..8),
        source in prop_oneof!["\\.", "a", "[a-c*]{1,2}"],
    ) {
        let guest = Guest::new();
        let mut tar = Tar::new();
        for (name, link, kind) in &entries {
            tar = match kind {
                0 => tar.entry(EntryType::Directory, name, "", 0o755, b""),
                1 => tar.link(name, link),
                2 => tar.entry(EntryType::Link, name, link, 0o644, b""),
                _ => tar.file(name, "x"),
            };
        }
        let _ = guest.unpack(tar, "into/", &[&source]);
        prop_assert!(guest.tree().iter().all(|path| path == "into" || path.starts_with("into/")));
    }
}
