use chrono::{DateTime, Duration, Utc};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use serde_json::{Value, json};

use super::refused;
use crate::platform::Platform;

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

/// Whether it lives for so many seconds. Its start is the database's to tell, its end the host's.
fn lives(detail: &Value, seconds: i64) -> bool {
    let life = time(&detail["endAt"]) - time(&detail["startedAt"]);
    (life - Duration::seconds(seconds)).abs() < Duration::seconds(5)
}

#[tokio::test]
async fn a_sandbox_has_every_key_that_clients_require() {
    let platform = Platform::start().await;
    let body = json!({
        "templateID": "base", "timeout": 100, "autoPause": true, "metadata": {"a b": "c&d"}, "envVars": {"X": "1"},
        "network": {"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "allowPublicTraffic": true}, "secure": false,
        "iam": {"tokens": {}}, "volumeMounts": [], "mcp": null,
    });
    let made = platform.api.post("/v2/sandboxes", body).await.expect(201);
    let id = made["sandboxID"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{id}");
    let native = format!("sb-{}", uuid::Uuid::try_parse(id).unwrap());
    let asked = platform.host.creation_of(&native).unwrap();
    for (key, value) in [
        ("alias", json!("base")),
        ("clientID", json!("sandbar")),
        ("envdVersion", json!("0.6.13")),
        ("envdAccessToken", json!(asked.access_token)),
        ("trafficAccessToken", Value::Null),
        ("domain", Value::Null),
    ] {
        assert_eq!(made[key], value, "{key}");
    }
    assert_eq!(asked.env["X"], "1");
    assert_eq!(asked.network.as_option().unwrap().allow_out, ["1.1.1.1"]);

    let detail = platform.api.detail(id).await;
    for (key, value) in [
        ("templateID", made["templateID"].clone()),
        ("sandboxID", json!(id)),
        ("clientID", json!("sandbar")),
        ("cpuCount", json!(1)),
        ("memoryMB", json!(512)),
        ("diskSizeMB", json!(2048)),
        ("state", json!("running")),
        ("envdVersion", json!("0.6.13")),
        ("metadata", json!({"a b": "c&d"})),
        ("envdAccessToken", json!(asked.access_token)),
        ("allowInternetAccess", Value::Null),
        ("network", json!({"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "allowPublicTraffic": true})),
        ("lifecycle", json!({"autoResume": false, "onTimeout": "pause"})),
    ] {
        assert_eq!(detail[key], value, "{key}");
    }
    assert!(lives(&detail, 100), "{detail}");
    // The same sandbox by our own API.
    let ours = platform.api.get(&format!("/v1/sandboxes/{native}")).await.expect(200);
    assert_eq!((&ours["timeout_from"], &ours["timeout_sec"]), (&json!("start"), &json!(100)));
    // By its template's id, too; the first version lets it live for less.
    for template in [made["templateID"].as_str().unwrap(), "base:default"] {
        let made = platform.api.post("/sandboxes", json!({"templateID": template})).await.expect(201);
        let detail = platform.api.detail(made["sandboxID"].as_str().unwrap()).await;
        assert!(lives(&detail, 15), "{detail}");
        assert_eq!(detail["lifecycle"]["onTimeout"], "kill");
    }
}

#[tokio::test]
async fn who_may_connect_is_said_when_it_is_made() {
    let platform = Platform::start().await;
    let body = json!({
        "templateID": "base", "autoPause": true, "autoResume": {"enabled": true},
        "network": {"allowPublicTraffic": false, "maskRequestHost": "localhost:${PORT}"},
    });
    let made = platform.api.post("/v2/sandboxes", body).await.expect(201);
    let id = made["sandboxID"].as_str().unwrap();
    let native = format!("/v1/sandboxes/sb-{}", uuid::Uuid::try_parse(id).unwrap());
    let ours = platform.api.get(&native).await.expect(200);
    assert_eq!(made["trafficAccessToken"], ours["traffic_access_token"]);
    assert_eq!(made["envdAccessToken"], ours["access_token"]);
    let detail = platform.api.detail(id).await;
    assert_eq!(detail["lifecycle"], json!({"autoResume": true, "onTimeout": "pause"}));
    assert_eq!(detail["network"]["maskRequestHost"], "localhost:${PORT}");
    assert_eq!(detail["network"]["allowPublicTraffic"], false);
}

#[tokio::test]
async fn what_is_asked_for_and_not_there_is_refused_and_makes_nothing() {
    let platform = Platform::start().await;
    for (field, value) in [
        ("autoPauseMemory", json!(false)),
        ("iam", json!({"tokens": {"a": {"audience": "b"}}})),
        ("volumeMounts", json!([{"name": "v", "path": "/v"}])),
        ("volumeMounts", json!([{"name": "v"}])),
        ("network", json!({"rules": {"a.com": []}})),
        ("network", json!({"egressProxy": {"address": "1.2.3.4:1080"}})),
        ("network", json!({"dnsServers": ["8.8.8.8"]})),
        ("network", json!({"httpsPorts": [443]})),
        ("network", json!({"allowOut": ["a.com"]})),
        ("timeout", json!(0)),
        ("timeout", json!(2_592_001)),
        ("timeout", json!(-1)),
    ] {
        let body = json!({"templateID": "base", field: value});
        let message = refused(&platform.api.post("/v2/sandboxes", body).await, 400);
        assert!(!message.is_empty());
    }
    for unknown in ["nothing", "base:v2", "other/base", "0192f0c15c4e7a3b9d2e3f4a5b6c7d8e", "a b", ""] {
        refused(&platform.api.post("/v2/sandboxes", json!({"templateID": unknown})).await, 404);
    }
    assert!(platform.host.sandboxes().is_empty());
}

#[tokio::test]
async fn a_key_makes_one_sandbox_however_often_it_is_sent() {
    let platform = Platform::start().await;
    let create = async |timeout: u32| {
        let body = json!({"templateID": "base", "timeout": timeout});
        let request = platform.api.request(reqwest::Method::POST, "/v2/sandboxes").json(&body);
        crate::client::send(request.header("Idempotency-Key", "a-1")).await
    };
    let first = create(60).await.expect(201);
    assert_eq!(create(60).await.expect(201), first);
    refused(&create(61).await, 409);
    assert_eq!(platform.host.sandboxes().len(), 1);
}

#[tokio::test]
async fn a_connection_never_brings_the_end_nearer() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    let end = platform.api.detail(&id).await["endAt"].clone();
    let connect = format!("/v2/sandboxes/{id}/connect");
    let connected = platform.api.post(&connect, json!({"timeout": 60})).await.expect(200);
    assert_eq!(connected["sandboxID"], json!(id));
    platform.api.post(&connect, json!({})).await.expect(200);
    platform.api.post(&format!("/sandboxes/{id}/refreshes"), json!({"duration": 30})).await.expect(204);
    let native = format!("/v1/sandboxes/sb-{}/ping", uuid::Uuid::try_parse(&id).unwrap());
    platform.api.post(&native, json!({})).await.expect(204);
    assert_eq!(platform.api.detail(&id).await["endAt"], end, "to the last digit");
    platform.api.post(&connect, json!({"timeout": 900})).await.expect(200);
    assert!(time(&platform.api.detail(&id).await["endAt"]) > time(&end));

    let timeout = format!("/sandboxes/{id}/timeout");
    platform.api.post(&timeout, json!({"timeout": 10})).await.expect(204);
    assert!(time(&platform.api.detail(&id).await["endAt"]) < time(&end));
    refused(&platform.api.post(&timeout, json!({"timeout": 2_592_001})).await, 400);
    refused(&platform.api.post(&connect, json!({"timeout": 0})).await, 400);
    platform.api.post(&timeout, json!({"timeout": 0})).await.expect(204);
    for (path, body) in [(&timeout, json!({"timeout": 1})), (&connect, json!({}))] {
        refused(&platform.api.post(path, body).await, 404);
    }
    refused(&platform.api.delete(&format!("/sandboxes/{id}")).await, 404);
}

#[tokio::test]
async fn a_pause_without_memory_boots_and_so_does_a_connection_that_asks_for_it() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    let token = platform.api.detail(&id).await["envdAccessToken"].clone();
    let (pause, connect) = (format!("/sandboxes/{id}/pause"), format!("/v2/sandboxes/{id}/connect"));
    platform.api.post(&pause, json!({"memory": false})).await.expect(204);
    refused(&platform.api.post(&pause, json!({"memory": false})).await, 409);
    let paused = platform.api.detail(&id).await;
    assert_eq!((&paused["state"], &paused["pauseMode"]), (&json!("paused"), &json!("filesystem")));
    let running = platform.api.post(&connect, json!({"timeout": 600})).await.expect(201);
    assert_eq!(running["envdAccessToken"], token);
    // One that runs is not booted.
    platform.api.post(&connect, json!({"timeout": 600, "memory": false})).await.expect(200);
    assert!(platform.api.detail(&id).await.get("pauseMode").is_none());

    platform.api.post(&pause, json!({"memory": true})).await.expect(204);
    assert_eq!(platform.api.detail(&id).await["pauseMode"], "full");
    platform.api.post(&connect, json!({"timeout": 600, "memory": false})).await.expect(201);

    let snapshot = json!({"memory": false, "name": "disk"});
    let kept = platform.api.post(&format!("/sandboxes/{id}/snapshots"), snapshot).await.expect(201);
    let name = kept["snapshotID"].as_str().unwrap();
    let listed = platform.api.get("/snapshots").await.expect(200);
    assert_eq!(listed[0]["snapshotID"], name);
    platform.api.post("/v2/sandboxes", json!({"templateID": name})).await.expect(201);
    let path = format!("/templates/{}", name.replace('/', "%2F").replace(':', "%3A"));
    platform.api.delete(&path).await.expect(204);
    refused(&platform.api.delete(&path).await, 404);
}

#[tokio::test]
async fn what_a_time_out_keeps_can_be_said_where_it_pauses() {
    let platform = Platform::start().await;
    for body in [
        json!({"templateID": "base", "autoPauseMemory": false}),
        json!({"templateID": "base", "autoPause": false, "autoPauseMemory": false}),
        json!({"templateID": "base", "autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}}),
    ] {
        refused(&platform.api.post("/v2/sandboxes", body).await, 400);
    }
    let id = platform.api.made(json!({"autoPause": true, "autoPauseMemory": false})).await;
    assert_eq!(
        platform.api.detail(&id).await["lifecycle"],
        json!({"autoResume": false, "onTimeout": "pause"})
    );
    // Its time is up now.
    platform.api.post(&format!("/sandboxes/{id}/timeout"), json!({"timeout": 0})).await.expect(204);
    assert_eq!(platform.api.detail(&id).await["pauseMode"], "filesystem");
    // As it was said, by default.
    let id = platform.api.made(json!({"autoPause": true, "autoPauseMemory": true})).await;
    platform.api.post(&format!("/sandboxes/{id}/timeout"), json!({"timeout": 0})).await.expect(204);
    assert_eq!(platform.api.detail(&id).await["pauseMode"], "full");
}

#[tokio::test]
async fn a_pause_is_one_and_a_connection_ends_it() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600, "autoPause": true})).await;
    let before = platform.api.detail(&id).await;
    let (pause, connect) = (format!("/sandboxes/{id}/pause"), format!("/sandboxes/{id}/connect"));
    platform.api.post(&pause, json!({"requireHealthyGuest": true})).await.expect(204);
    refused(&platform.api.post(&pause, json!({})).await, 409);
    let paused = platform.api.detail(&id).await;
    assert_eq!((&paused["state"], &paused["pauseMode"]), (&json!("paused"), &json!("full")));
    assert_eq!(paused["startedAt"], before["startedAt"]);
    refused(&platform.api.post(&format!("/sandboxes/{id}/timeout"), json!({"timeout": 1})).await, 404);
    refused(&platform.api.post(&format!("/sandboxes/{id}/fork"), json!({})).await, 409);

    let resumed = platform.api.post(&connect, json!({"timeout": 77})).await.expect(201);
    assert_eq!(resumed["envdAccessToken"], before["envdAccessToken"]);
    let running = platform.api.detail(&id).await;
    assert_eq!((&running["state"], running.get("pauseMode")), (&json!("running"), None));
    assert_eq!(running["startedAt"], before["startedAt"]);
    assert!((47..=77).contains(&(time(&running["endAt"]) - Utc::now()).num_seconds()));
    refused(&platform.api.post(&format!("/sandboxes/{id}/resume"), json!({})).await, 409);

    // Time over: it pauses, since that is how it ends.
    platform.api.post(&format!("/sandboxes/{id}/timeout"), json!({"timeout": 0})).await.expect(204);
    assert_eq!(platform.api.detail(&id).await["state"], "paused");
    let body = json!({"timeout": 60, "autoPause": false});
    platform.api.post(&format!("/sandboxes/{id}/resume"), body).await.expect(201);
    assert_eq!(platform.api.detail(&id).await["lifecycle"]["onTimeout"], "kill");
    platform.api.delete(&format!("/sandboxes/{id}")).await.expect(204);
    refused(&platform.api.get(&format!("/sandboxes/{id}")).await, 404);
}

#[tokio::test]
async fn of_several_that_connect_at_once_all_come_in() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    platform.api.post(&format!("/sandboxes/{id}/pause"), json!({})).await.expect(204);
    let path = format!("/v2/sandboxes/{id}/connect");
    let connect = |_| platform.api.post(&path, json!({"timeout": 60}));
    let answers = futures::future::join_all((0..6).map(connect)).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 201]);
    assert_eq!(platform.host.calls(Rpc::ResumeSandbox), 1);
}

