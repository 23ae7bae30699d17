//! Templates made of recipes, in real guests.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Client, Platform, Sandbox, wait};
use serde_json::{Value, json};

use crate::{Test, tests};

/// An emulated guest takes its time, and machines that run these tests do much else.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        what_a_recipe_leaves_is_in_every_sandbox_of_its_template,
        what_a_recipe_copies_is_there_as_it_says,
        a_cancelled_build_leaves_no_machine,
        a_build_goes_on_after_its_control_plane_was_killed,
    ]
}

async fn what_a_recipe_leaves_is_in_every_sandbox_of_its_template(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let recipe = "# what a team may want\n\
        FROM base\n\
        RUN useradd --create-home maker && echo made by $(id -un) \\\n\
        \x20   in $(pwd) > /etc/made\n\
        ENV GREETING=\"hello there\" PATH=/srv/app/bin:$PATH\n\
        WORKDIR /srv/app\n\
        mkdir bin && printf '#!/bin/sh\\necho tool: $GREETING\\n' > bin/tool && chmod +x bin/tool\n\
        RUN chown -R maker .\n\
        USER maker\n\
        START python3 -m http.server 8123\n";
    let well = "python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:8123/')\"";
    let arguments = ["template", "build", "-", "--name", "e2e-tools", "--healthcheck", well];
    let built = platform.cli(&arguments).stdin(recipe).run().await?.expect(0)?;
    ensure!(built.text().ends_with("e2e-tools\n"), "{}", built.text());
    ensure!(built.stderr.contains("] RUN useradd"), "steps are shown as they come: {}", built.stderr);

    let sandbox = Sandbox::create(&client, &json!({"template": "e2e-tools"})).await?;
    let seen =
        sandbox.exec(&json!({"cmd": "sh", "args": ["-c", "id -un; pwd; tool; cat /etc/made"]})).await?;
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout),
        "maker\n/srv/app\ntool: hello there\nmade by root in /\n",
        "commands that say nothing have the recipe's user, folder and environment"
    );
    // What was started runs, as it did when the template was kept.
    assert_eq!(sandbox.sh("cd / && python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/').status)\"").await?, "200");
    let said = json!({"template": "e2e-tools", "env": {"GREETING": "mine"}});
    let other = Sandbox::create(&client, &said).await?;
    assert_eq!(other.sh("tool").await?, "tool: mine");
    other.destroy().await?;
    sandbox.destroy().await?;

    let failing = "echo before\necho why it fails >&2; exit 7\n";
    // The platform's own is none of the team's.
    let arguments = ["template", "build", "-", "--name", "e2e-failing", "--platform"];
    let failed = platform.cli(&arguments).stdin(failing).run().await?.expect(1)?;
    assert_eq!(failed.text(), "before\n");
    ensure!(
        failed.stderr.contains("why it fails") && failed.stderr.contains("exit code 7"),
        "{}",
        failed.stderr
    );
    let own = client.get("/v1/builds").await?.json(200)?.to_string();
    ensure!(own.contains("e2e-tools") && !own.contains("e2e-failing"), "{own}");
    platform.cli(&["template", "delete", "e2e-tools"]).run().await?.expect(0)?;
    Ok(())
}

