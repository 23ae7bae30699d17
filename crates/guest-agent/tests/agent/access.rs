//! Who gets in.

use http::{Method, StatusCode};

use crate::harness::{Agent, TOKEN, status_of};

/// Every route, whatever it does.
const GUARDED: [(Method, &str); 29] = [
    (Method::POST, "/health"),
    (Method::GET, "/metrics"),
    (Method::GET, "/envs"),
    (Method::GET, "/files?path=/etc/hostname"),
    (Method::POST, "/files?path=/tmp/x"),
    (Method::PUT, "/files?path=/tmp/x"),
    (Method::POST, "/process.Process/List"),
    (Method::POST, "/process.Process/Start"),
    (Method::POST, "/process.Process/Connect"),
    (Method::POST, "/process.Process/SendInput"),
    (Method::POST, "/process.Process/StreamInput"),
    (Method::POST, "/process.Process/SendSignal"),
    (Method::POST, "/process.Process/CloseStdin"),
    (Method::POST, "/process.Process/Update"),
    (Method::POST, "/filesystem.Filesystem/Stat"),
    (Method::POST, "/filesystem.Filesystem/ListDir"),
    (Method::POST, "/filesystem.Filesystem/MakeDir"),
    (Method::POST, "/filesystem.Filesystem/Move"),
    (Method::POST, "/filesystem.Filesystem/Remove"),
    (Method::POST, "/filesystem.Filesystem/WatchDir"),
    (Method::POST, "/filesystem.Filesystem/CreateWatcher"),
    (Method::POST, "/filesystem.Filesystem/GetWatcherEvents"),
    (Method::POST, "/filesystem.Filesystem/RemoveWatcher"),
    (Method::GET, "/init"),
    (Method::GET, "/connect?port=22"),
    (Method::POST, "/snapshot/prepare"),
    (Method::POST, "/snapshot/resume"),
    (Method::GET, "/"),
    (Method::POST, "/no/such/route"),
];

#[tokio::test]
async fn nothing_is_served_before_the_token_is_set() {
    let agent = Agent::bare(&[]);
    assert_eq!(agent.request(Method::GET, "/health", &[], "").await.status, StatusCode::NO_CONTENT);
    for (method, path) in GUARDED {
        for headers in [&[][..], &[("x-access-token", "")], &[("x-access-token", TOKEN)]] {
            let reply = agent.request(method.clone(), path, headers, "{}").await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(reply.json()["code"], 401);
        }
    }
}

#[tokio::test]
async fn every_route_needs_the_token() {
    let agent = Agent::start().await;
    assert_eq!(agent.request(Method::GET, "/health", &[], "").await.status, StatusCode::NO_CONTENT);
    for (method, path) in GUARDED {
        for headers in
            [&[][..], &[("x-access-token", "")], &[("x-access-token", "wrong")], &[("authorization", TOKEN)]]
        {
            let reply = agent.request(method.clone(), path, headers, "{}").await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path} {headers:?}");
            assert_eq!(reply.json()["code"], 401);
        }
        let reply = agent.call(method.clone(), path, &[], "{}").await;
        assert_ne!(reply.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
}

#[tokio::test]
async fn what_the_host_asks_nobody_else_may_ask_even_with_the_token() {
    let agent = Agent::start().await;
    for path in ["/snapshot/prepare", "/snapshot/resume"] {
        for (source, token, expected) in [
            ("127.0.0.2", None, 401),
            ("127.0.0.2", Some("wrong"), 401),
            ("127.0.0.2", Some(TOKEN), 403),
            ("127.0.0.1", None, 401),
            ("127.0.0.1", Some("wrong"), 401),
            ("127.0.0.1", Some(TOKEN), 204),
        ] {
            let mut stream = agent.connect_from(source).await;
            let status = status_of(&mut stream, Method::POST, path, token).await;
            assert_eq!(status, expected, "{path} from {source} with {token:?}");
        }
    }
}

#[tokio::test]
async fn only_the_gateway_may_set_the_first_token() {
    let agent = Agent::bare(&["--gateway", "127.0.0.9"]);
    let reply = agent.request(Method::POST, "/init", &[], r#"{"accessToken":"mine"}"#).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply = agent.request(Method::GET, "/envs", &[("x-access-token", "mine")], "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn init_rotates_the_token_and_needs_the_one_before() {
    let agent = Agent::start().await;
    for headers in [&[][..], &[("x-access-token", "guess")]] {
        let reply = agent.request(Method::POST, "/init", headers, r#"{"accessToken":"mine"}"#).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    // Again with the same token, as a host does that lost the answer.
    let same = format!(r#"{{"accessToken":"{TOKEN}","envVars":{{"A":"1"}}}}"#);
    assert_eq!(agent.call(Method::POST, "/init", &[], same).await.status, StatusCode::NO_CONTENT);
    assert_eq!(agent.call(Method::GET, "/envs", &[], "").await.text(), r#"{"A":"1"}"#);

    assert_eq!(
        agent.call(Method::POST, "/init", &[], r#"{"accessToken":"new"}"#).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(agent.call(Method::GET, "/envs", &[], "").await.status, StatusCode::UNAUTHORIZED);
    let reply = agent.request(Method::GET, "/envs", &[("x-access-token", "new")], "").await;
    assert_eq!(reply.text(), r#"{"A":"1"}"#);
}

#[tokio::test]
async fn an_init_that_fails_sets_no_token() {
    let agent = Agent::bare(&[]);
    // The state cannot be written any more: its folder is gone.
    std::fs::remove_dir_all(agent.dir.path()).unwrap();
    let reply = agent.request(Method::POST, "/init", &[], r#"{"accessToken":"mine"}"#).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        reply.json()["message"].as_str().unwrap().starts_with("step identity failed"),
        "{}",
        reply.text()
    );
    let reply = agent.request(Method::GET, "/envs", &[("x-access-token", "mine")], "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn nonsense_for_init_is_a_bad_request() {
    let agent = Agent::bare(&[]);
    for body in ["{", "[]", r#"{"accessToken":""}"#, r#"{"accessToken":5}"#, r#"{"hostname":"a b"}"#] {
        let reply = agent.request(Method::POST, "/init", &[], body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn metrics_are_numbers() {
    let agent = Agent::start().await;
    let metrics = agent.call(Method::GET, "/metrics", &[], "").await.json();
    for name in
        ["ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "mem_cache", "disk_used", "disk_total"]
    {
        assert!(metrics[name].is_number(), "{name}: {metrics}");
    }
}