#[tokio::test]
async fn clients_are_told_what_is_worth_asking_again() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    let pause = format!("/sandboxes/{id}/pause");
    for (rpc, body, fault, status, again) in [
        (Rpc::PauseSandbox, json!({}), Fault::Fail, 502, false),
        (Rpc::PauseSandbox, json!({}), Fault::Hang, 504, false),
        // 409 would mean that it is paused.
        (Rpc::PauseSandbox, json!({}), Fault::Refuse(Reason::REASON_BUSY), 503, true),
        (Rpc::PingSandbox, json!({"requireHealthyGuest": true}), Fault::Fail, 503, true),
    ] {
        platform.host.inject(rpc, fault, Times::Once);
        let answer = platform.api.post(&pause, body).await;
        assert_eq!(answer.headers.get("should-retry").is_none(), again, "{status}");
        refused(&answer, status);
        assert_eq!(platform.api.detail(&id).await["state"], "running");
    }
}

#[tokio::test]
async fn children_are_made_and_the_source_ends_when_it_would_have() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600, "metadata": {"k": "v"}})).await;
    let before = platform.api.detail(&id).await;
    platform.host.fail_children(1);
    let forked = platform.api.post(&format!("/sandboxes/{id}/fork"), json!({"count": 3})).await.expect(201);
    let (children, failed): (Vec<&Value>, Vec<&Value>) =
        forked.as_array().unwrap().iter().partition(|child| child.get("sandbox").is_some());
    assert_eq!((children.len(), failed.len()), (2, 1));
    assert_eq!(failed[0]["error"]["code"], 503);
    assert_ne!(children[0]["sandbox"]["envdAccessToken"], children[1]["sandbox"]["envdAccessToken"]);
    let child = platform.api.detail(children[0]["sandbox"]["sandboxID"].as_str().unwrap()).await;
    assert!(lives(&child, 15), "{child}");
    assert_eq!(child["metadata"], json!({"k": "v"}));
    assert_eq!(platform.api.detail(&id).await["endAt"], before["endAt"]);
    refused(&platform.api.post(&format!("/sandboxes/{id}/fork"), json!({"count": 21})).await, 400);
}

