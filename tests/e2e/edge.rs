//! Ports of sandboxes by name: real servers in real guests, reached as a browser or E2B's clients would.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::{Method, RequestBuilder, Response, Version};
use sandbar_tests::{Platform, Sandbox, wait};
use sandbar_types::guest::AGENT_PORT;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::{Test, tests};

/// A guest's processor is emulated where these tests run.
const LIMIT: Duration = Duration::from_secs(240);
/// What is moved each way: several times what it may grow by, and in a soak as much as people send.
const BYTES: u64 = 200 << 20;
const SOAK_BYTES: u64 = 2 << 30;
const TRANSFER_LIMIT: Duration = Duration::from_secs(3600);
/// By how much the edge's process may grow meanwhile.
const GROWTH_KIB: i64 = 48 << 10;

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_servers_port_is_reached_wherever_it_listens_and_by_whom_it_may_be,
        the_guest_agent_is_reached_by_its_token_and_its_insides_are_not,
        streams_and_websockets_pass_as_they_come,
        bodies_of_any_size_pass_in_little_memory,
        a_sandbox_that_pauses_answers_as_that_and_traffic_resumes_it,
    ]
}

/// The edge, asked as anybody on the internet would ask.
struct Edge<'a> {
    platform: &'a Platform,
    http: reqwest::Client,
}

impl<'a> Edge<'a> {
    fn new(platform: &'a Platform) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        Ok(Self { platform, http })
    }

    /// By plain HTTP, with the headers that E2B's clients send.
    fn request(&self, method: Method, sandbox: &Sandbox, port: u16, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.platform.url()));
        request.header("e2b-sandbox-id", &sandbox.id).header("e2b-sandbox-port", port)
    }

    fn get(&self, sandbox: &Sandbox, port: u16, path: &str) -> RequestBuilder {
        self.request(Method::GET, sandbox, port, path)
    }

    /// Waits until somebody listens, and returns the first answer.
    async fn first(&self, sandbox: &Sandbox, port: u16, path: &str) -> Result<Response> {
        wait::until("the server in the guest listens", LIMIT, async || {
            let response = self.get(sandbox, port, path).send().await?;
            Ok((response.status() != 502).then_some(response))
        })
        .await
    }
}

/// The 32 digits of an id, as E2B's clients write it.
fn e2b(sandbox: &Sandbox) -> String {
    sandbox.id.trim_start_matches("sb-").replace('-', "")
}

async fn refused(request: RequestBuilder, status: u16) -> Result<Value> {
    let response = request.send().await?;
    ensure!(response.status() == status, "{} in place of {status}", response.status());
    Ok(response.json().await?)
}

/// Leaves a command running in the guest.
async fn leave(sandbox: &Sandbox, python: &str) -> Result<()> {
    let write = format!("cat > /tmp/server.py <<'END'\n{python}\nEND");
    sandbox.sh(&write).await?;
    sandbox.sh("setsid nohup python3 /tmp/server.py > /tmp/server.log 2>&1 < /dev/null &").await?;
    Ok(())
}

async fn a_servers_port_is_reached_wherever_it_listens_and_by_whom_it_may_be(
    platform: &Platform,
) -> Result<()> {
    platform.start().await?;
    let edge = Edge::new(platform)?;
    let client = platform.client()?;
    let sandbox = Sandbox::create(&client, &json!({"public_ports": [8000, 8001]})).await?;
    let here = "cd /tmp && echo hello > page && setsid nohup python3 -m http.server";
    for bound in ["8000", "8001 --bind 127.0.0.1", "8002"] {
        sandbox.sh(&format!("{here} {bound} > /dev/null 2>&1 < /dev/null &")).await?;
    }
    for port in [8000, 8001] {
        let response = edge.first(&sandbox, port, "/page").await?;
        ensure!(response.status() == 200, "{port}: {}", response.status());
        ensure!(response.text().await? == "hello\n", "{port}");
    }

    // The third is nobody's but the team's.
    let token = sandbox.made["traffic_access_token"].as_str().context("no token")?;
    for (name, value) in [("x-api-key", client.key().context("no key")?), ("e2b-traffic-access-token", token)]
    {
        let answered = wait::until("the third server listens", LIMIT, async || {
            let response = edge.get(&sandbox, 8002, "/page").header(name, value).send().await?;
            Ok((response.status() == 200).then_some(response))
        });
        ensure!(answered.await?.text().await? == "hello\n", "{name}");
    }
    refused(edge.get(&sandbox, 8002, "/page"), 403).await?;
    refused(edge.get(&sandbox, 8002, "/page").header("x-api-key", format!("e2b_{}", "0".repeat(40))), 403)
        .await?;

    // Nobody listens, and nobody is there.
    let closed =
        refused(edge.get(&sandbox, 8000 + 9, "/").header("e2b-traffic-access-token", token), 502).await?;
    let message = "The sandbox is running but port is not open";
    assert_eq!(closed, json!({"sandboxId": sandbox.id, "message": message, "port": 8009, "code": 502}));

    // By name, over TLS, with HTTP/2 and HTTP/1.1, under the authority that `up` has made.
    let authority = std::fs::read(platform.data_dir().join("tls/ca.pem"))?;
    let authority = reqwest::Certificate::from_pem(&authority)?;
    let domain = sandbox.made["domain"].as_str().context("no domain")?;
    let name = format!("8001-{}.{}", e2b(&sandbox), domain.split(':').next().unwrap_or(domain));
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([authority.clone()]);
        let builder = builder.resolve(&name, platform.https_address());
        let builder = if version == Version::HTTP_11 { builder.http1_only() } else { builder };
        let http = builder.timeout(LIMIT).build()?;
        let response = http.get(format!("https://8001-{}.{domain}/page", e2b(&sandbox))).send().await?;
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert_eq!(response.text().await?, "hello\n");
    }

    sandbox.destroy().await?;
    let gone = refused(edge.get(&sandbox, 8000, "/page"), 502).await?;
    assert_eq!(gone, json!({"sandboxId": sandbox.id, "message": "The sandbox was not found", "code": 502}));
    Ok(())
}

