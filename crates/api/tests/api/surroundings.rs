//! What every answer has in common, and the routes that need no credential.

use std::num::NonZeroU32;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use sandbar_api::RequestRate;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::client::{Client, send};
use crate::platform::{Platform, api_config};

#[tokio::test]
async fn unknown_routes_and_methods_are_refused_as_errors_of_the_contract() {
    let platform = Platform::start().await;
    for path in ["/", "/v1", "/v1/nothing", "/v1/sandboxes/", "/v1/capsules/x/y/z", "/metrics"] {
        platform.api.get(path).await.refused(404, "not_found");
    }
    let answer = platform.api.delete("/v1/sandboxes").await;
    assert!(answer.headers["allow"].to_str().unwrap().contains("POST"));
    answer.refused(405, "invalid_request");
    platform.api.post("/healthz", json!({})).await.refused(405, "invalid_request");
    send(platform.api.request(Method::PUT, "/v1/capsules")).await.refused(405, "invalid_request");
}

#[tokio::test]
async fn a_request_keeps_its_id_and_gets_one_where_it_has_none() {
    let platform = Platform::start().await;
    let id = "0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e";
    let ask =
        |given: &'static str| send(platform.api.request(Method::GET, "/v1/x").header("X-Request-Id", given));
    assert_eq!(ask(id).await.headers["x-request-id"], id);
    for strange in ["not a uuid", ""] {
        let answer = ask(strange).await;
        let own = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(own.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
        answer.refused(404, "not_found");
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_to_keep_out() {
    let platform = Platform::start().await;
    for path in ["/healthz", "/v1/sandboxes", "/v1/nothing", "/openapi.json", "/docs/"] {
        let answer = platform.api.get(path).await;
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(policy.contains("default-src 'none'"), path != "/docs/", "{path}: {policy}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_objects_are_refused_with_the_reason() {
    let platform = Platform::start().await;
    let post = |body: &'static str, media_type: &'static str| {
        send(platform.api.request(Method::POST, "/v1/sandboxes").header(CONTENT_TYPE, media_type).body(body))
    };
    let json = "application/json";
    for (body, media_type, word) in [
        ("{", json, "not valid JSON"),
        ("", "text/plain", ""),
        ("{}x", json, "not valid JSON"),
        ("[\"base\"]", json, "JSON object"),
        ("null", json, "JSON object"),
        ("\"base\"", json, "JSON object"),
        ("{\"vcpus\": 1}", "text/plain", "Content-Type"),
        ("vcpus=1", "application/x-www-form-urlencoded", "Content-Type"),
        ("{\"vcpus\": 1, \"vcpus\": 2}", json, "duplicate"),
        ("{\"template\": \"\u{0}\"}", json, "not valid JSON"),
    ] {
        let answer = post(body, media_type).await;
        if word.is_empty() {
            answer.expect(201);
        } else {
            let message = answer.refused(400, "invalid_request");
            assert!(message.contains(word), "{body}: {message}");
        }
    }
    let large = format!("{{\"template\": \"{}\"}}", "x".repeat(2 << 20));
    let request = platform.api.request(Method::POST, "/v1/sandboxes").header(CONTENT_TYPE, json).body(large);
    send(request).await.refused(413, "too_large");
}

#[tokio::test]
async fn health_is_the_process_and_readiness_the_platform() {
    let platform = Platform::start().await;
    let anyone = platform.api.anonymous();
    assert_eq!(anyone.get("/healthz").await.expect(200)["status"], "ok");
    assert_eq!(anyone.get("/readyz").await.expect(200), json!({"status": "ready", "hosts_online": 1}));
    sqlx::query("UPDATE hosts SET status = 'unreachable'").execute(platform.database.pool()).await.unwrap();
    anyone.get("/readyz").await.refused(503, "no_hosts_available");
    platform.store.close().await;
    anyone.get("/readyz").await.refused(503, "unavailable");
    anyone.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn the_document_and_its_page_are_served_from_the_binary_alone() {
    let platform = Platform::start().await;
    let anyone = platform.api.anonymous();
    let json = anyone.get("/openapi.json").await.expect(200);
    assert_eq!(json, serde_json::to_value(sandbar_api::openapi()).unwrap());
    let yaml = anyone.get("/openapi.yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(String::from_utf8(yaml.bytes).unwrap().starts_with("openapi: 3.1.0"));
    // Redirected to /docs/.
    let page = String::from_utf8(anyone.get("/docs").await.bytes).unwrap();
    assert!(page.contains("swagger-ui-bundle.js"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
    assert!(anyone.get("/docs/swagger-ui-bundle.js").await.bytes.len() > 100_000);
    let initializer = String::from_utf8(anyone.get("/docs/swagger-initializer.js").await.bytes).unwrap();
    assert!(initializer.contains("/openapi.json"), "{initializer}");
}

#[tokio::test]
async fn a_database_that_is_away_is_our_fault_and_tells_nothing_of_itself() {
    let platform = Platform::start().await;
    platform.store.close().await;
    let answer = platform.api.get("/v1/sandboxes").await;
    assert_eq!(answer.headers["retry-after"], "2");
    let message = answer.refused(503, "unavailable");
    assert!(!message.to_lowercase().contains("database") && !message.contains("pool"), "{message}");
}

#[tokio::test]
async fn who_sends_too_much_is_told_to_wait_and_nobody_else_pays_for_it() {
    let platform = Platform::start().await;
    let rate = RequestRate { per_second: NonZeroU32::new(1).unwrap(), burst: NonZeroU32::new(5).unwrap() };
    let config = sandbar_api::Config { request_rate: Some(rate), ..api_config() };
    let (anyone, _stop) = platform.facing(&config).await;
    let ours = anyone.with_key(platform.key.expose_secret());
    // A second passes now and then: more than the burst is certain to be too much.
    let mut refused = None;
    for _ in 0..100 {
        let answer = ours.get("/v1/sandboxes").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(wait, 1);
    assert_eq!(refused.headers["x-content-type-options"], "nosniff");
    refused.refused(429, "rate_limited");
    let ann = platform.sign_up("ann").await;
    anyone.with_bearer(ann.api.token()).get("/v1/me").await.expect(200);
    // Whom load balancers ask is never refused; ever new credentials are, by where they come from.
    for _ in 0..20 {
        anyone.get("/healthz").await.expect(200);
    }
    let mut made_up = Vec::new();
    for n in 0..100 {
        let made_up_key = anyone.with_key(&format!("e2b_{n:040x}"));
        for _ in 0..3 {
            made_up.push(made_up_key.get("/v1/sandboxes").await.status);
        }
    }
    // Time lets in one a second.
    let let_in = made_up.iter().filter(|status| **status != 429).count();
    assert!(let_in < 100, "{made_up:?}");
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_where_they_are_listed_and_never_with_cookies() {
    let platform = Platform::start().await;
    let listed = "https://app.example.com";
    let config = sandbar_api::Config { allowed_origins: vec![listed.parse().unwrap()], ..api_config() };
    let (open, _stop) = platform.facing(&config).await;
    let ask = |api: &Client, origin: &'static str| {
        let request = api.request(Method::OPTIONS, "/v1/sandboxes").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        send(request.header("Access-Control-Request-Headers", "authorization,content-type"))
    };
    let closed = ask(&platform.api.anonymous(), listed).await;
    assert!(closed.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{closed:?}");
    assert!(!ask(&open, "https://evil.example").await.headers.contains_key("access-control-allow-origin"));
    let told = ask(&open, listed).await;
    assert_eq!((told.status, &told.headers["access-control-allow-origin"]), (200, &listed.parse().unwrap()));
    let headers = told.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(headers.contains("authorization") && headers.contains("x-api-key"), "{headers}");
    assert!(told.headers["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));

    // On refusals, too: a page could not read them otherwise.
    let refused = send(open.request(Method::GET, "/v1/sandboxes").header("Origin", listed)).await;
    assert_eq!(refused.headers["access-control-allow-origin"], listed);
    assert!(refused.headers["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
    assert!(!refused.headers.contains_key("access-control-allow-credentials"));
    assert!(refused.headers["vary"].to_str().unwrap().to_lowercase().contains("origin"));
    refused.refused(401, "unauthorized");
}

#[tokio::test]
async fn tls_is_insisted_on_where_a_trusted_proxy_says_that_the_client_came_by_it() {
    let platform = Platform::start().await;
    let ask = async |api: &Client, scheme: &'static str| {
        let answer = send(api.request(Method::GET, "/healthz").header("X-Forwarded-Proto", scheme)).await;
        answer.headers.get("strict-transport-security").cloned()
    };
    assert_eq!(ask(&platform.api, "https").await.unwrap(), "max-age=31536000");
    assert_eq!(ask(&platform.api, "http").await, None);
    assert!(!platform.api.get("/healthz").await.headers.contains_key("strict-transport-security"));
    let config = sandbar_api::Config { trusted_proxies: Vec::new(), ..api_config() };
    let (direct, _stop) = platform.facing(&config).await;
    assert_eq!(ask(&direct, "https").await, None);
}

#[tokio::test]
async fn answers_that_hold_credentials_are_kept_by_nobody() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let key = ann.api.post("/v1/api-keys", json!({"name": "k"})).await;
    let login = platform.log_in("ann@example.org", crate::people::PASSWORD).await;
    for answer in [key, login] {
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
}
