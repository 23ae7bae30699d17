//! Images from a real registry and from archives, made by others than those who read them.

#![expect(clippy::unwrap_used, reason = "what is unwrapped here is what the test asserts")]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use sandbar_oci::{
    Bounds, Cache, Credentials, FetchLimits, Image, ImageError, Registries, Registry, open_archive,
};
use sandbar_testkit::oci::{LayerBuilder, TestImage, TestLogin, TestRegistry};
use sandbar_types::Arch;
use serde_json::json;

const LIMIT: u64 = 8 << 20;

fn image(content: &str, arch: &'static str) -> TestImage {
    let first = LayerBuilder::default().file("kept", 0o644, (0, 0), content.as_bytes()).file(
        "gone",
        0o644,
        (0, 0),
        b"x",
    );
    let second = LayerBuilder::default().whiteout(".", "gone").file("new", 0o600, (7, 8), b"new");
    let run = json!({"Env": ["A=b"], "User": "me", "WorkingDir": "/w", "Entrypoint": ["/e"], "Cmd": ["c"]});
    TestImage::new(vec![first.finish(), second.finish()], run, arch)
}

/// What the image made above must be, however it came here.
fn check(image: &Image, content: &str) {
    assert_eq!(image.config.env, [("A".to_owned(), "b".to_owned())]);
    assert_eq!((image.config.user.as_str(), image.config.workdir.as_str()), ("me", "/w"));
    assert_eq!(
        (image.config.entrypoint.as_slice(), image.config.cmd.as_slice()),
        (&["/e".to_owned()][..], &["c".to_owned()][..])
    );
    let folder = tempfile::tempdir().unwrap();
    image.unpack(folder.path(), Bounds { bytes: LIMIT, entries: 100 }, &|_| Ok(())).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["kept", "new"]);
    assert_eq!(fs::read_to_string(folder.path().join("kept")).unwrap(), content);
}

async fn fetch(
    registry: &TestRegistry,
    name: &str,
    credentials: Option<Credentials>,
) -> Result<Image, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), LIMIT).unwrap();
    let reference = format!("{}/{name}", registry.address()).parse().unwrap();
    let allowed = Registries { insecure: vec![registry.address().to_owned()], private: vec![] };
    let asked = Registry::new(&reference, credentials, &allowed).unwrap();
    asked.fetch(&cache, Arch::X86_64, FetchLimits { bytes: LIMIT }, &|_| Ok(())).await
}

#[tokio::test]
async fn a_real_registry_gives_what_was_put_there() {
    let registry = TestRegistry::start(None).await.unwrap();
    registry.push("team/app", "1", &image("one", "amd64")).await.unwrap();
    let both = [image("arm", "arm64"), image("amd", "amd64")];
    registry.push_index("team/app", "2", &both).await.unwrap();
    registry.push_index("team/app", "arm", &both[..1]).await.unwrap();
    check(&fetch(&registry, "team/app:1", None).await.unwrap(), "one");
    check(&fetch(&registry, "team/app:2", None).await.unwrap(), "amd");
    let other = fetch(&registry, "team/app:arm", None).await;
    assert!(matches!(other, Err(ImageError::NoPlatform { .. })), "{other:?}");
    for name in ["team/app:3", "team/other:1"] {
        let missing = fetch(&registry, name, None).await;
        assert!(matches!(missing, Err(ImageError::Unknown { .. })), "{missing:?}");
    }
}

#[tokio::test]
async fn a_real_registry_wants_the_right_password() {
    let registry = TestRegistry::start(Some(TestLogin)).await.unwrap();
    registry.push("team/app", "1", &image("one", "amd64")).await.unwrap();
    let login = |password: &str| Credentials {
        username: TestLogin::USERNAME.into(),
        password: password.to_owned().into(),
    };
    check(&fetch(&registry, "team/app:1", Some(login(TestLogin::PASSWORD))).await.unwrap(), "one");
    for credentials in [None, Some(login("close sesame"))] {
        let refused = fetch(&registry, "team/app:1", credentials).await.unwrap_err();
        assert!(matches!(refused, ImageError::NotAuthorised { .. }), "{refused}");
        assert!(!refused.to_string().contains("sesame"), "{refused}");
    }
}

