//! A command over the WebSocket `exec/stream`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::Client;

/// A message that takes longer than this does not come.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);

/// An open WebSocket with a command that was asked for.
#[derive(Debug)]
pub struct ExecSocket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// How a streamed command ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// What it wrote to standard output from the moment it was read.
    pub stdout: Vec<u8>,
    /// The same of standard error.
    pub stderr: Vec<u8>,
    /// Its exit code, where it ended by itself or by a signal.
    pub exit_code: Option<i64>,
    /// The error's code and text, where the stream ended with one.
    pub error: Option<(String, String)>,
}

impl ExecSocket {
    /// Opens the WebSocket and asks for a command. `start` is the start message without its type.
    pub async fn start(client: &Client, id: &str, mut start: Value) -> Result<Self> {
        let mut socket = Self::open(client, id).await?;
        start["type"] = "start".into();
        socket.send(&start).await?;
        Ok(socket)
    }

    /// Opens the WebSocket and says nothing.
    pub async fn open(client: &Client, id: &str) -> Result<Self> {
        Self::open_at(client, &format!("/v1/sandboxes/{id}/exec/stream")).await
    }

    /// Opens another WebSocket, whose messages are of the same kind, and says nothing.
    pub async fn open_at(client: &Client, path: &str) -> Result<Self> {
        let url = client.base().replacen("http", "ws", 1);
        let mut request = format!("{url}{path}").into_client_request()?;
        if let Some(key) = client.key() {
            request.headers_mut().insert("x-api-key", key.parse()?);
        }
        let (socket, _) =
            tokio_tungstenite::connect_async(request).await.context("the WebSocket was refused")?;
        Ok(Self(socket))
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(message.to_string())).await?)
    }

    /// Sends bytes to the command's standard input.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<()> {
        self.send(&json!({"type": "stdin", "data": STANDARD.encode(data), "encoding": "base64"})).await
    }

    /// The next message, or none at the end.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            let message =
                tokio::time::timeout(MESSAGE_TIMEOUT, self.0.next()).await.context("no message came")?;
            match message.transpose()? {
                Some(Message::Text(text)) => return Ok(Some(serde_json::from_str(&text)?)),
                Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Some(Message::Close(_)) | None => return Ok(None),
                Some(Message::Binary(_)) => bail!("a binary message"),
            }
        }
    }

    /// The command's process id in the guest: its first message.
    pub async fn pid(&mut self) -> Result<i64> {
        let first = self.next().await?.context("the stream ended before the command started")?;
        anyhow::ensure!(first["type"] == "start", "not a start: {first}");
        first["pid"].as_i64().context("a start without a pid")
    }

    /// Reads until standard output ends with `text`.
    pub async fn read_until(&mut self, text: &str) -> Result<()> {
        let mut stdout = Vec::new();
        while !stdout.ends_with(text.as_bytes()) {
            let message = self.next().await?.context("the stream ended")?;
            anyhow::ensure!(message["type"] == "stdout", "not output: {message}");
            stdout.extend(data(&message)?);
        }
        Ok(())
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Result<Ending> {
        let mut ending = Ending::default();
        while let Some(message) = self.next().await? {
            match message["type"].as_str() {
                Some("start") => {}
                Some("stdout") => ending.stdout.extend(data(&message)?),
                Some("stderr") => ending.stderr.extend(data(&message)?),
                Some("exit") => ending.exit_code = message["exit_code"].as_i64(),
                Some("error") => {
                    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
                    ending.error = Some((text("code"), text("data")));
                }
                _ => bail!("an unknown message: {message}"),
            }
        }
        Ok(ending)
    }

    /// Leaves in good order.
    pub async fn close(mut self) -> Result<()> {
        Ok(self.0.close(None).await?)
    }
}

/// The bytes of a message with output.
pub fn data(message: &Value) -> Result<Vec<u8>> {
    let data = message["data"].as_str().context("output without data")?;
    match message["encoding"].as_str() {
        Some("base64") => Ok(STANDARD.decode(data)?),
        _ => Ok(data.as_bytes().to_vec()),
    }
}
