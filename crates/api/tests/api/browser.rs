//! The session of a browser: a cookie in place of the token, and what it takes to count.

use futures::{SinkExt as _, StreamExt as _};
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, connect_async};

use crate::client::{Answer, Client, send};
use crate::people::PASSWORD;
use crate::platform::Platform;

/// The cookie that an answer sets, as a browser would send it back, and its attributes.
fn set_cookie(answer: &Answer) -> (String, String) {
    let value = answer.headers["set-cookie"].to_str().unwrap();
    let (cookie, attributes) = value.split_once("; ").unwrap();
    (cookie.to_owned(), attributes.to_owned())
}

fn from_page(api: &Client, method: Method, path: &str, cookie: &str) -> RequestBuilder {
    api.anonymous().request(method, path).header("Cookie", cookie).header("X-Sandbar-Page", "1")
}

async fn signed_in(platform: &Platform, email: &str) -> String {
    let request = platform.api.anonymous().request(Method::POST, "/v1/auth/login");
    let request = request.header("X-Sandbar-Page", "1").json(&json!({"email": email, "password": PASSWORD}));
    let answer = send(request).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.get("token").is_none(), "{}", answer.body);
    let (cookie, attributes) = set_cookie(&answer);
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict");
    cookie
}

#[tokio::test]
async fn a_page_acts_by_its_cookie_from_sign_in_to_sign_out() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    bob.adds(&ann).await;
    let cookie = signed_in(&platform, &ann.email).await;

    let me = send(from_page(&platform.api, Method::GET, "/v1/me", &cookie)).await.expect(200);
    assert_eq!((me["id"].as_str(), me["team_id"].as_str()), (Some(&*ann.id), Some(&*ann.team)));
    let made = from_page(&platform.api, Method::POST, "/v1/sandboxes", &cookie).json(&json!({}));
    let sandbox = send(made).await.expect(201);
    assert_eq!(sandbox["team_id"], *ann.team);

    let switch = from_page(&platform.api, Method::POST, "/v1/auth/switch-team", &cookie);
    let answer = send(switch.json(&json!({"team_id": bob.team}))).await;
    assert!(answer.status == 200 && answer.body.get("token").is_none(), "{}", answer.body);
    let (other, _) = set_cookie(&answer);
    let me = send(from_page(&platform.api, Method::GET, "/v1/me", &other)).await.expect(200);
    assert_eq!(me["team_id"], *bob.team);
    let path = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    send(from_page(&platform.api, Method::GET, &path, &other)).await.refused(404, "not_found");

    let answer = send(from_page(&platform.api, Method::POST, "/v1/auth/logout", &other)).await;
    let (empty, attributes) = set_cookie(&answer);
    assert_eq!((answer.status, &*empty), (204, "sandbar="));
    assert!(attributes.ends_with("Max-Age=0"), "{attributes}");
    for cookie in [cookie, other] {
        send(from_page(&platform.api, Method::GET, "/v1/me", &cookie)).await.refused(401, "unauthorized");
        // Nothing is left to end, but the cookie to be rid of; another page cannot have that done either.
        let answer = send(from_page(&platform.api, Method::POST, "/v1/auth/logout", &cookie)).await;
        assert_eq!(set_cookie(&answer).0, "sandbar=");
        answer.refused(401, "unauthorized");
        let forged = from_page(&platform.api, Method::POST, "/v1/auth/logout", &cookie);
        let answer = send(forged.header("Origin", "https://evil.example")).await;
        assert!(!answer.headers.contains_key("set-cookie"));
        answer.refused(403, "forbidden");
    }
}

#[tokio::test]
async fn a_page_that_shows_another_team_than_its_cookie_acts_for_changes_nothing() {
    let platform = Platform::start().await;
    let (ann, bob) = (platform.sign_up("ann").await, platform.sign_up("bob").await);
    bob.adds(&ann).await;
    let cookie = signed_in(&platform, &ann.email).await;
    let create = |shown: &str| {
        let request = from_page(&platform.api, Method::POST, "/v1/sandboxes", &cookie).json(&json!({}));
        send(request.header("X-Sandbar-Team", shown))
    };
    assert_eq!(create(&ann.team).await.expect(201)["team_id"], *ann.team);
    for shown in [&*bob.team, "team-x", ""] {
        create(shown).await.refused(409, "conflict");
    }
    assert_eq!(ann.api.get("/v1/sandboxes").await.expect(200).as_array().unwrap().len(), 1);
    // Who sends a token says by it whom they act for.
    let list = ann.api.request(Method::GET, "/v1/sandboxes").header("X-Sandbar-Team", &*bob.team);
    send(list).await.expect(200);
}

