//! What the edge costs: a request to a server in a sandbox through it, and the same straight to the guest's address.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::RequestBuilder;

use crate::platform::Platform;
use crate::report::{Row, Samples};

/// A server that keeps connections, so that neither way pays for a new one.
const SERVER: &str = r"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = 1 << 16
    def log_message(self, *args): pass
    def do_GET(self):
        left = int(self.path[1:])
        self.send_response(200); self.send_header('Content-Length', str(left)); self.end_headers()
        block = memoryview(bytes(1 << 20))
        while left: left -= self.wfile.write(block[:left])
        self.wfile.flush()
http.server.ThreadingHTTPServer(('', PORT), Handler).serve_forever()
";
const PORT: u16 = 9000;
/// Moved in one measurement of throughput.
const BYTES: usize = 32 << 20;
/// Requests for one byte to each transfer.
const REQUESTS: u32 = 20;
/// A guest under emulation takes its time to start an interpreter.
const LISTENS_WITHIN: Duration = Duration::from_secs(120);

/// Measures both, in turns.
pub(crate) async fn edge(platform: &Platform, rounds: u32) -> Result<Vec<Row>> {
    let sandbox = platform.create().await?;
    let script = SERVER.replace("PORT", &PORT.to_string());
    let start = format!(
        "cat > /tmp/server.py <<'END'\n{script}\nEND\nsetsid nohup python3 /tmp/server.py > /dev/null 2>&1 < /dev/null &"
    );
    platform.sh(&sandbox.id, &start).await?;
    let straight = |bytes: usize| platform.http().get(format!("http://{}:{PORT}/{bytes}", sandbox.host_ip));
    let through = |bytes: usize| platform.get_port(&sandbox.id, PORT, &format!("/{bytes}"));

    let started = Instant::now();
    while straight(1).send().await.is_err() {
        ensure!(started.elapsed() < LISTENS_WITHIN, "the server in the guest does not listen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut latency = [Samples::default(), Samples::default()];
    let mut throughput = latency.clone();
    for round in 0..=rounds {
        for _ in 0..REQUESTS {
            let took = [fetch(through(1), 1).await?, fetch(straight(1), 1).await?];
            // The first round is not counted: the guest's code is translated then.
            if round > 0 {
                for (samples, took) in latency.iter_mut().zip(took) {
                    samples.push(took.as_secs_f64() * 1000.0);
                }
            }
        }
        let took = [fetch(through(BYTES), BYTES).await?, fetch(straight(BYTES), BYTES).await?];
        if round > 0 {
            for (samples, took) in throughput.iter_mut().zip(took) {
                #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
                samples.push(BYTES as f64 / 1e6 / took.as_secs_f64());
            }
        }
        eprint!("\rthe edge: {round}/{rounds} ");
    }
    eprintln!();
    platform.destroy(&sandbox.id).await?;
    let against = "the same request straight to the guest";
    Ok(vec![
        Row::new("proxy_latency", "ms", &latency[0], against, &latency[1]),
        Row::new("proxy_throughput", "MB/s", &throughput[0], against, &throughput[1]),
    ])
}

async fn fetch(request: RequestBuilder, bytes: usize) -> Result<Duration> {
    let started = Instant::now();
    let mut response = request.send().await?.error_for_status()?;
    let mut got = 0;
    while let Some(chunk) = response.chunk().await? {
        got += chunk.len();
    }
    ensure!(got == bytes, "{got} bytes in place of {bytes}");
    Ok(started.elapsed())
}
