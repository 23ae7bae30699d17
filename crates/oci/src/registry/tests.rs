//! A registry that behaves as ours likes, and as it should not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::{StatusCode, header};
use sandbar_types::Arch;

use super::*;
use crate::cache::Cache;
use crate::image::Image;

const LAYER: usize = 3 << 20;

/// What a stub answers to a method's path.
type Answer = dyn Fn(&Stub, &Request) -> Response + Send + Sync;

/// A server with one image, whose answers a test may replace.
struct Stub {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
    /// Requests for the layer, and whence they wanted it.
    ranges: Mutex<Vec<Option<String>>>,
    asked: AtomicUsize,
    answer: Box<Answer>,
}

impl Stub {
    /// An image of one layer, which is no tar stream: nobody unpacks it here.
    async fn start(
        answer: impl Fn(&Self, &Request) -> Option<Response> + Send + Sync + 'static,
    ) -> (Arc<Self>, SocketAddr) {
        let layer: Vec<u8> = (0..LAYER).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{}"]}}}}"#,
            Digest::of(&layer)
        );
        let manifest = format!(
            r#"{{"config":{{"digest":"{}","size":{}}},"layers":[{{"mediaType":"tar","digest":"{}","size":{LAYER}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len(),
            Digest::of(&layer),
        );
        let stub = Arc::new(Self {
            manifest: manifest.into_bytes(),
            config: config.into_bytes(),
            layer,
            ranges: Mutex::default(),
            asked: AtomicUsize::new(0),
            answer: Box::new(move |stub, request| {
                answer(stub, request).unwrap_or_else(|| stub.usual(request))
            }),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = Arc::clone(&stub);
        let router = Router::new().fallback(move |request: Request| {
            own.asked.fetch_add(1, Ordering::SeqCst);
            let answer = (own.answer)(&own, &request);
            async move { answer }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        (stub, address)
    }

    fn usual(&self, request: &Request) -> Response {
        let path = request.uri().path();
        let digest = |content: &[u8]| format!("/v2/team/app/blobs/{}", Digest::of(content));
        if path == "/v2/team/app/manifests/1" {
            Response::new(Body::from(self.manifest.clone()))
        } else if path == digest(&self.config) {
            Response::new(Body::from(self.config.clone()))
        } else if path == digest(&self.layer) {
            self.part(request, LAYER)
        } else {
            status(StatusCode::NOT_FOUND)
        }
    }

    fn is_layer(&self, request: &Request) -> bool {
        request.uri().path().ends_with(&Digest::of(&self.layer).to_string())
    }

    /// The layer from where it is wanted, but no more than `most` bytes before the connection breaks.
    fn part(&self, request: &Request, most: usize) -> Response {
        let range = request.headers().get(RANGE).map(|range| range.to_str().unwrap().to_owned());
        let start =
            range.as_deref().map_or(0, |range| range["bytes=".len()..range.len() - 1].parse().unwrap());
        self.ranges.lock().unwrap().push(range);
        let part = self.layer[start..].to_vec();
        let sent = Bytes::from(part[..most.min(part.len())].to_vec());
        let end = (sent.len() < part.len()).then(|| Err(std::io::Error::other("broken")));
        let body = Body::from_stream(futures::stream::iter([Ok(sent)].into_iter().chain(end)));
        let code = if start > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        Response::builder().status(code).header(header::CONTENT_LENGTH, part.len()).body(body).unwrap()
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn status(code: StatusCode) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

struct Fetcher {
    dir: tempfile::TempDir,
    cache: Cache,
}

impl Fetcher {
    fn new(bound: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), bound).unwrap();
        Self { dir, cache }
    }

    async fn fetch(
        &self,
        address: SocketAddr,
        credentials: Option<Credentials>,
    ) -> Result<Image, ImageError> {
        self.fetch_limited(address, credentials, 1 << 30).await
    }

    async fn fetch_limited(
        &self,
        address: SocketAddr,
        credentials: Option<Credentials>,
        bytes: u64,
    ) -> Result<Image, ImageError> {
        let reference = format!("{address}/team/app:1").parse().unwrap();
        let allowed = Registries { insecure: vec![address.to_string()], private: vec![] };
        let registry = Registry::new(&reference, credentials, &allowed)?;
        registry.fetch(&self.cache, Arch::X86_64, FetchLimits { bytes }, &|_| Ok(())).await
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path()).unwrap().count()
    }
}

fn credentials() -> Credentials {
    Credentials { username: "me".into(), password: "very secret".into() }
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_broke_off() {
    let third = LAYER / 3;
    let (stub, address) =
        Stub::start(move |stub, request| stub.is_layer(request).then(|| stub.part(request, third + 1))).await;
    let fetcher = Fetcher::new(1 << 30);
    let image = fetcher.fetch(address, None).await.unwrap();
    assert_eq!(image.layers[0].data.read_all().unwrap(), stub.layer);
    let ranges = stub.ranges();
    assert!(
        ranges.len() >= 3 && ranges[0].is_none() && ranges[1..].iter().all(Option::is_some),
        "{ranges:?}"
    );
    // The second time, all of it is here.
    let image = fetcher.fetch(address, None).await.unwrap();
    assert_eq!((image.packed_bytes(), stub.ranges().len()), (LAYER as u64, ranges.len()));
}

#[tokio::test]
async fn what_a_dead_process_left_is_gone_on_with_or_found_wrong() {
    let (stub, address) = Stub::start(|_, _| None).await;
    let fetcher = Fetcher::new(1 << 30);
    drop(fetcher.fetch(address, None).await.unwrap());
    let path = |ending: &str| {
        let digits = Digest::of(&stub.layer).digits();
        let names = std::fs::read_dir(fetcher.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.to_str().unwrap().ends_with(&format!("{digits}{ending}"))).unwrap()
    };
    let blob = path("");
    let part = blob.with_extension("part");
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&part, &stub.layer[..1000]).unwrap();
    assert!(fetcher.fetch(address, None).await.is_ok());
    assert_eq!(stub.ranges().last().unwrap().as_deref(), Some("bytes=1000-"));
    // Spoilt: told as such once, and not kept.
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&part, [0; 1000]).unwrap();
    assert!(matches!(fetcher.fetch(address, None).await, Err(ImageError::Broken(_))));
    assert!(!part.exists());
    assert!(fetcher.fetch(address, None).await.is_ok());
}

#[tokio::test]
async fn a_token_is_asked_for_and_nobody_sees_the_password() {
    let (stub, address) = Stub::start(|_, request| {
        let authorization =
            request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        if request.uri().path() == "/token" {
            let query = request.uri().query().unwrap();
            assert_eq!(query, "service=stub&scope=repository%3Ateam%2Fapp%3Apull");
            // me:very secret
            let known = authorization.as_deref() == Some("Basic bWU6dmVyeSBzZWNyZXQ=");
            return Some(if known {
                Response::new(Body::from(r#"{"token":"t0ken"}"#))
            } else {
                status(StatusCode::UNAUTHORIZED)
            });
        }
        if authorization.as_deref() == Some("Bearer t0ken") {
            return None;
        }
        let host = request.headers()[header::HOST].to_str().unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="stub""#);
        let builder =
            Response::builder().status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, challenge);
        Some(builder.body(Body::empty()).unwrap())
    })
    .await;
    let fetcher = Fetcher::new(1 << 30);
    assert!(fetcher.fetch(address, Some(credentials())).await.is_ok());
    let asked = stub.asked.load(Ordering::SeqCst);
    assert_eq!(asked, 5, "401, token, manifest, configuration, layer");
    let files = fetcher.files();
    // What is here is for those who showed that they may have it.
    assert!(matches!(fetcher.fetch(address, None).await, Err(ImageError::NotAuthorised { .. })));
    assert_eq!(fetcher.files(), files);
    let shown = format!(
        "{:?}",
        Registry::new(&"a.b/c".parse().unwrap(), Some(credentials()), &Registries::default()).unwrap()
    );
    assert!(!shown.contains("very secret"), "{shown}");
}

#[tokio::test]
async fn another_repository_does_not_give_what_is_here() {
    let (stub, address) = Stub::start(|_, _| None).await;
    let fetcher = Fetcher::new(1 << 30);
    drop(fetcher.fetch(address, None).await.unwrap());
    // A registry of one's own names the digest, and has not got the blob.
    let manifest = stub.manifest.clone();
    let (_, other) = Stub::start(move |stub, request| {
        let manifest =
            request.uri().path().contains("manifests").then(|| Response::new(Body::from(manifest.clone())));
        manifest.or_else(|| stub.is_layer(request).then(|| status(StatusCode::NOT_FOUND)))
    })
    .await;
    assert!(matches!(fetcher.fetch(other, None).await, Err(ImageError::Unknown { .. })));
}

#[tokio::test]
async fn hostile_answers_are_refused() {
    let fetch = async |answer: fn(&Stub, &Request) -> Option<Response>| {
        let (stub, address) = Stub::start(answer).await;
        let error = Fetcher::new(1 << 30).fetch(address, None).await.unwrap_err();
        (error, stub.asked.load(Ordering::SeqCst))
    };
    // A manifest without end.
    let (error, _) = fetch(|_, _| {
        let chunk = Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]));
        Some(Response::new(Body::from_stream(futures::stream::repeat_with(move || {
            Ok::<_, std::io::Error>(chunk.as_ref().unwrap().clone())
        }))))
    })
    .await;
    assert!(matches!(error, ImageError::TooLarge(_)), "{error}");
    // A layer longer than it is said to be, and another one of the same length.
    let (error, _) =
        fetch(|stub, request| stub.is_layer(request).then(|| Response::new(Body::from(vec![0; LAYER + 1]))))
            .await;
    assert!(error.to_string().contains("has more"), "{error}");
    let (error, _) =
        fetch(|stub, request| stub.is_layer(request).then(|| Response::new(Body::from(vec![0; LAYER]))))
            .await;
    assert!(error.to_string().contains("in the place of"), "{error}");
    // Elsewhere: to an address in the clear is where a named registry may lead, to another scheme it may not.
    let (error, asked) = fetch(|_, _| {
        Some(
            Response::builder()
                .status(StatusCode::FOUND)
                .header(header::LOCATION, "ftp://127.0.0.1/x")
                .body(Body::empty())
                .unwrap(),
        )
    })
    .await;
    assert!(
        matches!(error, ImageError::Private { .. } | ImageError::Registry { .. }) && asked == 1,
        "{error} {asked}"
    );
    let (error, asked) = fetch(|_, _| Some(status(StatusCode::FORBIDDEN))).await;
    assert!(matches!(error, ImageError::NotAuthorised { .. }) && asked == 1, "{error}");
    let (error, asked) = fetch(|_, _| Some(status(StatusCode::NOT_FOUND))).await;
    assert!(matches!(error, ImageError::Unknown { .. }) && asked == 1, "{error}");
}

