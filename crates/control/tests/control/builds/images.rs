//! Builds that start from a registry's image, and the templates that hosts make of it for them, of which none stays.

use sandbar_control::host_client::RegistryCredentials;
use sandbar_types::recipe::Base;

use super::*;

impl Building {
    async fn submit_sized(&self, name: &str, recipe: &[&str], disk_mb: u32) -> Build {
        let new = NewBuild {
            name: name.to_owned(),
            recipe: recipe.iter().map(|line| (*line).to_owned()).collect(),
            vcpus: Some(2),
            memory_mb: Some(1024),
            disk_mb: Some(disk_mb),
            ..NewBuild::default()
        };
        self.world.control.build_create(&self.world.ctx, BuildScope::Team, &new).await.unwrap()
    }

    /// Waits until no template of an image is left: neither a row nor, once the host was asked for what it owes, its files.
    async fn no_image_is_left(&self) {
        let gone = async {
            loop {
                // Busy while the workers' own control plane is at it.
                let _ = self.world.control.reconcile_host(self.world.host_id, None).await;
                let rows: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM templates WHERE build_id IS NOT NULL AND deleted_at IS NULL",
                )
                .fetch_one(self.world.database.pool())
                .await
                .unwrap();
                let ready: Vec<uuid::Uuid> = sqlx::query_scalar(
                    "SELECT id FROM templates WHERE deleted_at IS NULL AND ready_at IS NOT NULL",
                )
                .fetch_all(self.world.database.pool())
                .await
                .unwrap();
                let known: Vec<_> =
                    ready.into_iter().map(|id| Id::<id::Template>::from_uuid(id).to_string()).collect();
                if rows == 0 && self.world.host.templates().iter().all(|made| known.contains(&made.id)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("no image is left");
    }
}

#[tokio::test]
async fn an_image_is_a_base_of_any_size_and_says_what_the_recipe_finds() {
    let building = Building::new(Queue::Postgres).await;
    let (world, workers) = (&building.world, building.workers().await);
    let recipe = ["FROM debian:12", "context", "ENV MORE=2"];
    let build = building.submit_sized("work", &recipe, 2048).await;
    assert_eq!((&build.base, build.total_steps), (&Base::Image("debian:12".to_owned()), 3));
    let (ended, logs) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
    let told: Vec<_> =
        logs.iter().map(|log| (log.step, log.cmd.as_str(), log.stdout.as_str(), log.exit_code)).collect();
    assert_eq!(
        told,
        [
            (0, "FROM debian:12", "fetching the image\n", Some(0)),
            (1, "RUN context", "user=sim\ncwd=/srv\nSIM=1\n", Some(0)),
            (2, "ENV MORE=\"2\"", "", Some(0)),
            (3, "KEEP work", "", None),
        ]
    );
    building.no_sandbox_is_left().await;
    building.no_image_is_left().await;
    drop(workers);

    let page = world.control.template_list(&world.ctx, None, &Default::default()).await.unwrap();
    let names: Vec<_> = page.items.iter().map(|made| made.name.as_str()).collect();
    assert_eq!(names, ["work", "base"]);
    let work = &page.items[0];
    assert_eq!((work.vcpus, work.memory_mb, work.disk_mb), (2, 1024, 2048));
    let made = building.from("work").await;
    let creation = world.host.creation_of(&made.id.to_string()).unwrap();
    assert_eq!((creation.default_user.as_str(), creation.default_workdir.as_str()), ("sim", "/srv"));
    assert_eq!((creation.env["SIM"].as_str(), creation.env["MORE"].as_str()), ("1", "2"));
}

#[tokio::test]
async fn a_name_is_a_templates_where_there_is_one() {
    let building = Building::new(Queue::Postgres).await;
    let python = async || building.submit("other", &["FROM python", "echo"]).await.base;
    assert_eq!(python().await, Base::Image("python:latest".to_owned()));
    let _workers = building.workers().await;
    let made = building.submit("python", &["echo"]).await;
    assert_eq!(building.end_of(made.id).await.0.status, BuildStatus::Success);
    assert_eq!(python().await, Base::Template("python".parse().unwrap()));
}

#[tokio::test]
async fn an_import_that_fails_is_a_step_that_does_and_one_that_breaks_off_is_tried_again() {
    let building = Building::new(Queue::Postgres).await;
    let _workers = building.workers().await;
    let (ended, logs) = building.end_of(building.submit("work", &["FROM a/missing", "echo"]).await.id).await;
    assert_eq!((ended.status, ended.attempts, ended.current_step), (BuildStatus::Failed, 1, 0));
    let error = ended.error.unwrap();
    assert!(error.starts_with("FROM a/missing: "), "{error}");
    assert_eq!(logs.len(), 1);
    assert_eq!((logs[0].step, logs[0].exit_code, &logs[0].stderr), (0, Some(1), &format!("{error}\n")));
    building.no_image_is_left().await;
    assert_eq!(building.world.host.calls(Rpc::CreateSandbox), 0);

    building.world.host.inject(Rpc::ImportImage, Fault::LoseReply, Times::Once);
    let (ended, _) = building.end_of(building.submit("work", &["FROM a/b", "echo"]).await.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 2));
    // What the host says of itself is not for the build's owner.
    building.world.host.inject(Rpc::ImportImage, Fault::Fail, Times::Always);
    let (ended, logs) = building.end_of(building.submit("work", &["FROM a/b", "echo"]).await.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Failed, 3));
    let error = ended.error.unwrap();
    assert_eq!(error, "FROM a/b: the host that imports it has failed or is away");
    assert_eq!(logs[0].stderr, format!("{error}\n"));
    building.no_sandbox_is_left().await;
    building.no_image_is_left().await;
}

