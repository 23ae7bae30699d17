//! Secrets of builds: what has them, and all that has not.

use sandbar_control::team_secrets::Metadata;

use super::*;

const VALUE: &str = "hunter2-and-more";

impl Building {
    async fn secret(&self, name: &str, value: &str) {
        let (control, ctx) = (&self.world.control, &self.world.ctx);
        control.team_secret_create(ctx, name, &value.into(), &Metadata::new()).await.unwrap();
    }

    async fn submit_given(&self, recipe: &[&str], kind: TemplateKind) -> Build {
        let new = given(recipe, kind);
        self.world.control.build_create(&self.world.ctx, BuildScope::Team, &new).await.unwrap()
    }
}

fn given(recipe: &[&str], kind: TemplateKind) -> NewBuild {
    NewBuild {
        name: "work".to_owned(),
        recipe: recipe.iter().map(|line| (*line).to_owned()).collect(),
        secrets: [("TOKEN".to_owned(), "github-token".to_owned())].into(),
        healthcheck: Some("context".to_owned()),
        kind: Some(kind),
        ..NewBuild::default()
    }
}

#[tokio::test]
async fn run_steps_have_them_and_neither_what_goes_on_nor_the_log_nor_the_database_has() {
    let building = Building::new(Queue::Postgres).await;
    let (world, _workers) = (&building.world, building.workers().await);
    building.secret("github-token", VALUE).await;
    let hex = hex::encode(VALUE);
    // In two writes, cut within the value.
    let cut = format!("bytes {} {}", &hex[..6], &hex[6..]);
    let warn = format!("warn it is {VALUE}!");
    let recipe = ["ENV A=$TOKEN", "context", &cut, &warn, "WORKDIR /srv", "START sleep"];
    let (ended, logs) =
        building.end_of(building.submit_given(&recipe, TemplateKind::Snapshot).await.id).await;
    assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
    let told: Vec<_> = logs.iter().map(|log| (log.stdout.as_str(), log.stderr.as_str())).collect();
    assert_eq!(
        told[..4],
        [("", ""), ("user=root\ncwd=/\nA=\nTOKEN=***\n", ""), ("***", ""), ("", "it is ***!\n")]
    );

    // Each command of the sandbox, and whether it was told.
    let has: Vec<(String, bool)> = world
        .host
        .commands()
        .into_iter()
        .map(|command| {
            (command.args.last().cloned().unwrap(), command.env.values().any(|value| value == VALUE))
        })
        .collect();
    let run = [("context", true), (cut.as_str(), true), (warn.as_str(), true)];
    let others = [("/srv", false), ("sleep", false), ("context", false)];
    let expected: Vec<_> = run.into_iter().chain(others).map(|(line, has)| (line.to_owned(), has)).collect();
    assert_eq!(has, expected);
    // What is kept was booted after the last of them.
    assert_eq!((world.host.calls(Rpc::PauseSandbox), world.host.calls(Rpc::ResumeSandbox)), (1, 1));
    building.no_sandbox_is_left().await;
    let made = building.from("work").await;
    let creation = world.host.creation_of(&made.id.to_string()).unwrap();
    assert!(creation.secrets.is_empty() && !creation.env.contains_key("TOKEN"), "{creation:?}");
    assert_eq!(creation.env["A"], "");

    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    for table in tables {
        let read = sqlx::AssertSqlSafe(format!("SELECT to_jsonb(t)::text FROM \"{table}\" t"));
        let rows: Vec<String> = sqlx::query_scalar(read).fetch_all(world.database.pool()).await.unwrap();
        for row in rows {
            // The recipe is the author's own words, and the log's command is the recipe.
            let row = row.replace(&warn, "").replace(&cut, "");
            assert!(!row.contains(VALUE) && !row.contains(&hex), "{table}: {row}");
        }
    }
}

#[tokio::test]
async fn a_disk_alone_has_no_memory_to_keep_them_in() {
    let building = Building::new(Queue::Postgres).await;
    let (world, _workers) = (&building.world, building.workers().await);
    building.secret("github-token", VALUE).await;
    let (ended, _) = building.end_of(building.submit_given(&["context"], TemplateKind::Base).await.id).await;
    assert_eq!((ended.status, ended.error), (BuildStatus::Success, None));
    assert_eq!((world.host.calls(Rpc::PauseSandbox), world.host.calls(Rpc::FlattenRootfs)), (0, 1));
}

#[tokio::test]
async fn a_worker_that_dies_while_the_sandbox_boots_anew_leaves_none() {
    let building = Building::new(Queue::Postgres).await;
    building.secret("github-token", VALUE).await;
    for rpc in [Rpc::PauseSandbox, Rpc::ResumeSandbox] {
        let before = building.world.host.calls(rpc);
        let doomed = building.world.doomed(|control: Control, _: OpContext| async move {
            control.run_background(CancellationToken::new()).await;
        });
        let gate = building.world.host.hold(rpc);
        let build = building.submit_given(&["context"], TemplateKind::Snapshot).await;
        building.world.host.arrived(rpc, before + 1).await;
        doomed.kill();
        gate.open();
        building.world.execute("UPDATE template_builds SET leased_until = now() - interval '1 second'").await;
        building.world.age_rows().await;
        let _workers = building.workers().await;
        let (ended, _) = building.end_of(build.id).await;
        assert_eq!((ended.status, ended.attempts, ended.error), (BuildStatus::Success, 2, None), "{rpc:?}");
        building.no_sandbox_is_left().await;
    }
}

#[tokio::test]
async fn what_could_not_be_kept_out_is_refused_and_one_that_is_gone_ends_the_build() {
    let building = Building::new(Queue::Postgres).await;
    let (control, ctx) = (&building.world.control, &building.world.ctx);
    let refused = async |new: &NewBuild, why: &str| {
        let refused = control.build_create(ctx, BuildScope::Team, new).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
        assert!(refused.to_string().contains(why), "{refused}");
    };
    let good = given(&["context"], TemplateKind::Snapshot);
    refused(&good, "\"github-token\"").await;
    building.secret("github-token", VALUE).await;
    let with = |recipe: &[&str]| given(recipe, TemplateKind::Snapshot);
    refused(&with(&["START sleep", "echo"]), "step 1: with secrets START comes after the last RUN").await;
    refused(&with(&["echo", "ENV A=1 TOKEN=2"]), "step 2: TOKEN is a secret's variable").await;
    let odd = NewBuild { secrets: [("A=B".to_owned(), "github-token".to_owned())].into(), ..good.clone() };
    refused(&odd, "secrets").await;

    let build = control.build_create(ctx, BuildScope::Team, &good).await.unwrap();
    control.team_secret_delete(ctx, "github-token").await.unwrap();
    let _workers = building.workers().await;
    let (ended, _) = building.end_of(build.id).await;
    assert_eq!((ended.status, ended.attempts), (BuildStatus::Failed, 1));
    assert!(ended.error.unwrap().contains("\"github-token\""));
}
