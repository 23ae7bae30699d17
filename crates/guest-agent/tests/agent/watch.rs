//! Watches over the wire, streamed and polled.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use connectrpc::client::{CallOptions, HttpClient, ServerStream};
use connectrpc::{ConnectError, ErrorCode};
use http::{Method, StatusCode};
use sandbar_proto::filesystem::watch_dir_response::Event;
use sandbar_proto::filesystem::{
    CreateWatcherRequest, EntryInfo, EventType, FilesystemClient, FilesystemEvent, GetWatcherEventsRequest,
    RemoveWatcherRequest, WatchDirRequest, WatchDirResponse, WatchDirResponseView,
};

use crate::files::{get, put};
use crate::harness::Agent;

use EventType::{
    EVENT_TYPE_CHMOD as CHMOD, EVENT_TYPE_CREATE as CREATE, EVENT_TYPE_REMOVE as REMOVE,
    EVENT_TYPE_WRITE as WRITE,
};

type Told = (String, EventType);

fn told(event: &FilesystemEvent) -> Told {
    (event.name.clone(), event.r#type.as_known().expect("a known type"))
}

fn events<const N: usize>(events: [(&str, EventType); N]) -> Vec<Told> {
    events.map(|(name, kind)| (name.to_owned(), kind)).to_vec()
}

/// A polled watcher.
pub(crate) struct Polled {
    rpc: FilesystemClient<HttpClient>,
    pub(crate) id: String,
}

impl Polled {
    pub(crate) async fn create(agent: &Agent, request: CreateWatcherRequest) -> Result<Self, ConnectError> {
        let rpc = agent.filesystem();
        let id = rpc.create_watcher(request).await?.into_owned().watcher_id;
        Ok(Self { rpc, id })
    }

    pub(crate) async fn events(&self) -> Result<Vec<FilesystemEvent>, ConnectError> {
        let request = GetWatcherEventsRequest { watcher_id: self.id.clone(), ..Default::default() };
        Ok(self.rpc.get_watcher_events(request).await?.into_owned().events)
    }

    pub(crate) async fn told(&self) -> Vec<Told> {
        self.events().await.unwrap().iter().map(told).collect()
    }

    pub(crate) async fn remove(&self) -> Result<(), ConnectError> {
        let request = RemoveWatcherRequest { watcher_id: self.id.clone(), ..Default::default() };
        self.rpc.remove_watcher(request).await.map(drop)
    }
}

pub(crate) fn polled(path: String, recursive: bool) -> CreateWatcherRequest {
    CreateWatcherRequest { path, recursive, ..Default::default() }
}

pub(crate) fn streamed(path: String, recursive: bool) -> WatchDirRequest {
    WatchDirRequest { path, recursive, ..Default::default() }
}

/// A streamed watch that has started.
pub(crate) struct Stream<B>(ServerStream<B, WatchDirResponseView<'static>>);

pub(crate) async fn stream(
    agent: &Agent,
    request: WatchDirRequest,
    options: CallOptions,
) -> Result<
    Stream<impl http_body::Body<Data = bytes::Bytes, Error: std::error::Error + Send + Sync> + Unpin + use<>>,
    ConnectError,
> {
    let mut stream = Stream(agent.filesystem().watch_dir_with_options(request, options).await?);
    match stream.next().await? {
        Some(Event::Start(_)) => Ok(stream),
        other => panic!("{other:?} before the start"),
    }
}

impl<B> Stream<B>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// The next event, or the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ConnectError> {
        let Some(message) = self.0.message::<WatchDirResponse>().await? else { return Ok(None) };
        Ok(Some(message.to_owned_message().event.expect("an event")))
    }

    pub(crate) async fn told(&mut self) -> Told {
        match self.next().await.unwrap() {
            Some(Event::Filesystem(event)) => told(&event),
            other => panic!("{other:?} is not an event of a file"),
        }
    }

    /// Reads up to an event, and returns all to there.
    pub(crate) async fn told_until(&mut self, name: &str, kind: EventType) -> Vec<Told> {
        let mut all = Vec::new();
        while all.last() != Some(&(name.to_owned(), kind)) {
            all.push(self.told().await);
        }
        all
    }
}

