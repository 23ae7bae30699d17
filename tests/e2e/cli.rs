//! The command line, as the README shows it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use sandbar_tests::census::signal;
use sandbar_tests::{Cli, Platform};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::files::sha256;
use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        run_prints_and_exits_as_the_command_does,
        run_carries_input_as_it_comes,
        run_ends_with_its_sandbox_when_it_is_interrupted,
        a_sandbox_from_its_making_to_its_end,
        a_sandbox_is_paused_forked_and_kept_by_command,
        files_are_copied_both_ways,
        doctor_names_the_driver_and_the_reason,
        where_the_platform_is_can_be_said_in_three_ways,
        mistakes_are_explained,
    ]
}

async fn run_prints_and_exits_as_the_command_does(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let run = async |words: &[&str]| platform.cli(&[&["run", "--"], words].concat()).run().await;
    let echo = run(&["echo", "hello", "from a sandbox"]).await?.expect(0)?;
    assert_eq!(echo.text(), "hello from a sandbox\n", "nothing but the command's own output");

    let both = run(&["bash", "-c", "echo out; echo err >&2; exit 42"]).await?.expect(42)?;
    assert_eq!(both.text(), "out\n");
    ensure!(both.stderr.contains("err\n") && !both.stderr.contains("out"), "{}", both.stderr);

    let bytes =
        run(&["python3", "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)))"]).await?.expect(0)?;
    assert_eq!(bytes.stdout, (0..=255).collect::<Vec<u8>>(), "bytes come as they are");

    // No exit code of its own: it was ended by a signal.
    run(&["bash", "-c", "kill -TERM $$"]).await?.expect(255)?;
    platform.cli(&["run", "--timeout", "1", "--", "sleep", "86399"]).run().await?.expect(124)?;

    let env =
        platform.cli(&["run", "--env", "GREETING=hi", "--", "bash", "-c", "echo $GREETING"]).run().await?;
    assert_eq!(env.expect(0)?.text(), "hi\n");
    let template = platform.cli(&["run", "--template", "base", "--", "true"]).run().await?;
    template.expect(0)?;
    Ok(())
}

async fn run_carries_input_as_it_comes(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let mut random = vec![0; 2_000_000];
    getrandom::fill(&mut random)?;
    let piped = platform.cli(&["run", "--", "sha256sum"]).stdin(random.clone()).run().await?.expect(0)?;
    assert_eq!(piped.text(), format!("{}  -\n", sha256(&random)));

    // A conversation: each answer comes before the next question is put.
    let mut child =
        platform.cli(&["run", "--", "bash", "-c", "while read n; do echo $((n * 2)); done"]).spawn()?;
    let mut input = child.stdin.take().context("no pipe")?;
    let mut output = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    for number in [3, 21] {
        input.write_all(format!("{number}\n").as_bytes()).await?;
        input.flush().await?;
        let answer = tokio::time::timeout(Duration::from_secs(60), output.next_line()).await??;
        assert_eq!(answer.as_deref(), Some(&*(number * 2).to_string()));
    }
    drop(input);
    let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await??;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

async fn run_ends_with_its_sandbox_when_it_is_interrupted(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mark = format!("signal={code}");
        let words = ["run", "--metadata", &mark, "--", "bash", "-c", "echo runs; exec sleep 86399"];
        let mut child = platform.cli(&words).spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let first = tokio::time::timeout(Duration::from_secs(60), output.next_line()).await??;
        assert_eq!(first.as_deref(), Some("runs"));
        let listed = client.list(&format!("metadata=signal%3D{code}")).await?;
        let [sandbox] = &listed[..] else { anyhow::bail!("not one sandbox: {listed:?}") };
        let id = sandbox["id"].as_str().context("no id")?;
        signal(child.id().context("it has ended")?.cast_signed(), number)?;
        let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await??;
        assert_eq!(status.code(), Some(code), "{number:?}");
        assert_eq!(client.status(id).await?, "stopped", "its sandbox is gone when it ends");
    }
    Ok(())
}

