use std::time::Duration;

use reqwest::Method;
use sandbar_control::Config;
use sandbar_control::config::BuildConfig;
use sandbar_testkit::sim_host::Rpc;
use sandbar_types::recipe::FilesName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::client::{Client, send};
use crate::platform::{Platform, config};

/// Longer than a build takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

async fn platform() -> Platform {
    let builds = BuildConfig { sweep: Duration::from_millis(100), ..BuildConfig::default() };
    Platform::start_with(Config { builds, ..config() }).await
}

/// The events of a build, to its end: name and data.
async fn follow(api: &Client, path: &str) -> Vec<(String, Value)> {
    let answer = tokio::time::timeout(PATIENCE, api.get(path)).await.expect("the build ends");
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, "text/event-stream"));
    let text = String::from_utf8(answer.bytes).unwrap();
    let events = text.split("\n\n").filter_map(|event| {
        let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
        Some((name.to_owned(), serde_json::from_str(data).unwrap()))
    });
    events.collect()
}

#[tokio::test]
async fn a_build_is_asked_for_followed_listed_and_its_template_used() {
    let platform = platform().await;
    let api = &platform.api;
    let body = json!({
        "name": "tools", "recipe": ["FROM base", "RUN echo one", "warn two"], "healthcheck": "echo", "healthcheck_sec": 5,
    });
    let begun = api.post("/v1/builds", body).await.expect(201);
    assert_eq!((&begun["status"], &begun["total_steps"]), (&json!("pending"), &json!(4)));
    let path = format!("/v1/builds/{}", begun["id"].as_str().unwrap());
    let _workers = platform.successor().await;

    let events = follow(api, &format!("{path}/logs/stream")).await;
    let (name, last) = events.last().unwrap();
    assert_eq!((name.as_str(), &last["status"], &last["error"]), ("build", &json!("success"), &Value::Null));
    let text = |step: u32, stream: &str| -> String {
        let of_step = events.iter().filter(|(name, data)| name == "log" && data["step"] == step);
        of_step.map(|(_, data)| data[stream].as_str().unwrap()).collect()
    };
    assert_eq!((text(1, "stdout"), text(2, "stderr")), ("one\n".to_owned(), "two\n".to_owned()));

    let build = api.get(&path).await.expect(200);
    let logs = build["logs"].as_array().unwrap();
    let told: Vec<_> = logs.iter().map(|log| (log["cmd"].as_str().unwrap(), &log["exit_code"])).collect();
    let (zero, none) = (json!(0), Value::Null);
    let expected = [
        ("RUN echo one", &zero),
        ("RUN warn two", &zero),
        ("HEALTHCHECK echo", &zero),
        ("KEEP tools", &none),
    ];
    assert_eq!(told, expected);
    assert!(build["finished_at"].is_string() && logs[0]["duration_ms"].is_u64());
    let list = api.get("/v1/builds").await.expect(200);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["id"]), (1, &begun["id"]));
    api.post(&format!("{path}/cancel"), json!({})).await.refused(409, "invalid_state");
    api.post("/v1/sandboxes", json!({"template": "tools"})).await.expect(201);
    // The sandbox in which it was built was nobody's to see.
    assert_eq!(api.get("/v1/sandboxes?status=stopped").await.expect(200), json!([]));
}

#[tokio::test]
async fn what_is_wrong_with_a_recipe_is_told_with_its_line() {
    let platform = platform().await;
    let refused = async |recipe: Value| {
        let body = json!({"name": "tools", "recipe": recipe});
        platform.api.post("/v1/builds", body).await.refused(400, "invalid_request")
    };
    assert!(
        refused(json!(["RUN a", "", "CMD a b"])).await.starts_with("recipe: line 3: CMD is not possible")
    );
    assert!(refused(json!(["FROM template:nothing", "a"])).await.contains("there is no template nothing"));
    let body = json!({"name": "tools", "recipe": ["FROM Nothing", "a"]});
    let told = platform.api.post("/v1/builds", body).await.refused(400, "invalid_request");
    assert!(told.contains("there is no template Nothing"), "{told}");
    assert!(refused(json!([])).await.contains("no steps"));
    platform.api.post("/v1/builds", json!({"name": "tools"})).await.refused(400, "invalid_request");
    platform.api.get("/v1/builds/bld-x").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_build_of_the_platforms_makes_a_template_for_everybody() {
    let platform = platform().await;
    let admin = platform.first_person().await.api;
    let _workers = platform.successor().await;
    let body = json!({"name": "shared", "recipe": ["echo"]});
    let begun = admin.post("/v1/admin/builds", body).await.expect(201);
    let path = format!("/v1/admin/builds/{}", begun["id"].as_str().unwrap());
    let events = follow(&admin, &format!("{path}/logs/stream")).await;
    assert_eq!(events.last().unwrap().1["status"], "success");
    // The team's own routes do not know it.
    admin.get(&path.replace("/admin", "")).await.refused(404, "not_found");
    let stranger = platform.stranger().await;
    stranger.post("/v1/sandboxes", json!({"template": "shared"})).await.expect(201);
    let taken = json!({"name": "shared", "recipe": ["echo"]});
    stranger.post("/v1/builds", taken).await.refused(409, "name_reserved");
    let list = admin.get("/v1/admin/templates").await.expect(200);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["name"]), (2, &json!("shared")));
    admin.delete("/v1/admin/templates/shared").await.expect(204);
    admin.delete("/v1/admin/templates/shared").await.refused(404, "not_found");
    admin.delete("/v1/admin/templates/base").await.refused(403, "forbidden");
    // To the trail it is no snapshot of anybody's.
    let trail = admin.get("/v1/admin/audit-logs?resource_type=template,snapshot").await.expect(200);
    let told = trail["items"].as_array().unwrap().iter();
    let told: Vec<_> =
        told.map(|event| json!([event["resource_type"], event["action"], event["resource_id"]])).collect();
    assert_eq!(told, [json!(["template", "delete", "shared"]), json!(["template", "build", "shared"])]);
}

