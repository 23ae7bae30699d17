use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::limits;
use serde_json::{Value, json};

use crate::platform::Platform;

async fn exec(platform: &Platform, id: &str, body: Value) -> crate::client::Answer {
    platform.api.post(&format!("/v1/sandboxes/{id}/exec"), body).await
}

#[tokio::test]
async fn answers_what_the_command_wrote_and_how_it_ended() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let mut answer =
        exec(&platform, &id, json!({"cmd": "echo", "args": ["grüße,", "world"]})).await.expect(200);
    assert!(answer["duration_ms"].is_u64());
    answer.as_object_mut().unwrap().remove("duration_ms");
    let expected = json!({
        "sandbox_id": id, "cmd": "echo", "stdout": "grüße, world\n", "stderr": "", "exit_code": 0,
        "encoding": "utf-8", "truncated": false,
    });
    assert_eq!(answer, expected);

    let answer = exec(&platform, &id, json!({"cmd": "warn", "args": ["careful"]})).await.expect(200);
    assert_eq!((&answer["stdout"], &answer["stderr"]), (&json!(""), &json!("careful\n")));
    // A command that fails has run: the call is a success.
    for code in [1, 127, 255, -1] {
        let answer =
            exec(&platform, &id, json!({"cmd": "exit", "args": [code.to_string()]})).await.expect(200);
        assert_eq!(answer["exit_code"], code);
    }
}

#[tokio::test]
async fn carries_user_folder_and_environment() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let body = json!({"cmd": "context", "cwd": "/tmp", "user": "root", "env": {"A": "1", "B": "x=y"}});
    let answer = exec(&platform, &id, body).await.expect(200);
    assert_eq!(answer["stdout"], "user=root\ncwd=/tmp\nA=1\nB=x=y\n");
    // What is left out is the guest's to choose.
    let answer = exec(&platform, &id, json!({"cmd": "context"})).await.expect(200);
    assert_eq!(answer["stdout"], "user=\ncwd=\n");
}

#[tokio::test]
async fn bytes_that_are_no_text_make_both_streams_base64() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let answer = exec(&platform, &id, json!({"cmd": "bytes", "args": ["00ff80"]})).await.expect(200);
    assert_eq!((&answer["stdout"], &answer["encoding"]), (&json!("AP+A"), &json!("base64")));
}

#[tokio::test]
async fn output_is_bounded_and_says_so() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let flood = json!({"cmd": "flood", "args": ["209715200"]});
    let answer = exec(&platform, &id, flood).await.expect(200);
    assert_eq!(answer["truncated"], true);
    assert_eq!(answer["stdout"].as_str().unwrap().len() as u64, limits::EXEC_OUTPUT_BYTES);
    let fits = json!({"cmd": "flood", "args": [limits::EXEC_OUTPUT_BYTES.to_string()]});
    assert_eq!(exec(&platform, &id, fits).await.expect(200)["truncated"], false);
}

#[tokio::test]
async fn every_reason_of_the_host_has_its_answer() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for (fault, status, code) in [
        (Fault::Refuse(Reason::REASON_SANDBOX_NOT_FOUND), 409, "invalid_state"),
        (Fault::Refuse(Reason::REASON_INVALID_STATE), 409, "invalid_state"),
        (Fault::Refuse(Reason::REASON_TEMPLATE_NOT_FOUND), 503, "no_hosts_available"),
        (Fault::Refuse(Reason::REASON_NO_CAPACITY), 503, "no_hosts_available"),
        (Fault::Refuse(Reason::REASON_BAD_INPUT), 400, "invalid_request"),
        (Fault::Refuse(Reason::REASON_COMMAND_NOT_FOUND), 400, "invalid_request"),
        (Fault::Refuse(Reason::REASON_FILE_NOT_FOUND), 404, "not_found"),
        (Fault::Refuse(Reason::REASON_GUEST_DISK_FULL), 409, "invalid_state"),
        (Fault::Refuse(Reason::REASON_GUEST_UNREACHABLE), 502, "agent_error"),
        (Fault::Refuse(Reason::REASON_TIMEOUT), 504, "timeout"),
        (Fault::Refuse(Reason::REASON_UNSPECIFIED), 502, "agent_error"),
        (Fault::Fail, 502, "agent_error"),
        (Fault::LoseReply, 503, "host_unavailable"),
    ] {
        let name = format!("{fault:?}");
        platform.host.inject(Rpc::Exec, fault, Times::Once);
        let answer = exec(&platform, &id, json!({"cmd": "echo"})).await;
        assert_eq!((answer.status, &answer.body["error"]["code"]), (status, &json!(code)), "{name}");
        answer.refused(status, code);
    }
    assert_eq!(platform.api.status_of(&id).await, "running");
    exec(&platform, &id, json!({"cmd": "echo"})).await.expect(200);
}