#[tokio::test]
async fn a_cookie_that_another_page_had_sent_counts_for_nothing() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let cookie = signed_in(&platform, &ann.email).await;
    let own = format!("http://{}", platform.api.address());
    let change = |headers: &[(&str, &str)]| {
        let request = platform.api.anonymous().request(Method::PATCH, "/v1/me").header("Cookie", &cookie);
        let request = request.json(&json!({"name": "Mallory"}));
        send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
    };
    let page = ("X-Sandbar-Page", "1");
    for refused in [
        &[][..],
        &[("Origin", &*own)],
        &[page, ("Origin", "https://evil.example")],
        &[page, ("Origin", "null")],
        &[page, ("Sec-Fetch-Site", "cross-site")],
        &[page, ("Sec-Fetch-Site", "same-site"), ("Origin", &*own)],
    ] {
        change(refused).await.refused(403, "forbidden");
    }
    assert_eq!(ann.api.get("/v1/me").await.expect(200)["name"], "ann");
    change(&[page, ("Origin", &own), ("Sec-Fetch-Site", "same-origin")]).await.expect(200);

    // Reading, too: an answer that another page cannot read is no reason to make it.
    let read = platform.api.anonymous().request(Method::GET, "/v1/me").header("Cookie", &cookie);
    send(read.header("Sec-Fetch-Site", "cross-site")).await.refused(403, "forbidden");
    // Nor is anybody signed in by another page.
    let login =
        platform.api.anonymous().request(Method::POST, "/v1/auth/login").header("X-Sandbar-Page", "1");
    let login = login.header("Origin", "https://evil.example");
    let login = login.json(&json!({"email": ann.email, "password": PASSWORD}));
    send(login).await.refused(403, "forbidden");
    // A credential of its own counts whatever page it comes from, and before the cookie.
    let other = platform.sign_up("bob").await;
    let request = other.api.request(Method::GET, "/v1/me").header("Cookie", &cookie);
    let me = send(request.header("Origin", "https://elsewhere.example")).await.expect(200);
    assert_eq!(me["email"], *other.email);
}

#[tokio::test]
async fn a_page_opens_a_websocket_by_its_cookie_and_no_other_page_does() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let cookie = signed_in(&platform, &ann.email).await;
    let sandbox = ann.api.sandbox().await;
    let open = async |origin: Option<String>| {
        let url = format!("ws://{}/v1/sandboxes/{sandbox}/exec/stream", platform.api.address());
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Cookie", cookie.parse().unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.parse().unwrap());
        }
        match connect_async(request).await {
            Ok(_) => 101,
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(open(Some(format!("http://{}", platform.api.address()))).await, 101);
    assert_eq!(open(Some("http://evil.example".to_owned())).await, 403);
    assert_eq!(open(None).await, 403);
}

#[tokio::test]
async fn a_websocket_over_http2_is_one_by_the_same_credentials() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let cookie = signed_in(&platform, &ann.email).await;
    let (sandbox, address) = (ann.api.sandbox().await, platform.api.address());
    let (own, bearer) = (format!("http://{address}"), format!("sandbar.v1, bearer.{}", ann.api.token()));
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // After an answer the client knows that the server takes the method.
    let known = http::Request::get(format!("http://{address}/healthz")).body(String::new()).unwrap();
    sender.send_request(known).await.unwrap();
    for (route, first) in [("exec/stream", json!({"cmd": "sleep"})), ("pty", json!({"tag": "mine"}))] {
        let mut open = async |headers: &[(&str, &str)]| {
            let request = http::Request::connect(format!("http://{address}/v1/sandboxes/{sandbox}/{route}"));
            let request = request.header("sec-websocket-version", "13");
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let request = request.extension(Protocol::from_static("websocket")).body(String::new()).unwrap();
            sender.send_request(request).await.unwrap()
        };
        for (headers, status) in [
            (&[("cookie", &*cookie)][..], 403),
            (&[("cookie", &*cookie), ("origin", "https://evil.example")], 403),
            (&[("sec-websocket-protocol", &*bearer), ("origin", "https://evil.example")], 403),
            (&[("sec-websocket-protocol", "sandbar.v1"), ("origin", &*own)], 401),
        ] {
            assert_eq!(open(headers).await.status(), status, "{route} {headers:?}");
        }
        for credential in [("cookie", &*cookie), ("sec-websocket-protocol", &*bearer)] {
            let answer = open(&[credential, ("origin", &*own)]).await;
            assert_eq!(answer.status(), 200, "{route} {credential:?}");
            let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
            let mut first = first.clone();
            first["type"] = json!("start");
            socket.send(Message::text(first.to_string())).await.unwrap();
            let heard = socket.next().await.unwrap().unwrap().into_text().unwrap();
            assert!(heard.contains("1000"), "{heard}");
        }
    }
}

#[tokio::test]
async fn behind_tls_the_cookie_is_bound_to_the_host() {
    let platform = Platform::start().await;
    let ann = platform.sign_up("ann").await;
    let login = platform.api.anonymous().request(Method::POST, "/v1/auth/login");
    let login = login.header("X-Sandbar-Page", "1").header("X-Forwarded-Proto", "https");
    let answer = send(login.json(&json!({"email": ann.email, "password": PASSWORD}))).await;
    let (cookie, attributes) = set_cookie(&answer);
    assert!(cookie.starts_with("__Host-sandbar=") && attributes.ends_with("; Secure"), "{attributes}");
    let me = || from_page(&platform.api, Method::GET, "/v1/me", &cookie);
    send(me().header("X-Forwarded-Proto", "https")).await.expect(200);
    send(me()).await.refused(401, "unauthorized");
}
