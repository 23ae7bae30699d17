//! What a request costs whom, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures::StreamExt as _;
use http::HeaderMap;
use sandbar_types::{Id, Ingress, id};
use secrecy::ExposeSecret as _;
use tokio::sync::Notify;

use crate::world::{DOMAIN, World, client, edge, refusal, serve};

/// An edge whose clients may have the database asked so often; and what they have left.
fn charging(allowance: u32) -> (sandbar_edge::Config, Arc<AtomicU32>) {
    let left = Arc::new(AtomicU32::new(allowance));
    let charge = {
        let left = Arc::clone(&left);
        move |peer: Option<std::net::IpAddr>, _: &HeaderMap| {
            assert!(peer.is_some_and(|peer| peer.is_loopback()));
            let paid = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            paid.map(|_| ()).map_err(|_| Duration::from_millis(1_100))
        }
    };
    (sandbar_edge::Config { charge: Arc::new(charge), ..edge() }, left)
}

#[tokio::test]
async fn who_makes_the_database_be_asked_pays_and_what_is_remembered_is_free() {
    let (edge, left) = charging(100);
    let world = World::with(edge).await;
    // A kept connection would be cut by a real host when its sandbox pauses, not by this one.
    let served = get(async || ([("connection", "close")], "served"));
    world.host.listen(3000, serve(Router::new().route("/", served)).await);
    let sandbox = world.public().await;
    let asked = |port, key: Option<String>| {
        let request = world.request("GET", &sandbox, port, "/");
        match key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    };
    let (own, wrong) = (world.key.expose_secret().to_owned(), |n: u32| format!("e2b_{n:040x}"));
    for _ in 0..150 {
        assert_eq!(asked(3000, None).send().await.unwrap().status(), 200);
    }
    assert!(left.load(Ordering::Relaxed) > 0, "each was charged");

    // Whatever there is not, and whatever is wrong, has to be looked up each time.
    let strangers = async |n: u32| {
        let nobody: Id<id::Sandbox> = Id::new();
        let host = format!("3000-{}.{DOMAIN}", nobody.e2b());
        let missing = client().get(format!("http://{}/", world.at)).header("host", host);
        [refusal(missing).await.0, refusal(asked(4000, Some(wrong(n)))).await.0]
    };
    left.store(20, Ordering::Relaxed);
    let mut answers = Vec::new();
    for n in 0..30 {
        answers.push(strangers(n).await);
    }
    assert_eq!((answers[0], answers[29]), ([502, 403], [429, 429]), "{answers:?}");
    let response = asked(4000, Some(own.clone())).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"2".parse().unwrap())
    );

    // A paused one is not remembered either.
    left.store(100, Ordering::Relaxed);
    world.pause(&sandbox).await;
    for _ in 0..5 {
        assert_eq!(refusal(asked(3000, None)).await.0, 502);
    }
    left.store(0, Ordering::Relaxed);
    let (status, body) = refusal(asked(3000, None)).await;
    assert_eq!((status, &body["code"]), (429, &429.into()));
}

#[tokio::test]
async fn sandboxes_have_so_many_streams_together_and_one_that_ends_makes_room() {
    let world = World::with(sandbar_edge::Config { streams: 1, ..edge() }).await;
    let end = Arc::new(Notify::new());
    let held = {
        let end = Arc::clone(&end);
        get(async move || {
            let rest = async move {
                end.notified().await;
                Ok::<_, std::io::Error>("end")
            };
            Body::from_stream(futures::stream::iter([Ok("begin")]).chain(futures::stream::once(rest)))
        })
    };
    world.host.listen(3000, serve(Router::new().route("/", held)).await);
    let (one, other) =
        (world.public().await, world.sandbox(Ingress { public: true, ..Ingress::default() }).await);
    let mut response = world.request("GET", &one, 3000, "/").send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "begin");
    assert_eq!(refusal(world.request("GET", &other, 3001, "/")).await.0, 503);
    // The API is not behind it.
    assert_eq!(client().get(format!("http://{}/", world.at)).send().await.unwrap().status(), 200);
    end.notify_one();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "end");
    drop(response);
    // The edge notices a moment later.
    let room = async {
        while refusal(world.request("GET", &other, 3001, "/")).await.0 != 502 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), room).await.unwrap();
}
