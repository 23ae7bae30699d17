//! Layers, sound and hostile, into a folder beside which something lies that must not change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sandbar_testkit::oci::LayerBuilder;
use tar::EntryType;
use tempfile::TempDir;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::{Bounds, Image, Layer, RunConfig, Unpacked};
use crate::section::Section;

const ROOT: (u32, u32) = (0, 0);
const BOUNDS: Bounds = Bounds { bytes: 64 << 20, entries: 10_000 };

/// A folder to lay out in, and one beside it with a secret.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "of the host").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn unpack(&self, layers: Vec<LayerBuilder>) -> Result<Unpacked, ImageError> {
        image(layers.into_iter().map(LayerBuilder::finish).collect()).unpack(
            &self.root(),
            BOUNDS,
            &|_| Ok(()),
        )
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    /// Names below the root, sorted.
    fn names(&self) -> Vec<String> {
        fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(root, &path, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root(), &self.root(), &mut found);
        found.sort();
        found
    }

    /// All that is to be seen of what lies beside the root.
    fn surroundings(&self) -> BTreeMap<PathBuf, (u32, u32, u64, i64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        for path in [self.outside(), self.outside().join("secret")] {
            let seen = path.symlink_metadata().unwrap();
            let content = if seen.is_dir() {
                let mut names: Vec<_> =
                    fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                format!("{names:?}").into_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path, (seen.mode(), seen.uid(), seen.nlink(), seen.ctime_nsec(), content));
        }
        let mut beside: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["outside", "root"]);
        found
    }
}

fn image(layers: Vec<Vec<u8>>) -> Image {
    let layers = layers.into_iter().map(|content| {
        let digest = Digest::of(&content);
        layer(&content, digest)
    });
    Image { config: RunConfig::default(), layers: layers.collect() }
}

fn layer(data: &[u8], content: Digest) -> Layer {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, data, 0).unwrap();
    Layer { data: Section::whole(file).unwrap(), content }
}

fn tar() -> LayerBuilder {
    LayerBuilder::default()
}

