//! Images in archives: brought in as many pieces as it takes, and a build's base.

use bytes::Bytes;
use futures::stream;
use sandbar_control::builds::{BuildFiles, FilesPut};
use sandbar_types::recipe::{Base, FilesName};

use super::files::{building, kept, named};
use super::*;

/// What an upload that breaks off is kept in.
const PART: usize = 4 << 20;

fn contents(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

impl Building {
    /// An upload of a part of an archive, which breaks off behind it.
    async fn put_and_break(&self, name: FilesName, from: usize, part: &[u8], size: usize) -> ErrorCode {
        let pieces: Vec<_> = part.chunks(65_521).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let broken = stream::iter(pieces.into_iter().chain([Err("the client went away")]));
        let extent = (from as u64, Some((size - from) as u64));
        let (control, ctx) = (&self.world.control, &self.world.ctx);
        control.build_files_put(ctx, BuildScope::Team, &name, extent, broken).await.unwrap_err().code()
    }

    async fn put_from(&self, name: FilesName, from: usize, rest: &[u8]) -> Result<FilesPut, ErrorCode> {
        let rest_of = stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(rest))]);
        let (control, ctx) = (&self.world.control, &self.world.ctx);
        let extent = (from as u64, Some(rest.len() as u64));
        let put = control.build_files_put(ctx, BuildScope::Team, &name, extent, rest_of).await;
        put.map_err(|error| error.code())
    }

    async fn received(&self, name: FilesName) -> u64 {
        let (control, ctx) = (&self.world.control, &self.world.ctx);
        control.build_files_received(ctx, BuildScope::Team, &name).await.unwrap()
    }

    async fn submit_archive(&self, name: &str, recipe: &[&str], archive: FilesName) -> Build {
        let new = of_archive(name, recipe, archive);
        self.world.control.build_create(&self.world.ctx, BuildScope::Team, &new).await.unwrap()
    }
}

