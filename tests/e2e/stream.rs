//! Commands over the WebSocket `exec/stream`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sandbar_tests::{ExecSocket, Platform, Sandbox, wait};
use serde_json::json;

use crate::{Test, tests};

/// How long the platform may take to notice that a client left, and to kill what it ran.
const KILL_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Test> {
    tests![
        output_arrives_while_the_command_runs,
        input_is_written_and_ended,
        stop_kills_and_tells,
        leaving_kills_the_command,
        a_broken_connection_kills_the_command,
        a_detached_command_runs_on,
        mistakes_are_told_and_end_the_stream,
        a_reader_that_does_not_read_holds_back_the_command,
    ]
}

async fn output_arrives_while_the_command_runs(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let script = "echo first; read line; echo \"second $line\" >&2; exit 3";
    let mut socket = sandbox.stream(json!({"cmd": "bash", "args": ["-c", script]})).await?;
    assert!(socket.pid().await? > 1);
    // The command waits for its input: what it has written must be here before.
    socket.read_until("first\n").await?;
    socket.send(&json!({"type": "stdin", "data": "grüße\n"})).await?;
    let ending = socket.finish().await?;
    assert_eq!(String::from_utf8(ending.stderr)?, "second grüße\n");
    assert_eq!((ending.exit_code, ending.error), (Some(3), None));
    Ok(())
}

async fn input_is_written_and_ended(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let mut input = vec![0; 300_000];
    getrandom::fill(&mut input)?;
    let mut socket = sandbox.stream(json!({"cmd": "sha256sum"})).await?;
    for chunk in input.chunks(64 << 10) {
        socket.stdin(chunk).await?;
    }
    socket.send(&json!({"type": "close_stdin"})).await?;
    let ending = socket.finish().await?;
    assert_eq!(String::from_utf8(ending.stdout)?, format!("{}  -\n", crate::files::sha256(&input)));
    assert_eq!(ending.exit_code, Some(0));

    let closed = sandbox.stream(json!({"cmd": "cat", "stdin": false})).await?;
    assert_eq!(closed.finish().await?.exit_code, Some(0), "its input was at its end from the start");
    Ok(())
}

async fn stop_kills_and_tells(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let mut socket = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"]})).await?;
    let pid = socket.pid().await?;
    socket.send(&json!({"type": "stop"})).await?;
    let ending = socket.finish().await?;
    assert_eq!((ending.exit_code, ending.error), (Some(-1), None));
    is_gone(&sandbox, pid).await
}

async fn leaving_kills_the_command(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let mut socket = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"]})).await?;
    let pid = socket.pid().await?;
    socket.close().await?;
    is_gone(&sandbox, pid).await
}

async fn a_broken_connection_kills_the_command(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let mut socket = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"]})).await?;
    let pid = socket.pid().await?;
    // The connection ends without the WebSocket's own goodbye.
    drop(socket);
    is_gone(&sandbox, pid).await
}

async fn a_detached_command_runs_on(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let script = "read line; echo \"$line\" > /tmp/told; exec sleep 86399";
    let start = json!({"cmd": "bash", "args": ["-c", script], "detach": true});
    let mut socket = sandbox.stream(start).await?;
    let pid = socket.pid().await?;
    socket.send(&json!({"type": "stdin", "data": "hello\n"})).await?;
    wait::until_true("the command has read its input", KILL_LIMIT, async || {
        Ok(sandbox.sh("cat /tmp/told 2>/dev/null || true").await? == "hello")
    })
    .await?;
    socket.close().await?;
    // Another command, whose connection ends after that one did, is killed: so ours was spared, not overlooked.
    let mut other = sandbox.stream(json!({"cmd": "sleep", "args": ["86398"]})).await?;
    let other_pid = other.pid().await?;
    other.close().await?;
    is_gone(&sandbox, other_pid).await?;
    assert_eq!(sandbox.sh(&format!("ps -o comm= -p {pid}")).await?, "sleep");
    Ok(())
}

async fn mistakes_are_told_and_end_the_stream(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let starts = [
        json!({"cmd": "no-such-command"}),
        json!({"cmd": "pwd", "cwd": "/no/such/folder"}),
        json!({"cmd": "id", "user": "nobody-here"}),
        json!({"cmd": ""}),
        json!({"cmd": 1}),
    ];
    for start in starts {
        let ending = sandbox.stream(start.clone()).await?.finish().await?;
        let (code, text) = ending.error.with_context(|| format!("{start} was taken"))?;
        assert_eq!((code.as_str(), text.is_empty()), ("invalid_request", false), "{start}: {text}");
        assert_eq!(ending.exit_code, None);
    }
    let mut late = ExecSocket::open(sandbox.client(), &sandbox.id).await?;
    late.send(&json!({"type": "stop"})).await?;
    assert_eq!(late.finish().await?.error.map(|(code, _)| code).as_deref(), Some("invalid_request"));

    let over_time = sandbox.stream(json!({"cmd": "sleep", "args": ["86399"], "timeout_sec": 1})).await?;
    assert_eq!(over_time.finish().await?.error.map(|(code, _)| code).as_deref(), Some("timeout"));

    let unknown = "sb-00000000-0000-7000-8000-000000000000";
    let refused = ExecSocket::open(sandbox.client(), unknown).await;
    assert!(format!("{:?}", refused.expect_err("an unknown sandbox")).contains("404"));
    let stranger = ExecSocket::open(&sandbox.client().with_key(None), &sandbox.id).await;
    assert!(format!("{:?}", stranger.expect_err("no key")).contains("401"));
    Ok(())
}

/// 50 MB for a reader who takes his time: nothing is lost, and nobody keeps it in memory for him.
async fn a_reader_that_does_not_read_holds_back_the_command(platform: &Platform) -> Result<()> {
    const BYTES: usize = 50_000_000;
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let agent = platform.agent_pid()?;
    let before = sandbar_tests::census::memory_kib(agent, "VmRSS")?;
    let script = format!("head -c {BYTES} /dev/zero | tr '\\0' x");
    let mut socket = sandbox.stream(json!({"cmd": "bash", "args": ["-c", script]})).await?;
    socket.pid().await?;
    // Other commands are served while this one's output waits to be read.
    assert_eq!(sandbox.sh("echo beside").await?, "beside");
    let ending = socket.finish().await?;
    assert_eq!((ending.stdout.len(), ending.exit_code), (BYTES, Some(0)));
    let most = sandbar_tests::census::memory_kib(agent, "VmHWM")?;
    assert!(most < before + (64 << 10), "the agent grew from {before} KiB to {most} KiB");
    Ok(())
}

async fn is_gone(sandbox: &Sandbox, pid: i64) -> Result<()> {
    wait::until_true("the command's process is gone", KILL_LIMIT, async || {
        Ok(sandbox.sh(&format!("test -e /proc/{pid} || echo gone")).await? == "gone")
    })
    .await
}