async fn the_guest_agent_is_reached_by_its_token_and_its_insides_are_not(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let edge = Edge::new(platform)?;
    let sandbox = platform.sandbox().await?;
    let token = sandbox.made["access_token"].as_str().context("no token")?;
    let list = || edge.request(Method::POST, &sandbox, AGENT_PORT, "/process.Process/List").json(&json!({}));
    refused(list(), 401).await?;
    refused(list().header("x-access-token", "x"), 401).await?;
    let listed: Value =
        list().header("x-access-token", token).send().await?.error_for_status()?.json().await?;
    ensure!(listed.is_object(), "{listed}");
    let health = edge.get(&sandbox, AGENT_PORT, "/health").send().await?;
    assert_eq!(health.status(), 204);
    // Files, as E2B's clients move them.
    let file = |method| {
        edge.request(method, &sandbox, AGENT_PORT, "/files?path=/home/user/a").header("x-access-token", token)
    };
    let content = vec![7_u8; 1 << 20];
    let upload = file(Method::POST).header("content-type", "application/octet-stream").body(content.clone());
    upload.send().await?.error_for_status()?;
    ensure!(file(Method::GET).send().await?.bytes().await? == content, "the file came back otherwise");
    for (method, path) in
        [(Method::POST, "/init"), (Method::POST, "/snapshot/prepare"), (Method::GET, "/connect?port=22")]
    {
        let told =
            refused(edge.request(method, &sandbox, AGENT_PORT, path).header("x-access-token", token), 404)
                .await?;
        assert_eq!(told["code"], 404, "{path}");
    }
    // It still serves.
    assert_eq!(sandbox.sh("echo on").await?, "on");
    Ok(())
}

/// Counts by server-sent events, each when it is told to; echoes by WebSocket.
const STREAMS: &str = include_str!("../guest/streams.py");

async fn streams_and_websockets_pass_as_they_come(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let edge = Edge::new(platform)?;
    let sandbox = Sandbox::create(&platform.client()?, &json!({"public_traffic": true})).await?;
    leave(&sandbox, STREAMS).await?;
    edge.first(&sandbox, 9000, "/").await?;

    let mut events = edge.get(&sandbox, 9000, "/events").send().await?;
    for number in 0..3 {
        if number > 0 {
            edge.get(&sandbox, 9000, "/go").send().await?.error_for_status()?;
        }
        let event = events.chunk().await?.context("the stream ended")?;
        assert_eq!(event, format!("data: {number}\n\n"));
    }
    assert_eq!(events.chunk().await?, None);

    let mut request = format!("ws://127.0.0.1:{}/ws", platform.port()).into_client_request()?;
    let host = format!("9000-{}.example.com", e2b(&sandbox));
    request.headers_mut().insert("host", host.parse()?);
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", platform.port())).await?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    for size in [0, 5, 1000] {
        socket.send(vec![9; size].into()).await?;
        let back = socket.next().await.context("the socket ended")??;
        ensure!(back.into_data() == vec![9; size], "{size} bytes came back otherwise");
    }
    // What is open is cut with the sandbox.
    sandbox.destroy().await?;
    let cut = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(LIMIT, cut).await.context("the socket outlives its sandbox")
}