#[tokio::test]
async fn a_command_that_takes_too_long_and_one_that_is_not_there() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    exec(&platform, &id, json!({"cmd": "sleep", "timeout_sec": 1})).await.refused(504, "timeout");
    let message =
        exec(&platform, &id, json!({"cmd": "no-such-command"})).await.refused(400, "invalid_request");
    assert!(!message.is_empty());
}

#[tokio::test]
async fn bad_input_never_reaches_the_host() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let long = "x".repeat(limits::COMMAND_BYTES);
    for body in [
        json!({}),
        json!({"cmd": ""}),
        json!({"cmd": null}),
        json!({"cmd": 7}),
        json!({"cmd": "a\u{0}b"}),
        json!({"cmd": "echo", "args": "x"}),
        json!({"cmd": "echo", "args": [1]}),
        json!({"cmd": "echo", "args": ["\u{0}"]}),
        json!({"cmd": "echo", "args": [long]}),
        json!({"cmd": "echo", "timeout_sec": 0}),
        json!({"cmd": "echo", "timeout_sec": -1}),
        json!({"cmd": "echo", "timeout_sec": 3601}),
        json!({"cmd": "echo", "timeout_sec": 1.5}),
        json!({"cmd": "echo", "env": {"A=": "1"}}),
        json!({"cmd": "echo", "env": ["A"]}),
        json!({"cmd": "echo", "cwd": "a\u{0}"}),
        json!({"cmd": "echo", "user": "a b"}),
        json!({"cmd": "echo", "user": "-x"}),
        json!({"cmd": "echo", "background": true}),
    ] {
        let text: String = body.to_string().chars().take(100).collect();
        let answer = exec(&platform, &id, body).await;
        assert_eq!(answer.status, 400, "{text}");
        answer.refused(400, "invalid_request");
    }
    assert_eq!(platform.host.calls(Rpc::Exec), 0);
    exec(&platform, &id, json!({"cmd": "echo", "background": false, "cwd": null})).await.expect(200);
}

#[tokio::test]
async fn a_dead_agent_is_unavailable_and_one_that_is_back_goes_on() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    exec(&platform, &id, json!({"cmd": "echo"})).await.expect(200);
    platform.host.crash().await.unwrap();
    exec(&platform, &id, json!({"cmd": "echo"})).await.refused(503, "host_unavailable");
    platform.host.restart().await.unwrap();
    exec(&platform, &id, json!({"cmd": "echo"})).await.expect(200);
    assert_eq!(platform.api.status_of(&id).await, "running");
}

#[tokio::test]
async fn another_host_at_the_same_address_is_not_mistaken_for_it() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    // The second host takes over the first one's address, in the database's eyes.
    let (impostor, impostor_id, _) = crate::platform::let_in(&platform.control, &platform.api).await;
    assert_ne!(impostor_id, platform.host_id);
    sqlx::query("UPDATE hosts SET address = $1")
        .bind(impostor.address())
        .execute(platform.database.pool())
        .await
        .unwrap();
    exec(&platform, &id, json!({"cmd": "echo"})).await.refused(503, "host_unavailable");
    assert_eq!(impostor.calls(Rpc::Exec), 0);
}
