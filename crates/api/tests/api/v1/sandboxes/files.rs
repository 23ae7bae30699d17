use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::json;

use crate::client::{Answer, send};
use crate::platform::Platform;

async fn write(platform: &Platform, id: &str, form: Form) -> Answer {
    let request = platform.api.request(Method::POST, &format!("/v1/sandboxes/{id}/files/write"));
    send(request.multipart(form)).await
}

async fn read(platform: &Platform, id: &str, path: &str) -> Answer {
    platform.api.post(&format!("/v1/sandboxes/{id}/files/read"), json!({"path": path})).await
}

fn file(path: &str, contents: Vec<u8>) -> Form {
    Form::new().text("path", path.to_owned()).part("file", Part::bytes(contents).file_name("name"))
}

#[tokio::test]
async fn what_is_written_is_read_back_byte_for_byte() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for len in [0, 1, 65_536, 5 * 1024 * 1024 + 7] {
        let contents: Vec<u8> = (0..len).map(|i: u32| (i % 251) as u8).collect();
        write(&platform, &id, file("/data/x.bin", contents.clone())).await.expect(204);
        let answer = read(&platform, &id, "/data/x.bin").await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (200, &"application/octet-stream".parse().unwrap())
        );
        assert!(answer.bytes == contents, "{len} bytes came back as {}", answer.bytes.len());
    }
    // Relative paths start at the user's home.
    write(&platform, &id, file("notes.txt", b"hi".to_vec())).await.expect(204);
    assert_eq!(read(&platform, &id, "/home/user/notes.txt").await.bytes, b"hi");
}

#[tokio::test]
async fn a_file_beyond_the_limit_of_bodies_is_streamed_through() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let contents = vec![7; 48 << 20];
    write(&platform, &id, file("/big", contents.clone())).await.expect(204);
    assert!(read(&platform, &id, "/big").await.bytes == contents);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_answer_and_not_an_empty_file() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    read(&platform, &id, "/nothing/here").await.refused(404, "not_found");
    for path in ["", "a\u{0}b"] {
        read(&platform, &id, path).await.refused(400, "invalid_request");
    }
    platform
        .api
        .post(&format!("/v1/sandboxes/{id}/files/read"), json!({}))
        .await
        .refused(400, "invalid_request");
    // "It is a folder" is the guest's to say.
    platform.host.inject(Rpc::ReadFile, Fault::Refuse(Reason::REASON_BAD_INPUT), Times::Once);
    read(&platform, &id, "/tmp").await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_read_that_breaks_half_way_breaks_the_answer() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    write(&platform, &id, file("/x", vec![1; 1 << 20])).await.expect(204);
    platform.host.inject(Rpc::ReadFile, Fault::LoseReply, Times::Once);
    let request = platform.api.request(Method::POST, &format!("/v1/sandboxes/{id}/files/read"));
    let response = request.json(&json!({"path": "/x"})).send().await.unwrap();
    assert!(response.bytes().await.is_err(), "a part was passed off as the whole");
}

#[tokio::test]
async fn forms_that_are_not_whole_are_refused_with_the_reason() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let bytes = || Part::bytes(b"x".to_vec());
    for (form, word) in [
        (Form::new(), "form"),
        (Form::new().text("path", "/x"), "file"),
        (Form::new().part("file", bytes()), "path"),
        (Form::new().part("file", bytes()).text("path", "/x"), "before"),
        (Form::new().text("path", "").part("file", bytes()), "path"),
        (Form::new().text("path", "a\0b").part("file", bytes()), "path"),
        (Form::new().text("path", "x".repeat(5_000)).part("file", bytes()), "path"),
        (Form::new().text("path", "/x").text("user", "a b").part("file", bytes()), "user"),
    ] {
        let message = write(&platform, &id, form).await.refused(400, "invalid_request");
        assert!(message.contains(word), "{message}");
    }
    let path = format!("/v1/sandboxes/{id}/files/write");
    platform.api.post(&path, json!({"path": "/x"})).await.refused(400, "invalid_request");
    assert_eq!(platform.host.calls(Rpc::WriteFile), 0);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_no_file() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let request = platform.api.request(Method::POST, &format!("/v1/sandboxes/{id}/files/write"));
    let body = "--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/x\r\n\
                --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nonly half";
    send(request.header(CONTENT_TYPE, "multipart/form-data; boundary=b").body(body))
        .await
        .refused(400, "invalid_request");
    read(&platform, &id, "/x").await.refused(404, "not_found");
}

#[tokio::test]
async fn what_the_guest_refuses_is_told() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    for (reason, status, code) in [
        (Reason::REASON_GUEST_DISK_FULL, 409, "invalid_state"),
        (Reason::REASON_BAD_INPUT, 400, "invalid_request"),
        (Reason::REASON_GUEST_UNREACHABLE, 502, "agent_error"),
        (Reason::REASON_SANDBOX_NOT_FOUND, 409, "invalid_state"),
    ] {
        platform.host.inject(Rpc::WriteFile, Fault::Refuse(reason), Times::Once);
        write(&platform, &id, file("/x", vec![0; 100])).await.refused(status, code);
    }
    platform.host.inject(Rpc::WriteFile, Fault::LoseReply, Times::Once);
    write(&platform, &id, file("/x", vec![0; 100])).await.refused(503, "host_unavailable");
}

#[tokio::test]
async fn of_two_who_saw_the_same_only_the_first_replaces_it() {
    let platform = Platform::start().await;
    let id = platform.api.sandbox().await;
    let url = |kind: &str| format!("/v1/sandboxes/{id}/files/{kind}");
    let state = |answer: &Answer| answer.headers["etag"].to_str().unwrap().to_owned();
    let put = async |name: &str, value: &str, contents: &'static str| {
        let request = platform.api.request(Method::POST, &url("stream/write?path=/x"));
        send(request.header(name, value).header(CONTENT_TYPE, "application/octet-stream").body(contents))
            .await
    };
    // An empty file is in a state, too.
    let made = put("if-none-match", "*", "").await;
    assert_eq!(made.status, 204, "{}", made.body);
    let seen = read(&platform, &id, "/x").await;
    assert_eq!((state(&seen), seen.bytes.len()), (state(&made), 0));
    put("if-none-match", "*", "again").await.refused(412, "precondition_failed");

    let mine = put("if-match", &state(&seen), "mine").await;
    assert_eq!(mine.status, 204, "{}", mine.body);
    put("if-match", &state(&seen), "theirs").await.refused(412, "precondition_failed");
    let form = platform.api.request(Method::POST, &url("write")).header("if-match", state(&seen));
    send(form.multipart(file("/x", b"theirs".to_vec()))).await.refused(412, "precondition_failed");
    let now = read(&platform, &id, "/x").await;
    assert_eq!((&now.bytes[..], state(&now)), (&b"mine"[..], state(&mine)));
    let form = platform.api.request(Method::POST, &url("write")).header("if-match", state(&now));
    send(form.multipart(file("/x", b"next".to_vec()))).await.expect(204);

    // What is no condition of a write does not pass for none.
    put("if-none-match", &state(&now), "x").await.refused(400, "invalid_request");
    put("if-match", &"x".repeat(2000), "x").await.refused(400, "invalid_request");
    assert_eq!(read(&platform, &id, "/x").await.bytes, b"next");
}
