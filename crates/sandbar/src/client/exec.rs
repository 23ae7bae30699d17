//! `exec/stream`: a command with its input and output, over a WebSocket.
//!
//! The WebSocket begins as a request of the same HTTP client as all others, so that certificates, proxies and refusals are
//! handled in one place. Closing it is what kills a command.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::{Method, Upgraded};
use sandbar_types::{Id, id};
use serde::{Deserialize, Serialize};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Client, ClientError};

/// What to run.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ExecStart {
    pub(crate) cmd: String,
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_sec: Option<u32>,
}

/// What the command did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExecEvent {
    /// It runs.
    Started,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// It ended. -1: by a signal.
    Exit(i32),
    /// It could not be run, or was lost.
    Failed {
        code: String,
        message: String,
    },
}

/// Sends to the command.
pub(crate) struct ExecInput {
    sink: SplitSink<WebSocketStream<Upgraded>, Message>,
    url: String,
}

/// Receives from the command.
pub(crate) struct ExecOutput {
    stream: SplitStream<WebSocketStream<Upgraded>>,
    url: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientMessage<'a> {
    Start(&'a ExecStart),
    Stdin { data: String, encoding: Encoding },
    CloseStdin,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerMessage {
    Start,
    Stdout(Data),
    Stderr(Data),
    Exit {
        exit_code: i32,
    },
    Error {
        data: String,
        #[serde(default)]
        code: String,
    },
}

/// Output as it travels.
#[derive(Deserialize)]
pub(super) struct Data {
    data: String,
    #[serde(default)]
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) enum Encoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

impl Client {
    /// Starts a command in a sandbox. Dropping both halves kills it.
    pub(crate) async fn exec_stream(
        &self,
        id: Id<id::Sandbox>,
        start: &ExecStart,
    ) -> Result<(ExecInput, ExecOutput), ClientError> {
        let socket = self.web_socket(&format!("/v1/sandboxes/{id}/exec/stream")).await?;
        let (sink, stream) = socket.split();
        let mut input = ExecInput { sink, url: self.url.clone() };
        input.send(&ClientMessage::Start(start)).await?;
        Ok((input, ExecOutput { stream, url: self.url.clone() }))
    }

    /// Opens a WebSocket.
    pub(super) async fn web_socket(&self, path: &str) -> Result<WebSocketStream<Upgraded>, ClientError> {
        let key = generate_key();
        let request = self
            .request(Method::GET, path)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", &key);
        let response = self.open(request).await?;
        let accepted = response
            .headers()
            .get("sec-websocket-accept")
            .is_some_and(|value| value.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
        if !accepted {
            return Err(self.not_understood("it did not open a WebSocket"));
        }
        let upgraded = response.upgrade().await.map_err(self.broken())?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    fn not_understood(&self, what: &str) -> ClientError {
        ClientError::NotUnderstood { url: self.url.clone(), what: what.to_owned() }
    }
}

impl ExecInput {
    /// Writes to the command's standard input.
    pub(crate) async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let (data, encoding) = encoded(bytes);
        self.send(&ClientMessage::Stdin { data, encoding }).await
    }

    /// Ends the command's standard input.
    pub(crate) async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.send(&ClientMessage::CloseStdin).await
    }

    async fn send(&mut self, message: &ClientMessage<'_>) -> Result<(), ClientError> {
        let text = serde_json::to_string(message).expect("strings and numbers can be written as JSON");
        self.sink.send(Message::Text(text.into())).await.map_err(|source| broken(&self.url, source))
    }
}

impl ExecOutput {
    /// What comes next; `None` when the connection ended without telling how the command did.
    pub(crate) async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        loop {
            let text = match self.stream.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                // Pings are answered below us.
                Some(Ok(_)) => continue,
                Some(Err(source)) => return Err(broken(&self.url, source)),
            };
            return event(&text)
                .map(Some)
                .map_err(|what| ClientError::NotUnderstood { url: self.url.clone(), what });
        }
    }
}

fn event(text: &str) -> Result<ExecEvent, String> {
    let message = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(match message {
        ServerMessage::Start => ExecEvent::Started,
        ServerMessage::Stdout(data) => ExecEvent::Stdout(data.bytes()?),
        ServerMessage::Stderr(data) => ExecEvent::Stderr(data.bytes()?),
        ServerMessage::Exit { exit_code } => ExecEvent::Exit(exit_code),
        ServerMessage::Error { data, code } => ExecEvent::Failed { code, message: data },
    })
}

impl Data {
    pub(super) fn bytes(self) -> Result<Vec<u8>, String> {
        match self.encoding {
            Encoding::Utf8 => Ok(self.data.into_bytes()),
            Encoding::Base64 => STANDARD.decode(self.data).map_err(|error| error.to_string()),
        }
    }
}

/// Input as it travels: as text where it is text.
pub(super) fn encoded(bytes: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (STANDARD.encode(bytes), Encoding::Base64),
    }
}

pub(super) fn broken(url: &str, source: tungstenite::Error) -> ClientError {
    ClientError::Broken { url: url.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_message_of_the_contract() {
        for (text, expected) in [
            (r#"{"type":"start","pid":7}"#, ExecEvent::Started),
            (r#"{"type":"stdout","data":"é"}"#, ExecEvent::Stdout("é".into())),
            (r#"{"type":"stderr","data":"/wA=","encoding":"base64"}"#, ExecEvent::Stderr(vec![255, 0])),
            (r#"{"type":"exit","exit_code":-1}"#, ExecEvent::Exit(-1)),
            (
                r#"{"type":"error","data":"no","code":"timeout"}"#,
                ExecEvent::Failed { code: "timeout".into(), message: "no".into() },
            ),
        ] {
            assert_eq!(event(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "{}", r#"{"type":"stdout","data":"%","encoding":"base64"}"#] {
            assert!(event(bad).is_err(), "{bad}");
        }
    }
}
