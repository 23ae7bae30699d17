//! Archives that clients bring for `COPY`: put, bounded, given up, and copied from.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use futures::stream;
use sandbar_control::builds::{BuildError, BuildFiles, FilesPut, MAX_ARCHIVE_BYTES};
use sandbar_types::recipe::FilesName;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::*;

/// A world that keeps archives in a folder, and that folder.
pub(super) async fn building(files_bytes: u64) -> (Building, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let builds = BuildConfig {
        files_folder: Some(folder.path().to_owned()),
        files_bytes,
        sweep: Duration::from_millis(100),
        ..BuildConfig::default()
    };
    let world = World::with(Config { builds, ..config() }).await;
    (Building { world, redis: None }, folder)
}

pub(super) fn named(contents: &[u8]) -> FilesName {
    FilesName::Content(Sha256::digest(contents).into())
}

/// In pieces of a size that parts are no multiple of.
fn pieces(
    contents: &[u8],
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send + Unpin + 'static {
    let pieces: Vec<_> = contents.chunks(65_521).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

impl Building {
    pub(super) async fn put(
        &self,
        name: FilesName,
        length: Option<u64>,
        contents: &[u8],
    ) -> Result<FilesPut, BuildError> {
        let (control, ctx) = (&self.world.control, &self.world.ctx);
        control.build_files_put(ctx, BuildScope::Team, &name, (0, length), pieces(contents)).await
    }

    pub(super) async fn has(&self, name: FilesName) -> Option<BuildFiles> {
        let (control, ctx) = (&self.world.control, &self.world.ctx);
        control.build_files_has(ctx, BuildScope::Team, &name).await.unwrap()
    }

    pub(super) async fn rows(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM build_files");
        count.fetch_one(self.world.database.pool()).await.unwrap()
    }
}

pub(super) fn kept(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_step_sends_the_whole_archive_to_the_guest_and_says_what_of_it_is_meant() {
    let (building, _folder) = building(1 << 30).await;
    let contents: Vec<u8> = (0..9_000_001_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let name = named(&contents);
    assert_eq!(building.has(name).await, None);
    let there = BuildFiles { name, bytes: 9_000_001 };
    assert_eq!(building.put(name, None, &contents).await.unwrap(), FilesPut::Stored(there));
    assert_eq!(building.put(name, None, b"").await.unwrap(), FilesPut::Present(there));
    assert_eq!(building.has(name).await, Some(there));
    // A client's own name is held against nothing, and may be another's tomorrow.
    let own = FilesName::Client([7; 32]);
    building.put(own, Some(3), b"old").await.unwrap();
    building.put(own, Some(3), b"new").await.unwrap();

    let _workers = building.workers().await;
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    let own_step = format!("COPY --files={own} . /");
    let new = NewBuild {
        name: "work".to_owned(),
        recipe: ["WORKDIR /srv", "USER app", "COPY --chmod=640 src *.toml app/", &own_step]
            .map(str::to_owned)
            .into(),
        files: Some(name.to_string()),
        ..NewBuild::default()
    };
    let build = control.build_create(ctx, BuildScope::Team, &new).await.unwrap();
    let (ended, logs) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
    let says = |log: &BuildLog| (log.cmd.clone(), log.stdout.lines().next().unwrap_or_default().to_owned());
    assert_eq!(
        says(&logs[2]),
        (
            "COPY --chmod=0640 \"src\" \"*.toml\" \"app/\"".to_owned(),
            "root: unpack --into /srv/app/ --owner app --mode 640 -- src *.toml".to_owned()
        )
    );
    assert_eq!(logs[3].stdout, "root: unpack --into / --owner app -- .\nnew");
    let sent = [&contents[..], b"new"].concat();
    tokio::time::timeout(PATIENCE, building.world.host.processes_were_sent(&sent)).await.unwrap();
}

#[tokio::test]
async fn what_is_not_whole_or_too_much_leaves_nothing() {
    let (building, folder) = building(1000).await;
    let refused = async |name: FilesName, length: Option<u64>, contents: &[u8]| {
        building.put(name, length, contents).await.unwrap_err().code()
    };
    let contents = [7; 600];
    let name = named(&contents);
    assert_eq!(refused(named(b"other"), Some(600), &contents).await, ErrorCode::InvalidRequest);
    assert_eq!(refused(name, Some(599), &contents).await, ErrorCode::InvalidRequest);
    assert_eq!(refused(name, Some(601), &contents).await, ErrorCode::InvalidRequest);
    assert_eq!(refused(name, Some(MAX_ARCHIVE_BYTES + 1), &contents).await, ErrorCode::TooLarge);
    // One that does not say how large it is may be as large as any.
    assert_eq!(refused(name, None, &contents).await, ErrorCode::RateLimited);
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    let broken = stream::iter([Ok(Bytes::from_static(&[7; 300])), Err("the client went away")]);
    let cut =
        control.build_files_put(ctx, BuildScope::Team, &name, (0, Some(600)), broken).await.unwrap_err();
    assert_eq!(cut.code(), ErrorCode::InvalidRequest);
    assert_eq!((building.rows().await, kept(folder.path())), (0, 0));

    building.put(name, Some(600), &contents).await.unwrap();
    assert_eq!(refused(named(&[8; 600]), Some(600), &[8; 600]).await, ErrorCode::RateLimited);
    assert_eq!((building.rows().await, kept(folder.path())), (1, 1));
    // A build is asked for of what is there.
    let new =
        NewBuild { name: "work".to_owned(), recipe: vec!["COPY a b".to_owned()], ..NewBuild::default() };
    for files in [None, Some("abc".to_owned()), Some(named(b"other").to_string())] {
        let new = NewBuild { files, ..new.clone() };
        let refused = control.build_create(ctx, BuildScope::Team, &new).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
    }
    let out = NewBuild { files: Some(name.to_string()), recipe: vec!["COPY ../a b".to_owned()], ..new };
    let refused = control.build_create(ctx, BuildScope::Team, &out).await.unwrap_err();
    assert_eq!(refused.to_string(), "recipe: step 1: \"../a\" is outside of the files of the build");
    // Without a place for them there are none.
    let placeless = building.world.replica_with(config()).await;
    let refused =
        placeless.build_files_put(ctx, BuildScope::Team, &name, (0, None), pieces(b"")).await.unwrap_err();
    assert!(refused.to_string().contains("--snapshot-store"), "{refused}");
}

#[tokio::test]
async fn a_ticket_lets_one_archive_in() {
    let (building, _folder) = building(1 << 30).await;
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    let name = FilesName::Client([9; 32]);
    let ticket = control.build_files_ticket(ctx, BuildScope::Team, &name).await.unwrap();
    let ticket = ticket.expose_secret();
    control.build_files_put_by_ticket(ticket, Some(3), pieces(b"abc")).await.unwrap();
    assert_eq!(building.has(name).await, Some(BuildFiles { name, bytes: 3 }));
    for bad in ["", "x", &format!("x{ticket}"), &ticket[..ticket.len() - 2]] {
        let refused = control.build_files_put_by_ticket(bad, None, pieces(b"abc")).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Forbidden, "{bad}");
    }
    let refused = control.build_files_ticket(&OpContext::system(), BuildScope::Team, &name).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn what_nobody_uses_goes_and_what_a_build_waits_for_stays() {
    let (building, folder) = building(1 << 30).await;
    let world = &building.world;
    for contents in [b"waited for", b"not usable", b"in use now"] {
        building.put(named(contents), None, contents).await.unwrap();
    }
    let new = NewBuild {
        name: "work".to_owned(),
        recipe: vec!["COPY a b".to_owned()],
        files: Some(named(b"waited for").to_string()),
        ..NewBuild::default()
    };
    let build = world.control.build_create(&world.ctx, BuildScope::Team, &new).await.unwrap();
    world.execute("UPDATE build_files SET used_at = now() - interval '25 hours'").await;
    assert!(building.has(named(b"in use now")).await.is_some());
    // And one whose upload died with its control plane.
    world
        .execute(
            "INSERT INTO build_files (id, team_id, name, size, used_at)
             SELECT '0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e', team_id, 'client:' || name, 5, now() - interval '2 hours'
             FROM build_files LIMIT 1",
        )
        .await;
    let stray = folder.path().join("0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e");
    std::fs::create_dir(&stray).unwrap();
    std::fs::write(stray.join("00000000"), "stray").unwrap();
    world.control.builds_sweep().await.unwrap();
    assert_eq!((building.rows().await, kept(folder.path()), stray.exists()), (2, 2, false));
    assert!(building.has(named(b"not usable")).await.is_none());

    world.control.build_cancel(&world.ctx, BuildScope::Team, build.id).await.unwrap();
    world.execute("UPDATE build_files SET used_at = now() - interval '25 hours'").await;
    world.control.builds_sweep().await.unwrap();
    assert_eq!((building.rows().await, kept(folder.path())), (0, 0));
}