#[tokio::test]
async fn what_passes_is_waited_for_and_limits_hold() {
    let (stub, address) = Stub::start(|stub, _| {
        (stub.asked.load(Ordering::SeqCst) <= 2).then(|| status(StatusCode::SERVICE_UNAVAILABLE))
    })
    .await;
    let fetcher = Fetcher::new(1 << 30);
    assert!(fetcher.fetch(address, None).await.is_ok());
    assert_eq!(stub.asked.load(Ordering::SeqCst), 5);
    let large = fetcher.fetch_limited(address, None, LAYER as u64 - 1).await;
    assert!(matches!(large, Err(ImageError::TooLarge(_))), "{large:?}");
    // Nobody named this one: no request is made.
    let reference = format!("{address}/team/app:1").parse().unwrap();
    let asked = stub.asked.load(Ordering::SeqCst);
    let registry = Registry::new(&reference, None, &Registries::default()).unwrap();
    let refused =
        registry.fetch(&fetcher.cache, Arch::X86_64, FetchLimits { bytes: 1 << 30 }, &|_| Ok(())).await;
    assert!(matches!(refused, Err(ImageError::Private { .. })), "{refused:?}");
    // By a name for such an address neither.
    let reference = format!("localhost:{}/team/app:1", address.port()).parse().unwrap();
    let registry = Registry::new(&reference, None, &Registries::default()).unwrap();
    let refused =
        registry.fetch(&fetcher.cache, Arch::X86_64, FetchLimits { bytes: 1 << 30 }, &|_| Ok(())).await;
    assert!(matches!(refused, Err(ImageError::Private { .. })), "{refused:?}");
    assert_eq!(stub.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn the_cache_is_bounded_and_what_is_open_stays() {
    let (stub, address) = Stub::start(|_, _| None).await;
    let fetcher = Fetcher::new(LAYER as u64 + 100);
    let first = fetcher.fetch(address, None).await.unwrap();
    // For somebody else it is another blob, for which there is room only if the first goes.
    let second = fetcher.fetch(address, Some(credentials())).await.unwrap();
    let bytes: u64 = std::fs::read_dir(fetcher.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= LAYER as u64 + 400, "{bytes}");
    for image in [first, second] {
        assert_eq!(image.layers[0].data.read_all().unwrap(), stub.layer);
    }
}