async fn what_a_recipe_copies_is_there_as_it_says(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let context = tempfile::tempdir()?;
    let at = |path: &str| context.path().join(path);
    fs::create_dir_all(at("app/bin"))?;
    fs::write(at("app/bin/tool"), "#!/bin/sh\necho a tool\n")?;
    fs::set_permissions(at("app/bin/tool"), fs::Permissions::from_mode(0o755))?;
    fs::write(at("app/data.bin"), vec![7; 3 << 20])?;
    fs::write(at("app/secret.log"), "not to be sent")?;
    symlink("bin/tool", at("app/link"))?;
    fs::write(at("config.toml"), "mine = true\n")?;
    fs::write(at(".dockerignore"), "**/*.log\n")?;
    let recipe = "WORKDIR /srv\nCOPY app app\nCOPY --chown=user --chmod=600 *.toml /home/user/\nUSER user\nCOPY config.toml mine/config\n\
        RUN stat -c '%U:%G %a %n' app/bin/tool app/link /home/user/config.toml mine/config && app/link\n";
    fs::write(at("Recipe"), recipe)?;
    let file = at("Recipe").to_string_lossy().into_owned();
    let arguments = ["template", "build", file.as_str(), "--name", "e2e-copied"];
    let built = platform.cli(&arguments).run().await?.expect(0)?;
    let listed = "root:root 755 app/bin/tool\nroot:root 777 app/link\nuser:user 600 /home/user/config.toml\nuser:user 644 mine/config\na tool\n";
    ensure!(built.text().contains(listed), "{}{}", built.text(), built.stderr);
    ensure!(built.stderr.contains("-- sending"), "{}", built.stderr);
    let sandbox = Sandbox::create(&client, &json!({"template": "e2e-copied"})).await?;
    assert_eq!(
        sandbox
            .sh("cd /srv && ls -A app && readlink app/link && cat mine/config && sha256sum <app/data.bin")
            .await?,
        "bin\ndata.bin\nlink\nbin/tool\nmine = true\n\
         fadc8b76fb9e2447c118e8b612cb1280904241214f6b9b5b7010f445bcc3d10b  -"
    );
    sandbox.destroy().await?;

    // What is not there is told by the step.
    fs::write(at("Recipe"), "ENV NAME=nothing\nCOPY $NAME /\n")?;
    let failed = platform.cli(&arguments).run().await?.expect(1)?;
    ensure!(failed.stderr.contains("nothing is not among the files of the build"), "{}", failed.stderr);
    platform.cli(&["template", "delete", "e2e-copied"]).run().await?.expect(0)?;
    Ok(())
}

async fn a_cancelled_build_leaves_no_machine(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let before = platform.footprint().sandbox_folders()?;
    let build = begin(&client, "e2e-cancelled", &["sleep 86398"]).await?;
    running_step(&client, &build, 1).await?;
    client.post(&format!("/v1/builds/{build}/cancel"), &json!({})).await?.expect(200)?;
    assert_eq!(end_of(&client, &build).await?["status"], "cancelled");
    wait::until_true("its machine is gone", BUILD_LIMIT, async || {
        Ok(platform.footprint().sandbox_folders()?.is_subset(&before))
    })
    .await
}

async fn a_build_goes_on_after_its_control_plane_was_killed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let before = platform.footprint().sandbox_folders()?;
    // Held up in its first attempt alone: what that one wrote is not in the sandbox of the second.
    let build =
        begin(&client, "e2e-killed", &["echo begun > /etc/attempt", "sleep 20", "cat /etc/attempt"]).await?;
    running_step(&client, &build, 2).await?;
    platform.kill_up().await?;
    platform.start().await?;
    let ended = end_of(&client, &build).await?;
    assert_eq!((&ended["status"], &ended["attempts"]), (&json!("success"), &json!(2)), "{ended}");
    assert_eq!(ended["logs"][2]["stdout"], "begun\n");
    wait::until_true("both attempts' machines are gone", BUILD_LIMIT, async || {
        Ok(platform.footprint().sandbox_folders()?.is_subset(&before))
    })
    .await?;
    client.delete("/v1/snapshots/e2e-killed").await?.expect(204)?;
    Ok(())
}

async fn begin(client: &Client, name: &str, recipe: &[&str]) -> Result<String> {
    let build = client.post("/v1/builds", &json!({"name": name, "recipe": recipe})).await?.json(201)?;
    Ok(build["id"].as_str().context("a build has an id")?.to_owned())
}

async fn running_step(client: &Client, build: &str, step: u64) -> Result<()> {
    wait::until_true("the step runs", BUILD_LIMIT, async || {
        let build = client.get(&format!("/v1/builds/{build}")).await?.json(200)?;
        Ok(build["current_step"].as_u64() == Some(step) && build["status"] == "running")
    })
    .await
}

async fn end_of(client: &Client, build: &str) -> Result<Value> {
    wait::until("the build ends", BUILD_LIMIT, async || {
        let build = client.get(&format!("/v1/builds/{build}")).await?.json(200)?;
        Ok((!matches!(build["status"].as_str(), Some("pending" | "running"))).then_some(build))
    })
    .await
}