fn of_archive(name: &str, recipe: &[&str], archive: FilesName) -> NewBuild {
    NewBuild {
        name: name.to_owned(),
        recipe: recipe.iter().map(|line| (*line).to_owned()).collect(),
        from_archive: Some(archive.to_string()),
        ..NewBuild::default()
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_after_what_is_kept() {
    let (building, folder) = building(20 << 20).await;
    let all = contents(2 * PART + 7);
    let (name, size) = (named(&all), all.len());
    assert_eq!(building.received(name).await, 0);
    // Less than a part is nothing.
    assert_eq!(building.put_and_break(name, 0, &all[..PART - 1], size).await, ErrorCode::InvalidRequest);
    assert_eq!((building.received(name).await, building.rows().await, kept(folder.path())), (0, 0, 0));
    building.put_and_break(name, 0, &all[..PART + 5], size).await;
    assert_eq!((building.received(name).await, building.has(name).await), (PART as u64, None));
    // What is kept is what was reserved, and no more.
    assert_eq!(building.rows().await, 1);
    for wrong in [1, PART - 1, 2 * PART] {
        assert_eq!(
            building.put_from(name, wrong, &all[wrong..]).await,
            Err(ErrorCode::InvalidState),
            "{wrong}"
        );
    }
    building.put_and_break(name, PART, &all[PART..2 * PART + 3], size).await;
    assert_eq!(building.received(name).await, 2 * PART as u64);
    let there = BuildFiles { name, bytes: size as u64 };
    assert_eq!(building.put_from(name, 2 * PART, &all[2 * PART..]).await, Ok(FilesPut::Stored(there)));
    assert_eq!((building.received(name).await, building.has(name).await), (size as u64, Some(there)));

    // Another end than the name says leaves nothing, of what was kept neither.
    let other = named(b"another");
    building.put_and_break(other, 0, &all[..PART], size).await;
    assert_eq!(building.put_from(other, PART, &all[PART..]).await, Err(ErrorCode::InvalidRequest));
    assert_eq!((building.received(other).await, building.rows().await, kept(folder.path())), (0, 1, 1));
    // Who begins anew takes the place of what is kept: there is room for one.
    building.put_and_break(other, 0, &all[..PART], size).await;
    building.put_and_break(other, 0, &all[..2 * PART], size).await;
    assert_eq!((building.received(other).await, building.rows().await), (2 * PART as u64, 2));
    // A client's own name says nothing of the content, so nothing goes on.
    let own = FilesName::Client([7; 32]);
    assert_eq!(building.put_from(own, PART, &all[PART..]).await, Err(ErrorCode::InvalidRequest));
    building.world.execute("UPDATE build_files SET used_at = now() - interval '2 hours'").await;
    building.world.control.builds_sweep().await.unwrap();
    assert_eq!((building.received(other).await, building.rows().await), (0, 1));
}

#[tokio::test]
async fn an_image_in_an_archive_is_a_base() {
    let (building, _folder) = building(1 << 30).await;
    let all = contents(PART + 7);
    let (name, world) = (named(&all), &building.world);
    building.put(name, Some(all.len() as u64), &all).await.unwrap();
    let build = building.submit_archive("work", &["FROM ./images/app.tar", "context"], name).await;
    assert_eq!(build.base.to_string(), format!("archive:sha256:{name}"));
    // It stays for as long as the build needs it.
    world.execute("UPDATE build_files SET used_at = now() - interval '25 hours'").await;
    world.control.builds_sweep().await.unwrap();
    let _workers = building.workers().await;
    let (ended, logs) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
    let told: Vec<_> = logs.iter().map(|log| (log.step, log.cmd.as_str(), log.stdout.as_str())).collect();
    assert_eq!(
        told,
        [
            (0, &*format!("FROM archive:sha256:{name}"), &*format!("an archive of {} bytes\n", all.len())),
            (1, "RUN context", "user=sim\ncwd=/srv\nSIM=1\n"),
            (2, "KEEP work", ""),
        ]
    );
    building.no_sandbox_is_left().await;
    // One that is no image is told, and not tried again.
    building.put(named(b""), Some(0), b"").await.unwrap();
    let none = building.submit_archive("work", &["context"], named(b"")).await;
    assert_eq!(
        none.base,
        Base::Archive(match named(b"") {
            FilesName::Content(hash) | FilesName::Client(hash) => hash,
        })
    );
    let (ended, _) = building.end_of(none.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Failed, 1));
    assert!(ended.error.unwrap().starts_with("FROM archive:sha256:e3b0c442"));
}

#[tokio::test]
async fn of_a_worker_that_dies_with_an_archive_on_its_way_nothing_is_left_and_another_begins_anew() {
    let (building, folder) = building(1 << 30).await;
    let all = contents(PART + 7);
    let (name, world) = (named(&all), &building.world);
    building.put(name, Some(all.len() as u64), &all).await.unwrap();
    let doomed = world.doomed(|control: Control, _: OpContext| async move {
        control.run_background(CancellationToken::new()).await;
    });
    world.host.inject(Rpc::ImportImage, Fault::HangAfter, Times::Once);
    let build = building.submit_archive("work", &["echo one"], name).await;
    world.host.arrived(Rpc::ImportImage, 1).await;
    doomed.kill();
    world.execute("UPDATE template_builds SET leased_until = now() - interval '1 second'").await;
    let workers = building.workers().await;
    let (ended, logs) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.attempts, logs[1].stdout.as_str()), (BuildStatus::Success, 2, "one\n"));
    building.no_sandbox_is_left().await;
    drop(workers);

    // A place that lost it has the build fail with the reason, not with what the host makes of it.
    let again = building.submit_archive("again", &["echo"], name).await;
    for archive in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(archive.unwrap().path().join("00000001")).unwrap();
    }
    let _workers = building.workers().await;
    let (ended, _) = building.end_of(again.id).await;
    let error = ended.error.unwrap();
    assert!(error.contains("a part of the archive is not here"), "{error}");
}

#[tokio::test]
async fn an_archive_is_one_base_and_has_to_be_there() {
    let (building, _folder) = building(1 << 30).await;
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    building.put(named(b"image"), Some(5), b"image").await.unwrap();
    let good = of_archive("work", &["FROM ./app.tar", "echo"], named(b"image"));
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let credentials = sandbar_control::host_client::RegistryCredentials {
        username: "robot".to_owned(),
        password: "x".into(),
    };
    for (bad, why) in [
        (NewBuild { from_archive: None, ..good.clone() }, "./app.tar is a file of yours"),
        (NewBuild { from_archive: Some(named(b"other").to_string()), ..good.clone() }, "there is no archive"),
        (NewBuild { from_archive: Some("app.tar".to_owned()), ..good.clone() }, "files: not the name"),
        (
            NewBuild { from_archive: Some(FilesName::Client([7; 32]).to_string()), ..good.clone() },
            "files: not the name",
        ),
        (NewBuild { recipe: lines(&["FROM debian:12", "echo"]), ..good.clone() }, "from_archive is"),
        (NewBuild { recipe: lines(&["FROM base", "echo"]), ..good.clone() }, "from_archive is"),
        (
            NewBuild { base_template: Some("base".to_owned()), ..good.clone() },
            "base_template and from_archive",
        ),
        (NewBuild { registry: Some(credentials), ..good.clone() }, "registry: credentials are for"),
        (NewBuild { memory_mb: Some(1), ..good.clone() }, "a machine has"),
    ] {
        let refused = control.build_create(ctx, BuildScope::Team, &bad).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{bad:?}: {refused}");
        assert!(refused.to_string().starts_with(why), "{refused}");
    }
    control.build_create(ctx, BuildScope::Team, &good).await.unwrap();
}
