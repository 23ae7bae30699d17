//! Tells the host that the agent serves, so that nobody has to poll for it.
//!
//! One connection to the gateway's port `READY_PORT`, one line of JSON, and its end:
//!
//! - `{"event":"ready","boot_id":…,"version":…}` from the first agent of a boot. Whoever boots a guest waits for it.
//! - `{"event":"restarted",…,"reason":"was killed by signal 9"}` from an agent that init had to start again, with how the one
//!   before ended. What that one was doing for its callers has ended with it; the processes run on. The host of a sandbox listens while it
//!   runs: an agent that has lost its token is given it again.
//!
//! What ends the whole guest (a panic of its kernel, an end of its init, a reset) ends its virtual machine, and the
//! host sees the end of that process: no push could be surer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::state::Start;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// A host that does not listen for a minute is not waiting for this guest.
const ATTEMPTS: u32 = 600;

#[derive(Serialize)]
struct Report<'a> {
    event: &'static str,
    boot_id: &'a str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Sends one line of JSON to the host and closes. The first agent of a boot keeps trying for about a minute, since
/// somebody waits for it; a restarted one tries once.
pub async fn push(gateway: IpAddr, port: u16, start: Start, boot_id: &str, predecessor: Option<&str>) {
    let (event, attempts) = match start {
        Start::First => ("ready", ATTEMPTS),
        Start::Again => ("restarted", 1),
    };
    let report = Report { event, boot_id, version: env!("CARGO_PKG_VERSION"), reason: predecessor };
    let mut line = match serde_json::to_vec(&report) {
        Ok(line) => line,
        Err(error) => return tracing::error!(%error, "cannot encode the ready report"),
    };
    line.push(b'\n');
    let host = SocketAddr::new(gateway, port);
    for attempt in 1..=attempts {
        match send(host, &line).await {
            Ok(()) => return,
            Err(error) if attempt == attempts => {
                tracing::warn!(%host, %error, event, "the host did not take the report");
            }
            Err(_) => sleep(RETRY_EVERY).await,
        }
    }
}

async fn send(host: SocketAddr, line: &[u8]) -> std::io::Result<()> {
    let mut stream = timeout(CONNECT_LIMIT, TcpStream::connect(host)).await??;
    stream.write_all(line).await?;
    stream.shutdown().await
}
