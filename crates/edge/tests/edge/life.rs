//! Sandboxes that pause, go on and end while there is traffic for them.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures::StreamExt as _;
use futures::future::join_all;
use sandbar_control::sandboxes::Resume;
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, Times};
use sandbar_types::{Ingress, SandboxStatus};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::world::{World, refusal, serve};

#[tokio::test]
async fn a_closed_port_and_a_sandbox_that_paused_or_ended_are_told_apart_at_once() {
    let world = World::new().await;
    world.host.listen(3000, serve(Router::new().route("/", get(async || "served"))).await);
    let sandbox = world.sandbox(Ingress { public: true, ..Ingress::default() }).await;
    let id = sandbox.id.e2b();
    let not_found = json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502});

    assert_eq!(
        world.request("GET", &sandbox, 3000, "/").send().await.unwrap().text().await.unwrap(),
        "served"
    );
    let (status, body) = refusal(world.request("GET", &sandbox, 3001, "/")).await;
    let closed = json!({"sandboxId": id, "message": "The sandbox is running but port is not open", "port": 3001, "code": 502});
    assert_eq!((status, body), (502, closed));

    // It is remembered as one that runs, but its host knows better.
    world.pause(&sandbox).await;
    assert_eq!(refusal(world.request("GET", &sandbox, 3001, "/")).await, (502, not_found.clone()));
    let paused = world.control.sandbox_get(&world.ctx, sandbox.id).await.unwrap();
    world.control.sandbox_resume(&world.ctx, &paused, Resume::default()).await.unwrap();
    assert_eq!(refusal(world.request("GET", &sandbox, 3001, "/")).await.1["port"], 3001);

    let running = world.control.sandbox_get(&world.ctx, sandbox.id).await.unwrap();
    world.control.sandbox_destroy(&world.ctx, &running).await.unwrap();
    assert_eq!(refusal(world.request("GET", &sandbox, 3001, "/")).await, (502, not_found));
}

#[tokio::test]
async fn traffic_resumes_a_sandbox_once_for_all_who_wait() {
    let world = World::new().await;
    world.host.listen(3000, serve(Router::new().route("/", get(async || "served"))).await);
    let ingress = Ingress { public_ports: [3000].into(), auto_resume: true, ..Ingress::default() };
    let sandbox = world.sandbox(ingress).await;
    world.pause(&sandbox).await;

    // Who may not reach it does not wake it.
    assert_eq!(refusal(world.request("GET", &sandbox, 4000, "/")).await.0, 403);
    let now = world.control.sandbox_get(&world.ctx, sandbox.id).await.unwrap();
    assert_eq!((now.status, world.host.calls(Rpc::ResumeSandbox)), (SandboxStatus::Paused, 0));

    let requests = (0..20).map(|_| async {
        let response = world.request("GET", &sandbox, 3000, "/").send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    });
    for (status, body) in join_all(requests).await {
        assert_eq!((status, body.as_str()), (200, "served"));
    }
    assert_eq!(world.host.calls(Rpc::ResumeSandbox), 1);
    let told: Vec<(String, String)> = sqlx::query_as(
        "SELECT actor_type, actor_name FROM audit_logs WHERE resource_type = 'sandbox' AND action = 'resume'",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    assert_eq!(told, [("system".to_owned(), "traffic".to_owned())]);
}

#[tokio::test]
async fn a_stranger_who_asks_for_the_agent_wakes_nobody() {
    let world = World::new().await;
    // A kept connection would be cut by a real host, not by this one.
    let agent = get(async || ([("connection", "close")], "the agent"));
    world.host.listen(49983, serve(Router::new().fallback(agent)).await);
    let sandbox = world.sandbox(Ingress { auto_resume: true, ..Ingress::default() }).await;
    let asked = || world.request("GET", &sandbox, 49983, "/health");
    // While it runs, the agent says itself whom it takes.
    assert_eq!(asked().send().await.unwrap().text().await.unwrap(), "the agent");
    let resumed = || world.host.calls(Rpc::ResumeSandbox);
    let access = world.control.sandbox_access(&sandbox);
    let not_found =
        json!({"sandboxId": sandbox.id.e2b(), "message": "The sandbox was not found", "code": 502});
    for (turn, (name, value)) in [
        ("x-access-token", access.access_token.expose_secret()),
        ("e2b-traffic-access-token", access.traffic_token.expose_secret()),
        ("x-api-key", world.key.expose_secret()),
    ]
    .into_iter()
    .enumerate()
    {
        world.pause(&sandbox).await;
        // It is remembered as one that runs, and then not; who pretends to know it is none the better for it.
        let strangers_key = format!("e2b_{}", "0".repeat(40));
        for _ in 0..2 {
            assert_eq!(refusal(asked()).await, (502, not_found.clone()), "{name}");
            for (name, wrong) in
                [("x-access-token", "x"), ("e2b-traffic-access-token", "x"), ("x-api-key", &*strangers_key)]
            {
                assert_eq!(refusal(asked().header(name, wrong)).await, (502, not_found.clone()), "{name}");
            }
        }
        assert_eq!(resumed(), turn, "{name}");
        let answer = asked().header(name, value).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "the agent", "{name}");
        assert_eq!(resumed(), turn + 1, "{name}");
    }
}

#[tokio::test]
async fn a_resume_that_fails_is_said_so_and_the_next_request_tries_again() {
    let world = World::new().await;
    world.host.listen(3000, serve(Router::new().route("/", get(async || "served"))).await);
    let ingress = Ingress { public: true, auto_resume: true, ..Ingress::default() };
    let sandbox = world.sandbox(ingress).await;
    world.pause(&sandbox).await;
    world.host.inject(Rpc::ResumeSandbox, Fault::Refuse(Reason::REASON_NO_CAPACITY), Times::Once);
    assert_eq!(refusal(world.request("GET", &sandbox, 3000, "/")).await.0, 503);
    assert_eq!(world.request("GET", &sandbox, 3000, "/").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_of_a_host_that_dies_breaks_and_does_not_end() {
    let world = World::new().await;
    // Neither a length nor chunks tell where it ends, but the connection's end.
    let endless = get(async || {
        let ticks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>("tick\n"));
        Body::from_stream(ticks.then(async |tick| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            tick
        }))
    });
    world.host.listen(3000, serve(Router::new().route("/", endless)).await);
    let sandbox = world.public().await;
    let mut response = world.request("GET", &sandbox, 3000, "/").send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    world.host.crash().await.unwrap();
    let end = async {
        loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(60), end).await.unwrap();
    assert!(end.is_err(), "it ended as if it were complete");
    let (status, _) = refusal(world.request("GET", &sandbox, 3000, "/")).await;
    assert_eq!(status, 503);
}
