//! What a sandbox's log tells, after the fact.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Platform, Sandbox, census, wait};
use sandbar_types::ErrorCode;
use serde_json::{Value, json};

use crate::{Test, tests};

/// For whatever takes long on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(90);
/// All that a log may take of the disk, and some.
const MOST_BYTES: u64 = 9 << 20;

pub(crate) fn tests() -> Vec<Test> {
    tests![a_log_tells_what_happened_through_pause_resume_restarts_and_a_flood]
}

/// The log, oldest first, once there is an entry with this message. Copies of it: how often it is there.
async fn until_told(sandbox: &Sandbox, message: &str) -> Result<Vec<Value>> {
    wait::until(message, PATIENCE, async || {
        let log = read(sandbox).await?;
        Ok(log.iter().any(|entry| entry["message"] == message).then_some(log))
    })
    .await
}

async fn read(sandbox: &Sandbox) -> Result<Vec<Value>> {
    let path = format!("/v1/sandboxes/{}/logs?direction=forward&limit=1000", sandbox.id);
    let page = sandbox.client().get(&path).await?.json(200)?;
    Ok(page.as_array().context("no array")?.clone())
}

fn messages(log: &[Value]) -> Vec<&str> {
    log.iter().filter_map(|entry| entry["message"].as_str()).collect()
}

fn event(log: &[Value], event: &str) -> usize {
    log.iter().filter(|entry| entry["fields"]["event"] == event).count()
}

async fn a_log_tells_what_happened_through_pause_resume_restarts_and_a_flood(
    platform: &Platform,
) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let sandbox = Sandbox::create(&client, &json!({"timeout_sec": 0})).await?;
    let act = async |what: &str| {
        client.post(&format!("/v1/sandboxes/{}/{what}", sandbox.id), &json!({})).await?.json(200)
    };
    let failed =
        sandbox.exec(&json!({"cmd": "bash", "args": ["-c", "echo one; echo two >&2; exit 3"]})).await?;
    assert_eq!(failed.exit_code, 3);
    let log = until_told(&sandbox, "ended: exit status 3").await?;
    assert_eq!(log[0]["fields"]["event"], "created", "{log:?}");
    let line = |text: &str| log.iter().find(|entry| entry["message"] == text).context("a line is lacking");
    let (one, two) = (line("one")?, line("two")?);
    assert_eq!((&one["level"], &one["fields"]["stream"]), (&json!("info"), &json!("stdout")));
    assert_eq!((&two["level"], &two["fields"]["stream"]), (&json!("warn"), &json!("stderr")));
    assert_eq!((&one["fields"]["cmd"], &one["fields"]["source"]), (&json!("bash"), &json!("guest")));
    let end = log.last().context("an end")?;
    assert_eq!((&end["fields"]["exit_code"], &end["fields"]["pid"]), (&json!("3"), &one["fields"]["pid"]));

    // Paused, with an agent that was not there when it was said, and resumed: nothing is lost, nothing is there twice.
    act("pause").await?;
    let restart = async || {
        let before = platform.agent_pid()?;
        census::signal(before, rustix::process::Signal::KILL)?;
        wait::until_true("another host agent", PATIENCE, async || Ok(platform.agent_pid()? != before))
            .await?;
        wait::until_true("it answers", PATIENCE, async || Ok(read(&sandbox).await.is_ok())).await
    };
    restart().await?;
    let paused = read(&sandbox).await?;
    assert_eq!(messages(&paused)[..log.len()], messages(&log));
    assert_eq!(paused.last().context("an entry")?["fields"]["event"], "paused");
    act("resume").await?;
    wait::until_true("it runs", PATIENCE, async || Ok(sandbox.sh("echo three").await.is_ok())).await?;
    until_told(&sandbox, "three").await?;
    restart().await?;
    wait::until_true("it runs", PATIENCE, async || Ok(sandbox.sh("echo four").await.is_ok())).await?;
    let log = until_told(&sandbox, "four").await?;
    for (what, times) in [("created", 1), ("paused", 1), ("resumed", 1), ("taken_over", 1)] {
        assert_eq!(event(&log, what), times, "{what}: {:?}", messages(&log));
    }
    for line in ["one", "two", "three"] {
        assert_eq!(messages(&log).iter().filter(|message| **message == line).count(), 1, "{line}");
    }
    let ids: Vec<u64> = log.iter().filter_map(|entry| entry["id"].as_str()?.parse().ok()).collect();
    ensure!(ids.iter().copied().eq(1..=ids.len() as u64), "the numbers have gaps: {ids:?}");

    // A flood is cut, and said to be, and what comes after it is there.
    sandbox.sh("yes 0123456789012345678901234567890123456789 | head -c 20000000").await?;
    let path = format!("/v1/sandboxes/{}/logs?search=came%20too%20fast", sandbox.id);
    wait::until_true("that something is lacking", PATIENCE, async || {
        Ok(client.get(&path).await?.json(200)?.as_array().is_some_and(|found| !found.is_empty()))
    })
    .await?;
    let dir = platform.data_dir().join("host/store/sandboxes").join(&sandbox.id).join("logs");
    let mut bytes = 0;
    for file in std::fs::read_dir(&dir)? {
        bytes += file?.metadata()?.len();
    }
    ensure!((1..MOST_BYTES).contains(&bytes), "{bytes} bytes");
    // The command line and its E2B counterpart read the same.
    let shown =
        platform.cli(&["sandbox", "logs", &sandbox.id, "--since", "1h", "--search", "three"]).run().await?;
    let shown = shown.expect(0)?.text();
    ensure!(shown.contains("] three\n"), "{shown}");

    sandbox.destroy().await?;
    client.get(&format!("/v1/sandboxes/{}/logs", sandbox.id)).await?.refusal(ErrorCode::NotFound)?;
    Ok(())
}