async fn a_sandbox_from_its_making_to_its_end(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = async |words: &[&str]| platform.cli(&[&["sandbox"], words].concat()).run().await;
    let made: Value = serde_json::from_slice(&sandbox(&["create", "--json"]).await?.expect(0)?.stdout)?;
    let id = made["id"].as_str().context("no id")?.to_owned();
    let listed = sandbox(&["list"]).await?.expect(0)?;
    ensure!(listed.text().contains(&id) && listed.text().contains("running"), "{}", listed.text());
    let listed: Value = serde_json::from_slice(&sandbox(&["list", "--json"]).await?.expect(0)?.stdout)?;
    ensure!(listed.as_array().is_some_and(|all| all.iter().any(|one| one["id"] == *id)), "{listed}");
    let got = sandbox(&["get", &id]).await?.expect(0)?;
    ensure!(got.text().contains(&id) && got.text().contains("running"), "{}", got.text());
    let ran = sandbox(&["exec", &id, "--", "bash", "-c", "cat; exit 5"]).await?.expect(5)?;
    assert_eq!(ran.text(), "");
    let ran = sandbox(&["exec", &id, "--", "hostname"]).await?.expect(0)?;
    ensure!(!ran.text().trim().is_empty(), "no hostname");
    sandbox(&["kill", &id]).await?.expect(0)?;
    assert_eq!(platform.client()?.status(&id).await?, "stopped");
    let listed = sandbox(&["list"]).await?.expect(0)?;
    ensure!(!listed.text().contains(&id), "{}", listed.text());
    Ok(())
}

async fn files_are_copied_both_ways(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let mut random = vec![0; 20_000_000];
    getrandom::fill(&mut random)?;
    std::fs::write(path("there"), &random)?;
    let remote = format!("{}:/tmp/copied/file", sandbox.id);
    platform.cli(&["cp", &path("there"), &remote]).run().await?.expect(0)?;
    let seen = sandbox.sh("sha256sum < /tmp/copied/file").await?;
    assert_eq!(seen, format!("{}  -", sha256(&random)));
    platform.cli(&["cp", &remote, &path("back")]).run().await?.expect(0)?;
    ensure!(std::fs::read(path("back"))? == random, "the copy that came back is another file");

    // A folder is no file, on either side.
    let folder_here = platform.cli(&["cp", &folder.path().to_string_lossy(), &remote]).run().await?;
    ensure!(folder_here.code != Some(0) && !folder_here.stderr.is_empty(), "{folder_here:?}");
    let folder_there = platform.cli(&["cp", &format!("{}:/etc", sandbox.id), &path("etc")]).run().await?;
    ensure!(folder_there.code != Some(0) && folder_there.stderr.contains("director"), "{folder_there:?}");
    ensure!(!folder.path().join("etc").exists(), "a failed copy leaves a file");
    let missing =
        platform.cli(&["cp", &format!("{}:/no/such/file", sandbox.id), &path("none")]).run().await?;
    ensure!(missing.code != Some(0) && missing.stderr.contains("/no/such/file"), "{missing:?}");
    ensure!(!folder.path().join("none").exists(), "a failed copy leaves a file");
    Ok(())
}

async fn doctor_names_the_driver_and_the_reason(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let told = platform.cli(&["doctor"]).run().await?.expect(0)?;
    let text = told.text().to_lowercase();
    ensure!(text.contains("qemu"), "no driver: {text}");
    ensure!(text.contains("kvm"), "no reason: {text}");
    for checked in ["postgresql", "nftables", "disk"] {
        ensure!(text.contains(checked), "{checked} was not looked at: {text}");
    }
    let told = platform.cli(&["doctor", "--json"]).run().await?.expect(0)?;
    let _report: Value = serde_json::from_slice(&told.stdout)?;
    Ok(())
}

async fn where_the_platform_is_can_be_said_in_three_ways(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let first = platform.first_run()?;
    let (url, key) = (first["url"].as_str().context("no url")?, first["api_key"].as_str().context("no key")?);
    let list = |more: &[&str]| Cli::new(platform.binary(), [&["sandbox", "list"], more].concat());
    list(&["--data-dir", &platform.data_dir().to_string_lossy()]).run().await?.expect(0)?;
    list(&["--url", url, "--api-key", key]).run().await?.expect(0)?;
    list(&[]).env("SANDBAR_URL", url).env("SANDBAR_API_KEY", key).run().await?.expect(0)?;
    let wrong = list(&[]).env("SANDBAR_URL", url).env("SANDBAR_API_KEY", "e2b_wrong").run().await?;
    ensure!(wrong.code != Some(0) && wrong.stderr.contains("key"), "{wrong:?}");
    Ok(())
}