fn open(archive: &[u8]) -> Result<Image, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, archive).unwrap();
    open_archive(&path, dir.path(), LIMIT, Arch::X86_64, &|_| Ok(()))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn archives_of_both_forms_are_read() {
    let made = image("archived", "amd64");
    for archive in [made.layout(&[]), made.layout(&[image("arm", "arm64")]), made.saved()] {
        check(&open(&archive).unwrap(), "archived");
        check(&open(&gzip(&archive)).unwrap(), "archived");
    }
    // A layer that stands elsewhere in the archive.
    let linked = {
        let layer = LayerBuilder::default()
            .file("kept", 0o644, (0, 0), b"linked")
            .file("new", 0o644, (0, 0), b"")
            .finish();
        let config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest(&layer)]},
            "config": {"Env": ["A=b"], "User": "me", "WorkingDir": "/w", "Entrypoint": ["/e"], "Cmd": ["c"]},
        });
        let list = json!([{"Config": "c.json", "Layers": ["b/layer.tar"]}]);
        LayerBuilder::default()
            .file("a/layer.tar", 0o644, (0, 0), &layer)
            .symlink("b/layer.tar", "../a/layer.tar")
            .file("c.json", 0o644, (0, 0), config.to_string().as_bytes())
            .file("manifest.json", 0o644, (0, 0), list.to_string().as_bytes())
            .finish()
    };
    check(&open(&linked).unwrap(), "linked");
}

fn digest(content: &[u8]) -> String {
    sandbar_oci::Digest::of(content).to_string()
}

#[test]
fn broken_archives_say_what_is_wrong() {
    let archive = |entries: &[(&str, &str)]| {
        let add = |archive: LayerBuilder, (name, content): &(&str, &str)| {
            archive.file(name, 0o644, (0, 0), content.as_bytes())
        };
        entries.iter().fold(LayerBuilder::default(), add).finish()
    };
    let nowhere = format!(r#"{{"manifests":[{{"digest":"{}","size":2}}]}}"#, digest(b"{}"));
    // An index that names itself cannot be; one that names another under its digest can.
    let changed = format!("blobs/{}", digest(b"{}").replace(':', "/"));
    for (bytes, word) in [
        (b"".to_vec(), "neither index.json"),
        (b"nonsense".to_vec(), "cannot be read"),
        (gzip(b"nonsense"), "cannot be read"),
        (archive(&[("other", "x")]), "neither index.json"),
        (archive(&[("index.json", "{")]), "cannot be read"),
        (archive(&[("index.json", r#"{"manifests":[]}"#)]), "linux on"),
        (archive(&[("index.json", &nowhere)]), "has no blob"),
        (archive(&[("index.json", &nowhere), (changed.as_str(), "[]")]), "is another one"),
        (archive(&[("manifest.json", "[]")]), "has no image"),
        (
            archive(&[("manifest.json", r#"[{"Config":"c","Layers":[]},{"Config":"c","Layers":[]}]"#)]),
            "has 2 images",
        ),
        (archive(&[("manifest.json", r#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]), "has no file"),
        (archive(&[("../index.json", "{}")]), "leads out"),
        (LayerBuilder::default().symlink("index.json", "index.json").finish(), "neither"),
        (LayerBuilder::default().symlink("index.json", "/etc/passwd").finish(), "neither"),
        (image("x", "amd64").layout(&[])[..4000].to_vec(), ""),
        (image("arm", "arm64").saved(), "linux on arm64"),
        (image("x", "amd64").layout(&[image("y", "amd64")]), "has 2 images"),
    ] {
        let error = open(&bytes).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    // Small as it comes, large as it is.
    let large = gzip(&vec![0; 2 * usize::try_from(LIMIT).unwrap()]);
    assert!(matches!(open(&large), Err(ImageError::TooLarge(_))));
    assert!(fs::read_dir(Path::new("/proc/self/fd")).unwrap().count() < 200, "files stay open");
}