#[tokio::test]
async fn a_cancelled_build_is_followed_to_its_end() {
    let platform = platform().await;
    let _workers = platform.successor().await;
    let body = json!({"name": "slow", "recipe": ["sleep"]});
    let begun = platform.api.post("/v1/builds", body).await.expect(201);
    let path = format!("/v1/builds/{}", begun["id"].as_str().unwrap());
    platform.host.arrived(Rpc::ExecStream, 1).await;
    let stream = format!("{path}/logs/stream");
    let cancelled = async { platform.api.post(&format!("{path}/cancel"), json!({})).await.expect(200) };
    let (events, _) = tokio::join!(follow(&platform.api, &stream), cancelled);
    assert_eq!(events.last().unwrap().1["status"], "cancelled");
    platform.host.sandboxes_are(0).await;
}

#[tokio::test]
async fn files_are_put_once_and_are_their_teams_own() {
    let folder = tempfile::tempdir().unwrap();
    let builds = BuildConfig { files_folder: Some(folder.path().to_owned()), ..BuildConfig::default() };
    let platform = Platform::start_with(Config { builds, ..config() }).await;
    let put = async |api: &Client, path: &str, contents: &'static str| {
        send(api.request(Method::PUT, path).body(contents)).await
    };
    let other = format!("/v1/builds/files/{}", "0".repeat(64));
    let told = put(&platform.api, &other, "archive").await.refused(400, "invalid_request");
    // Which says what it is.
    let sha256 = told.rsplit(' ').next().unwrap().to_owned();
    let path = format!("/v1/builds/files/{sha256}");
    platform.api.get(&path).await.refused(404, "not_found");
    let files = json!({"sha256": sha256, "bytes": 7});
    assert_eq!(put(&platform.api, &path, "archive").await.expect(201), files);
    assert_eq!(put(&platform.api, &path, "archive").await.expect(200), files);
    assert_eq!(platform.api.get(&path).await.expect(200), files);
    for bad in ["x", &sha256[1..], &sha256.to_uppercase(), &format!("client:{sha256}")] {
        platform.api.get(&format!("/v1/builds/files/{bad}")).await.refused(400, "invalid_request");
    }
    let body = json!({"name": "tools", "recipe": ["COPY . /srv"], "files": sha256});
    let stranger = platform.stranger().await;
    stranger.get(&path).await.refused(404, "not_found");
    stranger.post("/v1/builds", body.clone()).await.refused(400, "invalid_request");
    let admin = platform.first_person().await.api;
    admin.get(&path.replace("/v1", "/v1/admin")).await.refused(404, "not_found");
    platform.api.post("/v1/builds", body).await.expect(201);
}

#[tokio::test]
async fn an_image_in_an_archive_comes_in_spite_of_a_connection_that_breaks() {
    const PART: usize = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let builds = BuildConfig { files_folder: Some(folder.path().to_owned()), ..BuildConfig::default() };
    let platform = Platform::start_with(Config { builds, ..config() }).await;
    let api = &platform.api;
    let image = vec![7; PART + 1000];
    let sha256 = FilesName::Content(Sha256::digest(&image).into()).to_string();
    let path = format!("/v1/builds/files/{sha256}");
    let received = async || api.get(&format!("{path}/received")).await.expect(200);
    assert_eq!(received().await, json!({"sha256": sha256, "received": 0}));

    let (header, key) = api.credential().unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: localhost\r\n{header}: {key}\r\ncontent-length: {}\r\n\r\n",
        image.len()
    );
    let mut connection = TcpStream::connect(api.address()).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&image[..PART + 10]).await.unwrap();
    connection.shutdown().await.unwrap();
    drop(connection);
    let kept = json!({"sha256": sha256, "received": PART});
    let until_kept = async {
        while received().await != kept {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until_kept).await.expect("what came is kept");
    let put = async |from: usize| {
        let request = api.request(Method::PUT, &format!("{path}?from={from}"));
        send(request.body(image[from..].to_vec())).await
    };
    assert!(put(7).await.refused(409, "invalid_state").contains("goes on at byte 4194304"));
    assert_eq!(put(PART).await.expect(201)["bytes"], image.len());
    assert_eq!(received().await["received"], image.len());

    api.post("/v1/secrets", json!({"name": "token", "value": "hunter2"})).await.expect(201);
    let body = json!({
        "name": "app", "recipe": ["FROM ./app.tar", "echo"], "from_archive": sha256, "memory": false,
        "secrets": {"TOKEN": "token"},
    });
    let build = api.post("/v1/builds", body).await.expect(201);
    assert_eq!(
        (&build["base_template"], &build["memory"]),
        (&json!(format!("archive:sha256:{sha256}")), &json!(false))
    );
    let unknown = json!({"name": "app", "recipe": ["echo"], "secrets": {"TOKEN": "other"}});
    assert!(api.post("/v1/builds", unknown).await.refused(400, "invalid_request").contains("other"));
}
