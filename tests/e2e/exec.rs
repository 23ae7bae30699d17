//! Commands that run to their end: `POST /v1/sandboxes/{id}/exec`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sandbar_tests::census::memory_kib;
use sandbar_tests::{Platform, wait};
use sandbar_types::{ErrorCode, limits};
use serde_json::json;

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        output_streams_and_exit_code,
        environment_and_folder,
        users,
        a_command_that_cannot_be_run_is_the_callers_mistake,
        a_command_over_its_time_is_killed,
        bytes_that_are_no_text_come_as_base64,
        endless_output_is_cut_and_costs_no_memory,
        a_closed_standard_input_does_not_hang,
    ]
}

async fn output_streams_and_exit_code(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let script = "echo out; echo err >&2; exit 7";
    let outcome = sandbox.exec(&json!({"cmd": "bash", "args": ["-c", script]})).await?;
    assert_eq!((outcome.stdout.as_slice(), outcome.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(outcome.exit_code, 7);
    let raw = &outcome.raw;
    assert_eq!((&raw["encoding"], &raw["truncated"]), (&json!("utf-8"), &json!(false)), "{raw}");
    assert_eq!((&raw["sandbox_id"], &raw["cmd"]), (&json!(sandbox.id), &json!("bash")));
    assert!(raw["duration_ms"].is_u64(), "{raw}");

    // No shell is involved: arguments arrive as they are.
    let outcome = sandbox.exec(&json!({"cmd": "echo", "args": ["-n", "$HOME; \"*\"", "", "ü\n"]})).await?;
    assert_eq!(outcome.stdout, "$HOME; \"*\"  ü\n".as_bytes());

    // A signal is no exit code.
    let outcome = sandbox.exec(&json!({"cmd": "bash", "args": ["-c", "kill -KILL $$"]})).await?;
    assert_eq!(outcome.exit_code, -1, "{}", outcome.raw);
    Ok(())
}

async fn environment_and_folder(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let env = json!({"env": {"OF_SANDBOX": "one", "OF_BOTH": "sandbox"}});
    let sandbox = sandbar_tests::Sandbox::create(&platform.client()?, &env).await?;
    let run = json!({
        "cmd": "bash", "args": ["-c", "echo $OF_SANDBOX/$OF_BOTH/$OF_CALL/$HOME/$USER; pwd"],
        "env": {"OF_CALL": "three", "OF_BOTH": "call"}, "cwd": "/tmp",
    });
    let outcome = sandbox.exec(&run).await?;
    assert_eq!(String::from_utf8(outcome.stdout)?, "one/call/three//home/user/user\n/tmp\n");
    // What one call sets, the next does not see.
    assert_eq!(sandbox.sh("echo $OF_BOTH$OF_CALL; pwd").await?, "sandbox\n/home/user");

    let nowhere = sandbox.try_exec(&json!({"cmd": "pwd", "cwd": "/no/such/folder"})).await?;
    let message = nowhere.refusal(ErrorCode::InvalidRequest)?;
    assert!(message.contains("/no/such/folder"), "{message}");
    Ok(())
}

async fn users(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    assert_eq!(sandbox.sh("id -un; id -u; sudo -n id -un").await?, "user\n1000\nroot");
    assert_eq!(sandbox.sh_as("root", "id -un; echo $HOME; pwd").await?, "root\n/root\n/root");
    let unknown = sandbox.try_exec(&json!({"cmd": "id", "user": "nobody-here"})).await?;
    let message = unknown.refusal(ErrorCode::InvalidRequest)?;
    assert!(message.contains("nobody-here"), "{message}");
    Ok(())
}

async fn a_command_that_cannot_be_run_is_the_callers_mistake(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    for cmd in ["no-such-command", "/no/such/program", "/etc/passwd", "/tmp"] {
        let message = sandbox.try_exec(&json!({"cmd": cmd})).await?.refusal(ErrorCode::InvalidRequest)?;
        assert!(message.contains(cmd), "{cmd}: {message}");
    }
    sandbox.try_exec(&json!({"cmd": ""})).await?.refusal(ErrorCode::InvalidRequest)?;
    sandbox.try_exec(&json!({"args": ["x"]})).await?.refusal(ErrorCode::InvalidRequest)?;
    // It serves on.
    assert_eq!(sandbox.sh("echo fine").await?, "fine");
    Ok(())
}

async fn a_command_over_its_time_is_killed(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let started = Instant::now();
    // The child is in the command's own group and must go with it; the odd number is what both are found by.
    let script = "sleep 86399 & sleep 86399";
    let reply = sandbox.try_exec(&json!({"cmd": "bash", "args": ["-c", script], "timeout_sec": 2})).await?;
    let took = started.elapsed();
    reply.refusal(ErrorCode::Timeout)?;
    ensure!(took >= Duration::from_secs(2) && took < Duration::from_secs(30), "it took {took:?}");
    wait::until_true("the command's processes are gone", Duration::from_secs(10), async || {
        Ok(sandbox.sh("pgrep -cx sleep || true").await? == "0")
    })
    .await
}

async fn bytes_that_are_no_text_come_as_base64(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let script = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.write('text')";
    let outcome = sandbox.exec(&json!({"cmd": "python3", "args": ["-c", script]})).await?;
    assert_eq!(outcome.raw["encoding"], "base64");
    assert_eq!(outcome.stdout, (0..=255).collect::<Vec<u8>>());
    assert_eq!(outcome.stderr, b"text");
    Ok(())
}

/// 200 MB of output: cut to the limit, said to be cut, and neither process holds it in memory.
async fn endless_output_is_cut_and_costs_no_memory(platform: &Platform) -> Result<()> {
    /// The bound in every queue between guest and client, with room for what other tests do meanwhile.
    const GROWTH_KIB: u64 = 64 << 10;
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let processes = [platform.up_pid()?, platform.agent_pid()?];
    let mut before = Vec::new();
    for pid in processes {
        before.push(memory_kib(pid, "VmRSS")?);
    }
    let script = "head -c 200000000 /dev/zero | tr '\\0' x; echo done >&2";
    let run = json!({"cmd": "bash", "args": ["-c", script], "timeout_sec": 300});
    let outcome = sandbox.exec(&run).await?;
    assert_eq!(outcome.exit_code, 0, "the command was let run to its end");
    assert_eq!(outcome.raw["truncated"], true);
    assert_eq!(outcome.stdout.len() as u64, limits::EXEC_OUTPUT_BYTES);
    assert!(outcome.stdout.iter().all(|byte| *byte == b'x'));
    assert_eq!(outcome.stderr, b"done\n", "one stream's flood does not cost the other its end");
    for (pid, before) in processes.into_iter().zip(before) {
        let most = memory_kib(pid, "VmHWM")?;
        ensure!(most < before + GROWTH_KIB, "process {pid} grew from {before} KiB to {most} KiB");
    }
    Ok(())
}

async fn a_closed_standard_input_does_not_hang(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let outcome = sandbox.exec(&json!({"cmd": "cat"})).await?;
    assert_eq!((outcome.exit_code, outcome.stdout.len()), (0, 0));
    Ok(())
}