async fn mistakes_are_explained(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let fails = async |cli: Cli, hint: &str| -> Result<()> {
        let ended = cli.run().await?;
        ensure!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
        ensure!(ended.stderr.contains(hint), "{hint:?} is not in: {}", ended.stderr);
        ensure!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        Ok(())
    };
    fails(platform.cli(&["run", "--template", "no-such-template", "--", "true"]), "no-such-template").await?;
    fails(platform.cli(&["run", "--", "no-such-command"]), "no-such-command").await?;
    fails(platform.cli(&["run"]), "Usage").await?;
    let unknown = "sb-00000000-0000-7000-8000-000000000000";
    fails(platform.cli(&["sandbox", "get", unknown]), unknown).await?;
    fails(platform.cli(&["sandbox", "exec", unknown, "--", "true"]), unknown).await?;
    fails(platform.cli(&["cp", "here", "there"]), "sb-").await?;
    // Nobody listens there: it says what to do about it.
    let nowhere = Cli::new(platform.binary(), ["sandbox", "list"]).env("SANDBAR_URL", "http://127.0.0.1:1");
    fails(nowhere.env("SANDBAR_API_KEY", "e2b_x"), "sandbar up").await
}

async fn a_sandbox_is_paused_forked_and_kept_by_command(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = async |words: &[&str]| platform.cli(&[&["sandbox"], words].concat()).run().await;
    let snapshot = async |words: &[&str]| platform.cli(&[&["snapshot"], words].concat()).run().await;
    let made = sandbox(&["create", "--timeout", "600", "--on-timeout", "pause"]).await?.expect(0)?;
    let id = made.text().trim().to_owned();
    sandbox(&["exec", &id, "--", "bash", "-c", "echo kept > /tmp/mark"]).await?.expect(0)?;
    let mark = async |id: &str| -> Result<String> {
        Ok(sandbox(&["exec", id, "--", "cat", "/tmp/mark"]).await?.expect(0)?.text())
    };

    sandbox(&["pause", &id]).await?.expect(0)?;
    let paused = sandbox(&["list", "--status", "paused"]).await?.expect(0)?;
    ensure!(paused.text().contains(&id), "{}", paused.text());
    let again = sandbox(&["pause", &id]).await?.expect(1)?;
    ensure!(again.stderr.contains("invalid_state"), "{}", again.stderr);
    let kept = sandbox(&["metrics", &id, "--json"]).await?.expect(0)?;
    let kept: Value = serde_json::from_slice(&kept.stdout)?;
    ensure!(kept["points"].is_array(), "{kept}");
    sandbox(&["resume", &id, "--timeout", "900"]).await?.expect(0)?;
    assert_eq!(mark(&id).await?, "kept\n");
    let told = sandbox(&["timeout", &id, "0"]).await?.expect(0)?;
    ensure!(told.text().contains("does not end by itself"), "{}", told.text());

    let children = sandbox(&["fork", &id, "--count", "2", "--timeout", "900"]).await?.expect(0)?;
    let children: Vec<String> = children.text().lines().map(str::to_owned).collect();
    assert_eq!(children.len(), 2);
    for child in &children {
        assert_eq!(mark(child).await?, "kept\n");
    }

    let name = "cli-work";
    assert_eq!(snapshot(&["create", &id, name]).await?.expect(0)?.text(), format!("{name}\n"));
    let taken = snapshot(&["create", &id, name]).await?;
    ensure!(taken.code == Some(1) && taken.stderr.contains("already_exists"), "{taken:?}");
    snapshot(&["create", &id, name, "--overwrite"]).await?.expect(0)?;
    let listed = snapshot(&["list"]).await?.expect(0)?;
    ensure!(listed.text().contains(name) && listed.text().contains("base"), "{}", listed.text());
    ensure!(snapshot(&["verify", name]).await?.expect(0)?.text().contains("sound"), "not checked");
    let from = sandbox(&["create", "--template", name]).await?.expect(0)?.text().trim().to_owned();
    assert_eq!(mark(&from).await?, "kept\n");
    snapshot(&["delete", name]).await?.expect(0)?;
    snapshot(&["delete", name]).await?.expect(1)?;
    ensure!(
        snapshot(&["delete", "base"]).await?.expect(1)?.stderr.contains("forbidden"),
        "the base is everybody's"
    );
    let all: Vec<&str> =
        [id.as_str(), from.as_str()].into_iter().chain(children.iter().map(String::as_str)).collect();
    sandbox(&[&["kill"], all.as_slice()].concat()).await?.expect(0)?;
    Ok(())
}