#[tokio::test]
async fn a_new_file_is_exactly_three_events() {
    let agent = Agent::start().await;
    fs::create_dir(agent.path("folder")).unwrap();
    let watcher = Polled::create(&agent, polled(agent.at("folder"), false)).await.unwrap();
    let mut stream =
        stream(&agent, streamed(agent.at("folder"), false), CallOptions::default()).await.unwrap();
    for (name, content) in [("small", vec![b'x'; 10]), ("large", vec![b'x'; 10 << 20]), ("empty", vec![])] {
        assert_eq!(put(&agent, &agent.at(&format!("folder/{name}")), content).await.status, StatusCode::OK);
        let expected = events([(name, CREATE), (name, CHMOD), (name, WRITE)]);
        assert_eq!(watcher.told().await, expected);
        for event in expected {
            assert_eq!(stream.told().await, event);
        }
    }
    // To write it again is to write it, whatever becomes of its length.
    for content in [vec![b'x'; 20], vec![b'x'; 10], vec![b'x'; 10 << 20]] {
        put(&agent, &agent.at("folder/small"), content).await;
        assert_eq!(watcher.told().await, events([("small", WRITE)]));
    }
    fs::remove_file(agent.path("folder/small")).unwrap();
    assert_eq!(watcher.told().await, events([("small", REMOVE)]));
    for (name, kind) in stream.told_until("small", REMOVE).await.split_last().unwrap().1 {
        assert_eq!((name.as_str(), *kind), ("small", WRITE));
    }
    // The upload's content was complete when its name appeared.
    assert_eq!(get(&agent, &agent.at("folder/large")).await.body.len(), 10 << 20);
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() {
    let agent = Agent::start().await;
    fs::write(agent.path("file"), "").unwrap();
    for (name, code) in [("missing", ErrorCode::NotFound), ("file", ErrorCode::InvalidArgument)] {
        let error = Polled::create(&agent, polled(agent.at(name), true)).await.err().unwrap();
        assert_eq!(error.code, code);
        let error =
            stream(&agent, streamed(agent.at(name), true), CallOptions::default()).await.err().unwrap();
        assert_eq!(error.code, code);
    }
    fs::set_permissions(agent.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let rpc = FilesystemClient::new(
        HttpClient::plaintext(),
        agent.config().with_default_header("authorization", "Basic bm9ib2R5Og=="),
    );
    let error = rpc.create_watcher(polled(agent.at(""), false)).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::PermissionDenied);
    rpc.create_watcher(polled("/usr".into(), false)).await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_does_not_exist_is_not_found() {
    let agent = Agent::start().await;
    let watcher = Polled::create(&agent, polled(agent.at(""), false)).await.unwrap();
    assert_eq!(agent.inotify_queues(), 1);
    watcher.remove().await.unwrap();
    let error = watcher.events().await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_deref()),
        (ErrorCode::NotFound, Some(format!("watcher with id '{}' not found", watcher.id).as_str()))
    );
    assert_eq!(watcher.remove().await.unwrap_err().code, ErrorCode::NotFound);
    agent.until_queues(0).await;
}

#[tokio::test]
async fn entries_come_with_events_while_they_are_there() {
    let agent = Agent::start().await;
    fs::create_dir(agent.path("folder")).unwrap();
    let request = CreateWatcherRequest { include_entry: true, ..polled(agent.at("folder"), false) };
    let watcher = Polled::create(&agent, request).await.unwrap();
    let metadata = [("content-type", "application/octet-stream"), ("x-metadata-k", "v")];
    let url = format!("/files?path={}", agent.at("folder/file"));
    agent.call(Method::POST, &url, &metadata, "12345").await;
    let events = watcher.events().await.unwrap();
    assert_eq!(events.len(), 3);
    for event in events {
        let entry: EntryInfo = event.entry.into_option().expect("an entry");
        assert_eq!((entry.name.as_str(), entry.path, entry.size), ("file", agent.at("folder/file"), 5));
        assert_eq!(entry.metadata.get("k").map(String::as_str), Some("v"));
    }
    fs::remove_file(agent.path("folder/file")).unwrap();
    let events = watcher.events().await.unwrap();
    assert!(events.len() == 1 && events[0].entry.is_unset(), "{events:?}");
}

#[tokio::test]
async fn a_stream_says_that_it_lives_and_ends_in_time() {
    let agent = Agent::start().await;
    let options = CallOptions::default().with_header("keepalive-ping-interval", "1");
    let mut quiet = stream(&agent, streamed(agent.at(""), false), options).await.unwrap();
    assert!(matches!(quiet.next().await.unwrap(), Some(Event::Keepalive(_))));

    let options = CallOptions::default().with_timeout(std::time::Duration::from_millis(500));
    // On a busy machine the time may be over before the start has come.
    let error = match stream(&agent, streamed(agent.at(""), false), options).await {
        Ok(mut short) => short.next().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
}

#[tokio::test]
async fn a_stream_that_its_reader_leaves_frees_its_watch() {
    let agent = Agent::start().await;
    let left = stream(&agent, streamed("/usr/share".into(), true), CallOptions::default()).await.unwrap();
    let mut kept = stream(&agent, streamed(agent.at(""), false), CallOptions::default()).await.unwrap();
    assert_eq!(agent.inotify_queues(), 2);
    drop(left);
    agent.until_queues(1).await;
    fs::write(agent.path("file"), "").unwrap();
    assert_eq!(kept.told().await, ("file".to_owned(), CREATE));
}

#[tokio::test]
async fn a_stream_ends_when_its_folder_does() {
    let agent = Agent::start().await;
    fs::create_dir(agent.path("folder")).unwrap();
    let mut watched =
        stream(&agent, streamed(agent.at("folder"), true), CallOptions::default()).await.unwrap();
    let watcher = Polled::create(&agent, polled(agent.at("folder"), true)).await.unwrap();
    fs::remove_dir(agent.path("folder")).unwrap();
    assert_eq!(watched.told().await, (".".to_owned(), REMOVE));
    assert!(watched.next().await.unwrap().is_none());
    assert_eq!(watcher.told().await, events([(".", REMOVE)]));
    assert_eq!(watcher.told().await, []);
}

#[tokio::test]
async fn watchers_are_bounded_in_number() {
    const WATCHERS_MAX: usize = 96;
    let agent = Agent::start().await;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS_MAX {
        watchers.push(Polled::create(&agent, polled(agent.at(""), false)).await.unwrap());
    }
    let error = Polled::create(&agent, polled(agent.at(""), false)).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::ResourceExhausted);
    let error = stream(&agent, streamed(agent.at(""), false), CallOptions::default()).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::ResourceExhausted);
    watchers[0].remove().await.unwrap();
    // Its place is free once its task has let go of it.
    while let Err(error) = stream(&agent, streamed(agent.at(""), false), CallOptions::default()).await {
        assert_eq!(error.code, ErrorCode::ResourceExhausted);
    }
}