#[tokio::test]
async fn a_build_that_is_cancelled_while_its_image_comes_leaves_nothing() {
    let building = Building::new(Queue::Postgres).await;
    let world = &building.world;
    let _workers = building.workers().await;
    // One that has not begun on the host, and one that is done there and nobody heard.
    let gate = world.host.hold(Rpc::ImportImage);
    world.host.inject(Rpc::ImportImage, Fault::HangAfter, Times::Once);
    for n in 1..=2 {
        let build = building.submit("work", &["FROM a/b", "echo"]).await;
        world.host.arrived(Rpc::ImportImage, n).await;
        world.control.build_cancel(&world.ctx, BuildScope::Team, build.id).await.unwrap();
        assert_eq!(building.end_of(build.id).await.0.status, BuildStatus::Cancelled);
        gate.open();
    }
    building.no_image_is_left().await;
    assert_eq!(world.host.calls(Rpc::CreateSandbox), 0);
}

#[tokio::test]
async fn of_a_worker_that_is_killed_while_an_image_comes_nothing_is_left() {
    let building = Building::new(Queue::Postgres).await;
    let world = &building.world;
    let doomed = world.doomed(|control: Control, _: OpContext| async move {
        control.run_background(CancellationToken::new()).await;
    });
    world.host.inject(Rpc::ImportImage, Fault::HangAfter, Times::Once);
    let build = building.submit("work", &["FROM a/b", "echo"]).await;
    world.host.arrived(Rpc::ImportImage, 1).await;
    doomed.kill();
    world.execute("UPDATE template_builds SET leased_until = now() - interval '1 second'").await;
    let _workers = building.workers().await;
    let (ended, _) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Success, 2));
    building.no_sandbox_is_left().await;
    building.no_image_is_left().await;
}

#[tokio::test]
async fn a_private_image_is_had_with_credentials_that_nobody_keeps() {
    let building = Building::new(Queue::Postgres).await;
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    let credentials = |password: &str| RegistryCredentials {
        username: "robot".to_owned(),
        password: password.to_owned().into(),
    };
    let new = NewBuild {
        name: "work".to_owned(),
        recipe: ["FROM corp/private", "echo"].map(str::to_owned).into(),
        registry: Some(credentials("open sesame")),
        ..NewBuild::default()
    };
    let sealed = async || -> Vec<Option<Vec<u8>>> {
        let all = sqlx::query_scalar("SELECT registry FROM template_builds ORDER BY created_at");
        all.fetch_all(building.world.database.pool()).await.unwrap()
    };
    let build = control.build_create(ctx, BuildScope::Team, &new).await.unwrap();
    let kept = sealed().await[0].clone().unwrap();
    assert!(!kept.windows(4).any(|bytes| bytes == b"open" || bytes == b"robo"));
    let wrong = NewBuild { registry: Some(credentials("wrong")), ..new.clone() };
    let refused = control.build_create(ctx, BuildScope::Team, &wrong).await.unwrap();
    let cancelled = control.build_create(ctx, BuildScope::Team, &new).await.unwrap();
    control.build_cancel(ctx, BuildScope::Team, cancelled.id).await.unwrap();

    let _workers = building.workers().await;
    let (ended, _) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
    assert_eq!(building.end_of(refused.id).await.0.status, BuildStatus::Failed);
    assert_eq!(sealed().await, [None, None, None]);

    let bad = [credentials(""), RegistryCredentials { username: "a:b".to_owned(), ..credentials("x") }];
    let of_template = NewBuild { recipe: vec!["echo".to_owned()], ..new.clone() };
    let bad = bad.map(|registry| NewBuild { registry: Some(registry), ..new.clone() });
    for bad in bad.into_iter().chain([of_template]) {
        let refused = control.build_create(ctx, BuildScope::Team, &bad).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
    }
}