fn broken(result: Result<Unpacked, ImageError>, word: &str) {
    match result {
        Err(ImageError::Broken(reason) | ImageError::TooLarge(reason)) => {
            assert!(reason.contains(word), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_that_tar_knows_is_laid_out() {
    let place = Place::new();
    let long = "n".repeat(150);
    let layer = tar()
        .folder("./", 0o711, (5, 6))
        .folder("bin/", 0o755, ROOT)
        .file("bin/tool", 0o4755, (70_000, 80_000), b"tool")
        .symlink("usr", "/bin")
        .hard_link("bin/second", "./bin/tool")
        .node(EntryType::Char, "null", (1, 3))
        .node(EntryType::Block, "disk", (8, 1))
        .node(EntryType::Fifo, "pipe", (0, 0))
        .attribute(
            "SCHILY.xattr.security.capability",
            &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
        .attribute("SCHILY.xattr.trusted.overlay.opaque", b"y")
        .file("capable", 0o755, ROOT, b"x")
        .attribute("path", b"by/attribute")
        .file("other", 0o600, (1, 2), b"y")
        .file(&format!("deep/er/{long}"), 0o644, ROOT, b"z");
    let unpacked = place.unpack(vec![layer]).unwrap();
    assert_eq!(unpacked, Unpacked { bytes: 9 * 4096, entries: 14 });
    let seen = |path: &str| place.root().join(path).symlink_metadata().unwrap();
    let tool = seen("bin/tool");
    assert_eq!(
        (tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.nlink(), tool.mtime()),
        (0o4755, 70_000, 80_000, 2, 1_000_000_000)
    );
    assert_eq!(seen("bin/second").ino(), tool.ino());
    assert_eq!(seen("bin").mtime(), 1_000_000_000, "what came into it later dated it");
    assert_eq!((seen("").mode() & 0o7777, seen("").uid(), seen("").gid()), (0o711, 5, 6));
    assert_eq!(fs::read_link(place.root().join("usr")).unwrap(), Path::new("/bin"));
    assert!(seen("null").file_type().is_char_device() && seen("null").rdev() == rustix::fs::makedev(1, 3));
    assert!(seen("disk").file_type().is_block_device() && seen("disk").rdev() == rustix::fs::makedev(8, 1));
    assert!(seen("pipe").file_type().is_fifo());
    assert_eq!(
        (place.read("by/attribute"), place.read(&format!("deep/er/{long}"))),
        ("y".into(), "z".into())
    );
    let mut value = [0_u8; 64];
    let length =
        rustix::fs::getxattr(place.root().join("capable"), "security.capability", &mut value).unwrap();
    assert_eq!(length, 20);
    let missing = rustix::fs::getxattr(place.root().join("capable"), "trusted.overlay.opaque", &mut value);
    assert_eq!(missing, Err(rustix::io::Errno::NODATA), "an attribute of another machine's was kept");
}

#[test]
fn later_layers_remove_and_replace() {
    let place = Place::new();
    let first = tar()
        .file("keep/old", 0o644, ROOT, b"1")
        .file("gone/a/b", 0o644, ROOT, b"1")
        .file("file", 0o644, ROOT, b"1")
        .file("dir/x", 0o644, ROOT, b"1")
        .file("lib/libc", 0o644, ROOT, b"1")
        .file("opaque/old/deep", 0o644, ROOT, b"1")
        .file("opaque/same", 0o644, ROOT, b"1")
        .symlink("lib64", "lib")
        .file("victim", 0o644, ROOT, b"1");
    let second = tar()
        .whiteout(".", "gone")
        .whiteout("nowhere/at/all", "x")
        // A folder in the place of a file, and a file in that of a folder.
        .folder("file", 0o755, ROOT)
        .file("file/in", 0o644, ROOT, b"2")
        .file("dir", 0o644, ROOT, b"2")
        // Through a link of a layer below.
        .file("lib64/libm", 0o644, ROOT, b"2")
        // In any order.
        .file("opaque/new/deep", 0o644, ROOT, b"2")
        .file("opaque/same", 0o644, ROOT, b"2")
        .opaque("opaque")
        .file("victim", 0o644, ROOT, b"2")
        .whiteout(".", "victim");
    place.unpack(vec![first, second]).unwrap();
    let expected = [
        "dir",
        "file",
        "file/in",
        "keep",
        "keep/old",
        "lib",
        "lib/libc",
        "lib/libm",
        "lib64",
        "opaque",
        "opaque/new",
        "opaque/new/deep",
        "opaque/same",
        "victim",
    ];
    assert_eq!(place.names(), expected);
    assert_eq!(
        (place.read("opaque/same"), place.read("dir"), place.read("victim")),
        ("2".into(), "2".into(), "2".into())
    );
}

type Attack = Box<dyn Fn(&Place) -> Vec<LayerBuilder>>;

#[test]
fn nothing_leads_out() {
    fn out(place: &Place) -> String {
        place.outside().to_str().unwrap().to_owned()
    }
    let attacks: Vec<(&str, Attack)> = vec![
        ("dots", Box::new(|_| vec![tar().file("../outside/new", 0o644, ROOT, b"x")])),
        ("dots within", Box::new(|_| vec![tar().file("a/../../outside/new", 0o644, ROOT, b"x")])),
        ("absolute", Box::new(|p| vec![tar().file(&format!("{}/new", out(p)), 0o644, ROOT, b"x")])),
        ("link then file", Box::new(|p| vec![tar().symlink("l", &out(p)).file("l/new", 0o644, ROOT, b"x")])),
        (
            "link then file at it",
            Box::new(|p| {
                vec![tar().symlink("l", &format!("{}/secret", out(p))).file("l", 0o644, ROOT, b"x")]
            }),
        ),
        (
            "relative link",
            Box::new(|_| vec![tar().symlink("l", "../outside").file("l/secret", 0o644, ROOT, b"x")]),
        ),
        (
            "link of a layer below",
            Box::new(|p| vec![tar().symlink("l", &out(p)), tar().file("l/new", 0o644, ROOT, b"x")]),
        ),
        (
            "links in a chain",
            Box::new(|_| {
                vec![tar().symlink("a", "..").symlink("b", "a/..").file("b/outside/new", 0o644, ROOT, b"x")]
            }),
        ),
        ("hard link", Box::new(|p| vec![tar().hard_link("h", &format!("{}/secret", out(p)))])),
        ("hard link by dots", Box::new(|_| vec![tar().hard_link("h", "../outside/secret")])),
        ("hard link by a link", Box::new(|p| vec![tar().symlink("l", &out(p)).hard_link("h", "l/secret")])),
        ("folder at a link", Box::new(|p| vec![tar().symlink("l", &out(p)).folder("l", 0o777, (1, 1))])),
        ("mode by a link", Box::new(|p| vec![tar().symlink("l", &out(p)).folder("l/.", 0o777, (1, 1))])),
        ("removal by dots", Box::new(|_| vec![tar().whiteout("..", "outside")])),
        ("removal of dots", Box::new(|_| vec![tar().whiteout(".", "..")])),
        ("removal of a dot", Box::new(|_| vec![tar().whiteout(".", ".")])),
        ("removal of nothing", Box::new(|_| vec![tar().whiteout(".", "")])),
        ("removal by a link", Box::new(|p| vec![tar().symlink("l", &out(p)).whiteout("l", "secret")])),
        ("opaque by a link", Box::new(|p| vec![tar().symlink("l", &out(p)), tar().opaque("l")])),
        ("opaque by dots", Box::new(|_| vec![tar().opaque("..")])),
        (
            "process",
            Box::new(|_| vec![tar().symlink("l", "/proc/self/cwd").file("l/new", 0o644, ROOT, b"x")]),
        ),
    ];
    for (name, attack) in attacks {
        let place = Place::new();
        let before = place.surroundings();
        // Refused, or carried out beneath the root: the one or the other is right, as long as nothing beside it changes.
        let _ = place.unpack(attack(&place));
        assert_eq!(place.surroundings(), before, "{name}");
        for path in place.names() {
            let found = place.root().join(&path).symlink_metadata().unwrap();
            let secret = place.outside().join("secret").symlink_metadata().unwrap();
            assert_ne!(
                (found.dev(), found.ino()),
                (secret.dev(), secret.ino()),
                "{name}: {path} is the secret"
            );
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let deep = "d/".repeat(200) + "f";
    for (layer, word) in [
        (tar().file("a/../b", 0o644, ROOT, b""), "leads out"),
        (tar().file(&format!("x/{}", "n".repeat(300)), 0o644, ROOT, b""), "too long"),
        (tar().file(&deep, 0o644, ROOT, b""), "deep in one another"),
        (tar().hard_link("a", "b"), "no file of the image"),
        (tar().folder("d", 0o755, ROOT).hard_link("a", "d"), "no file of the image"),
        (tar().symlink("a", "a").file("a/b", 0o644, ROOT, b""), "should be a folder"),
        (tar().symlink("a", "nowhere").file("a/b", 0o644, ROOT, b""), "should be a folder"),
        (tar().file("f", 0o644, ROOT, b"").file("f/b", 0o644, ROOT, b""), "should be a folder"),
        (tar().file("", 0o644, ROOT, b"x"), "no name"),
        (tar().entry(EntryType::GNUSparse, "s", "", 0o644, ROOT, b""), "sparse"),
        (tar().entry(EntryType::new(b'Z'), "s", "", 0o644, ROOT, b""), "kind that nobody knows"),
        (
            tar().entry(EntryType::GNULongName, "s", "", 0o644, ROOT, &vec![b'x'; 2 << 20]),
            "attribute has more",
        ),
        (
            (0..20).fold(tar(), |layer, n| {
                layer.attribute(&format!("SCHILY.xattr.user.{n}"), &vec![b'x'; 100 << 10])
            }),
            "attribute has more",
        ),
        (tar().attribute("uid", b"4294967295").file("f", 0o644, ROOT, b""), "no owner"),
        (tar().attribute("size", b"99999999999").file("f", 0o644, ROOT, b""), "8 GiB"),
        (
            tar().attribute("SCHILY.xattr.security.capability", b"nonsense").file("f", 0o644, ROOT, b""),
            "attribute",
        ),
    ] {
        broken(Place::new().unpack(vec![layer]), word);
    }
    // Folders that are deep by way of links are as deep.
    let step = "s/".repeat(100);
    let first = tar().folder(&step, 0o755, ROOT).symlink("l", &format!("/{step}"));
    broken(
        Place::new().unpack(vec![first, tar().file(&format!("l/{step}f"), 0o644, ROOT, b"")]),
        "deep in one another",
    );
}

#[test]
fn bounds_hold() {
    let file = |size: usize| tar().file("a", 0o644, ROOT, &vec![0; size]).finish();
    let unpack = |image: &Image, bytes: u64, entries: u64| {
        image.unpack(&Place::new().root(), Bounds { bytes, entries }, &|_| Ok(()))
    };
    let small = image(vec![file(5000)]);
    assert!(unpack(&small, 8192, 1).is_ok());
    broken(unpack(&small, 8191, 1), "MiB that fit");
    broken(unpack(&small, 8192, 0), "takes 0 files");
    // 16 MiB of zeros are 16 KiB compressed, in both forms: a header says how large the file is, before anything is written.
    let plain = file(16 << 20);
    let gzip = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    for packed in [&gzip, &zstd] {
        assert!(packed.len() < 25 << 10);
        let bomb = Image { config: RunConfig::default(), layers: vec![layer(packed, Digest::of(&plain))] };
        broken(unpack(&bomb, 1 << 20, 100), "MiB that fit");
        assert_eq!(unpack(&bomb, 17 << 20, 100).unwrap().bytes, 16 << 20);
    }
    // What belongs to no file is bounded too.
    let mut padded = tar().finish();
    padded.resize(8 << 20, 0);
    let packed = zstd::encode_all(padded.as_slice(), 3).unwrap();
    let bomb = Image { config: RunConfig::default(), layers: vec![layer(&packed, Digest::of(&padded))] };
    broken(unpack(&bomb, 1 << 20, 100), "far larger");
}

#[test]
fn another_content_is_noticed_and_so_is_half_of_one() {
    let content = tar().file("a", 0o644, ROOT, &[7; 3000]).finish();
    let wrong = Image { config: RunConfig::default(), layers: vec![layer(&content, Digest::of(b"another"))] };
    broken(wrong.unpack(&Place::new().root(), BOUNDS, &|_| Ok(())), "should be");
    for end in [10, 511, 600, 2000] {
        let cut = image(vec![content[..end].to_vec()]);
        assert!(
            matches!(cut.unpack(&Place::new().root(), BOUNDS, &|_| Ok(())), Err(ImageError::Broken(_))),
            "{end}"
        );
    }
}

#[test]
fn whoever_watches_may_end_it() {
    let layers = image(vec![tar().file("a", 0o644, ROOT, &vec![1; 20 << 20]).finish()]);
    let steps = AtomicU64::new(0);
    let watch = |_: u64| match steps.fetch_add(1, Ordering::Relaxed) {
        2 => Err(ImageError::Stopped("enough".into())),
        _ => Ok(()),
    };
    let stopped = layers.unpack(&Place::new().root(), BOUNDS, &watch);
    assert!(matches!(stopped, Err(ImageError::Stopped(_))), "{stopped:?}");
    assert_eq!(steps.into_inner(), 3);
}

/// Paths and targets that mean mischief more often than not.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "l", "m", "d"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["..", ".", "", "outside", "secret", "root"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![".wh.a", ".wh.b", ".wh.l", ".wh..wh..opq", ".wh...", ".wh.secret"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

#[derive(Debug, Clone)]
enum Step {
    Folder(String),
    File(String),
    Symlink(String, String),
    HardLink(String, String),
    Fifo(String),
}

fn step() -> impl Strategy<Value = Step> {
    let target = prop_oneof![
        path(),
        path().prop_map(|path| format!("/{path}")),
        Just("..".to_owned()),
        Just("../outside".to_owned()),
        Just("@outside".to_owned()),
        Just("@outside/secret".to_owned()),
    ];
    prop_oneof![
        path().prop_map(Step::Folder),
        path().prop_map(Step::File),
        (path(), target.clone()).prop_map(|(path, target)| Step::Symlink(path, target)),
        (path(), target).prop_map(|(path, target)| Step::HardLink(path, target)),
        path().prop_map(Step::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_layers_whatever_change_what_lies_beside(layers in prop::collection::vec(prop::collection::vec(step(), 1..8), 1..4)) {
        let place = Place::new();
        // A link that is there before, as if a bug had let it in: it must lead nowhere either.
        symlink(place.outside(), place.root().join("m")).unwrap();
        let before = place.surroundings();
        let outside = place.outside().to_str().unwrap().to_owned();
        let real = |target: &str| target.replace("@outside", &outside);
        let layers = layers.into_iter().map(|steps| {
            steps.into_iter().fold(tar(), |layer, step| match step {
                Step::Folder(path) => layer.folder(&path, 0o777, (9, 9)),
                Step::File(path) => layer.file(&path, 0o666, (9, 9), b"mischief"),
                Step::Symlink(path, target) => layer.symlink(&path, &real(&target)),
                Step::HardLink(path, target) => layer.hard_link(&path, &real(&target)),
                Step::Fifo(path) => layer.node(EntryType::Fifo, &path, (0, 0)),
            })
        });
        let _ = place.unpack(layers.collect());
        prop_assert_eq!(place.surroundings(), before);
    }

    #[test]
    fn noise_is_refused_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..3000), at in 0_usize..3000, kind in any::<u8>()) {
        // Sound but for a few bytes, too: most noise does not come past the first checksum.
        let mut sound = tar().file("a", 0o644, ROOT, b"x").entry(EntryType::new(kind), "b", "a", 0o644, ROOT, b"12 path=../c\n").finish();
        let end = sound.len();
        sound[at % end] ^= noise.first().copied().unwrap_or(1);
        for content in [noise, sound] {
            let _ = image(vec![content]).unpack(&Place::new().root(), BOUNDS, &|_| Ok(()));
        }
    }
}