#[tokio::test]
async fn a_network_is_replaced_whole() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600, "allow_internet_access": false})).await;
    assert_eq!(platform.api.detail(&id).await["allowInternetAccess"], false);
    let path = format!("/sandboxes/{id}/network");
    let body = json!({"allowOut": ["*.example.com"], "allow_internet_access": false});
    platform.api.put(&path, body).await.expect(204);
    assert_eq!(platform.api.detail(&id).await["network"]["allowOut"], json!(["*.example.com"]));
    platform.api.put(&path, json!({"denyOut": ["198.51.100.7"]})).await.expect(204);
    let detail = platform.api.detail(&id).await;
    assert_eq!(detail["network"]["denyOut"], json!(["198.51.100.7"]));
    assert_eq!(detail["network"]["allowOut"], json!([]));
    assert_eq!(detail["allowInternetAccess"], Value::Null);
    for body in [json!({"denyOut": ["x y"]}), json!({"rules": {"a.com": []}})] {
        refused(&platform.api.put(&path, body).await, 400);
    }
}

#[tokio::test]
async fn figures_are_in_buckets_and_within_what_was_asked() {
    let platform = Platform::start().await;
    let id = platform.api.made(json!({"timeout": 600})).await;
    let path = format!("/sandboxes/{id}/metrics");
    let all = platform.api.get(&path).await.expect(200);
    let first = &all[0];
    for (key, value) in [
        ("cpuCount", json!(1)),
        ("cpuUsedPct", json!(12.5)),
        ("memUsed", json!(100 << 20)),
        ("memTotal", json!(512 << 20)),
        ("memCache", json!(0)),
        ("diskUsed", json!(5 << 20)),
        ("diskTotal", json!(2048_u64 << 20)),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!(time(&first["timestamp"]).timestamp(), first["timestampUnix"].as_i64().unwrap());
    let later = Utc::now().timestamp() + 3600;
    assert_eq!(platform.api.get(&format!("{path}?start={later}")).await.expect(200), json!([]));
    let far = platform.api.get(&format!("{path}?start=1&end={later}")).await.expect(200);
    assert_eq!(far.as_array().unwrap().len(), 3, "of the coarsest figures");
    refused(&platform.api.get(&format!("{path}?start=yesterday")).await, 400);

    let other = platform.stranger().await.made(json!({})).await;
    let unknown = uuid::Uuid::now_v7().simple();
    let path = format!("/sandboxes/metrics?sandbox_ids={id},{other},{unknown},x");
    let many = platform.api.get(&path).await.expect(200);
    let ids: Vec<&String> = many["sandboxes"].as_object().unwrap().keys().collect();
    assert_eq!(ids, [&id]);
}
