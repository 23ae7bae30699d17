//! Who may reach what.

use axum::Router;
use axum::routing::any;
use http::HeaderMap;
use sandbar_types::{Id, Ingress, id};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::world::{API, World, client, refusal, serve};

/// Says which headers have come.
async fn mirror() -> std::net::SocketAddr {
    let seen = async |headers: HeaderMap| {
        let pairs = headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
        pairs.collect::<String>()
    };
    serve(Router::new().fallback(any(seen))).await
}

#[tokio::test]
async fn a_port_takes_its_teams_keys_and_its_token_and_a_public_one_anybody() {
    let world = World::new().await;
    world.host.listen(3000, mirror().await);
    world.host.listen(4000, mirror().await);
    let sandbox = world.public().await;
    let access = world.control.sandbox_access(&sandbox);
    let (key, token) = (world.key.expose_secret(), access.traffic_token.expose_secret());

    let public = world.request("GET", &sandbox, 3000, "/").send().await.unwrap();
    assert_eq!(public.status(), 200);
    let stranger = format!("e2b_{}", "0".repeat(40));
    for (name, value) in [
        ("x-none", "-"),
        ("x-api-key", stranger.as_str()),
        ("x-api-key", "not a key"),
        ("e2b-traffic-access-token", "x"),
        // What its agent takes is for its agent.
        ("e2b-traffic-access-token", access.access_token.expose_secret()),
    ] {
        let (status, body) = refusal(world.request("GET", &sandbox, 4000, "/").header(name, value)).await;
        assert_eq!(status, 403, "{name}");
        assert_eq!((&body["sandboxId"], &body["code"]), (&json!(sandbox.id.e2b()), &json!(403)), "{name}");
    }
    for (name, value) in [("x-api-key", key), ("e2b-traffic-access-token", token)] {
        let request = world.request("GET", &sandbox, 4000, "/").header(name, value);
        let response = request.header("x-access-token", "the app's").send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
        let seen = response.text().await.unwrap();
        assert!(!seen.contains(value) && !seen.contains(name), "{seen}");
        assert!(seen.contains("x-access-token: the app's"), "{seen}");
    }
}

#[tokio::test]
async fn another_teams_key_and_one_that_was_revoked_open_nothing() {
    let world = World::new().await;
    world.host.listen(4000, mirror().await);
    let sandbox = world.sandbox(Ingress::default()).await;
    let strangers = world.strangers_key().await;
    let strangers = strangers.expose_secret();
    let asked = |key: &str| world.request("GET", &sandbox, 4000, "/").header("x-api-key", key.to_owned());
    assert_eq!(refusal(asked(strangers)).await.0, 403);

    let own = world.key.expose_secret().to_owned();
    assert_eq!(asked(&own).send().await.unwrap().status(), 200);
    let revoke = sqlx::query("UPDATE api_keys SET revoked_at = now()");
    revoke.execute(world.database.pool()).await.unwrap();
    // It is remembered for a moment.
    let refused = async {
        while asked(&own).send().await.unwrap().status() == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), refused).await.unwrap();
    assert_eq!(refusal(asked(&own)).await.0, 403);
}

#[tokio::test]
async fn the_agents_port_is_its_own_gates_and_what_is_the_hosts_stays_the_hosts() {
    let world = World::new().await;
    world.host.listen(49983, mirror().await);
    let sandbox = world.sandbox(Ingress { public: true, ..Ingress::default() }).await;
    let request = world.request("POST", &sandbox, 49983, "/process.Process/List");
    let response = request.header("x-access-token", "t").header("x-api-key", world.key.expose_secret());
    let seen = response.send().await.unwrap().text().await.unwrap();
    assert!(seen.contains("x-access-token: t") && !seen.contains("x-api-key"), "{seen}");

    for path in ["/init", "//init", "/%69nit", "/x/../init", "/snapshot/resume", "/connect?port=22", "/"] {
        // As it is: a client would tidy it up.
        let (status, body) = raw(&world, &sandbox.id.e2b(), &format!("POST {path} HTTP/1.1"), "").await;
        assert_eq!(status, 404, "{path}: {body}");
    }
    // Nor by another protocol.
    let upgrade = "Connection: close, upgrade\r\nUpgrade: tcp\r\n";
    let (status, body) = raw(&world, &sandbox.id.e2b(), "GET /health HTTP/1.1", upgrade).await;
    assert_eq!(status, 200, "{body}");
    assert!(!body.contains("upgrade"), "{body}");
}

/// Sends a request as it stands to the agent's port, and returns status and body.
async fn raw(world: &World, id: &str, first_line: &str, more: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(world.at).await.unwrap();
    let more = if more.is_empty() { "Connection: close\r\n" } else { more };
    let head = format!(
        "{first_line}\r\nHost: localhost\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 49983\r\n{more}Content-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn sandboxes_that_are_not_there_are_not_found_and_the_rest_is_the_apis() {
    let world = World::new().await;
    let nobody: Id<id::Sandbox> = Id::new();
    let url = format!("http://{}/", world.at);
    for (name, header) in [
        (nobody.e2b(), ("host", format!("49983-{}.sbx.test:8443", nobody.e2b()))),
        ("i0x".to_owned(), ("host", "49983-i0x.sbx.test:8443".to_owned())),
    ] {
        let (status, body) = refusal(client().get(&url).header(header.0, header.1)).await;
        assert_eq!(status, 502);
        assert_eq!(body, json!({"sandboxId": name, "message": "The sandbox was not found", "code": 502}));
    }
    for host in ["sbx.test:8443", "api.sbx.test:8443", "127.0.0.1"] {
        let said = client().get(&url).header("host", host).send().await.unwrap().text().await.unwrap();
        assert_eq!(said, API, "{host}");
    }
}