/// Takes and gives as many bytes as it is asked to.
const BULK: &str = r"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        left = int(self.path[1:] or 0)
        self.send_response(200); self.send_header('Content-Length', str(left)); self.end_headers()
        block = bytes(1 << 20)
        while left: left -= self.wfile.write(block[:left])
    def do_PUT(self):
        left = size = int(self.headers['Content-Length'])
        while left: left -= len(self.rfile.read(min(left, 1 << 20)))
        answer = str(size).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(answer))); self.end_headers()
        self.wfile.write(answer)
http.server.ThreadingHTTPServer(('', 9000), Handler).serve_forever()
";

async fn bodies_of_any_size_pass_in_little_memory(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let edge = Edge::new(platform)?;
    let sandbox = Sandbox::create(&platform.client()?, &json!({"public_traffic": true})).await?;
    leave(&sandbox, BULK).await?;
    edge.first(&sandbox, 9000, "/1").await?.bytes().await?;
    let bytes = if std::env::var_os("SANDBAR_SOAK").is_some() { SOAK_BYTES } else { BYTES };
    let before = rss_kib(platform)?;

    let download = edge.get(&sandbox, 9000, &format!("/{bytes}")).timeout(TRANSFER_LIMIT);
    let mut response = download.send().await?;
    let (mut got, mut most) = (0, before);
    while let Some(chunk) = response.chunk().await? {
        let megabytes = got >> 20;
        got += chunk.len() as u64;
        if got >> 20 != megabytes {
            most = most.max(rss_kib(platform)?);
        }
    }
    assert_eq!(got, bytes);

    let block = bytes_of(1 << 20);
    let blocks = futures::stream::iter((0..bytes >> 20).map(move |_| Ok::<_, std::io::Error>(block.clone())));
    let upload = edge.request(Method::PUT, &sandbox, 9000, "/").header("content-length", bytes);
    let answered = upload.timeout(TRANSFER_LIMIT).body(reqwest::Body::wrap_stream(blocks)).send();
    tokio::pin!(answered);
    let response = loop {
        tokio::select! {
            answered = &mut answered => break answered?,
            () = tokio::time::sleep(Duration::from_millis(20)) => most = most.max(rss_kib(platform)?),
        }
    };
    assert_eq!(response.text().await?, bytes.to_string());
    ensure!(most - before < GROWTH_KIB, "it grew from {before} KiB to {most} KiB");
    Ok(())
}

fn bytes_of(length: usize) -> Vec<u8> {
    vec![0; length]
}

/// What the process with the edge has in memory.
fn rss_kib(platform: &Platform) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", platform.up_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Answers with a number that it has drawn, and counts.
const NONCE: &str = r"
import http.server, secrets
class Handler(http.server.BaseHTTPRequestHandler):
    nonce, count = secrets.token_hex(8), 0
    def log_message(self, *args): pass
    def do_GET(self):
        Handler.count += 1
        self.send_response(200); self.end_headers(); self.wfile.write(f'{self.nonce} {self.count}'.encode())
http.server.ThreadingHTTPServer(('', 9000), Handler).serve_forever()
";

async fn a_sandbox_that_pauses_answers_as_that_and_traffic_resumes_it(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let edge = Edge::new(platform)?;
    let client = platform.client()?;
    let both = [true, false].map(async |auto_resume| {
        Sandbox::create(&client, &json!({"public_traffic": true, "auto_resume": auto_resume})).await
    });
    let [wakes, sleeps] = both;
    let (wakes, sleeps) = (wakes.await?, sleeps.await?);
    for sandbox in [&wakes, &sleeps] {
        leave(sandbox, NONCE).await?;
    }
    let before = edge.first(&wakes, 9000, "/").await?.text().await?;
    edge.first(&sleeps, 9000, "/").await?;
    for sandbox in [&wakes, &sleeps] {
        client.post(&format!("/v1/sandboxes/{}/pause", sandbox.id), &json!({})).await?.expect(200)?;
    }

    let paused = refused(edge.get(&sleeps, 9000, "/"), 502).await?;
    assert_eq!(paused, json!({"sandboxId": sleeps.id, "message": "The sandbox was not found", "code": 502}));
    assert_eq!(sleeps.status().await?, "paused");

    let (nonce, count) = before.split_once(' ').context("no nonce")?;
    let answers = futures::future::try_join_all((0..4).map(|_| async {
        anyhow::Ok(edge.get(&wakes, 9000, "/").send().await?.error_for_status()?.text().await?)
    }));
    for answer in answers.await? {
        ensure!(answer.starts_with(nonce), "another server answers: {answer} in place of {before}");
    }
    // The same server goes on, and has heard of each of them once.
    let last = edge.get(&wakes, 9000, "/").send().await?.text().await?;
    assert_eq!(last, format!("{nonce} {}", count.parse::<u32>()? + 5));
    assert_eq!(wakes.status().await?, "running");
    Ok(())
}
