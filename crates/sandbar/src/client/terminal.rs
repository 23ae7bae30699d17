//! `pty` and `processes`: terminals in a sandbox, and what runs in it.

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::{Method, Upgraded};
use sandbar_types::{Id, id};
use serde::{Deserialize, Serialize};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::exec::{Data, Encoding, broken, encoded};
use super::{Client, ClientError};

/// What to do with a terminal first.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum TerminalOpening {
    /// Open one, with a login shell where no command is given.
    Start {
        #[serde(skip_serializing_if = "Option::is_none")]
        cmd: Option<String>,
        args: Vec<String>,
        cols: u16,
        rows: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// Come back to one, with all that is kept of what it showed.
    Connect { tag: String, from: u64 },
}

/// What a terminal did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TerminalEvent {
    /// It runs.
    Started {
        tag: Option<String>,
    },
    Output(Vec<u8>),
    /// It ended. -1: by a signal.
    Exit(i32),
    /// It could not be opened, or was lost.
    Failed {
        code: String,
        message: String,
    },
}

/// Sends to the terminal.
pub(crate) struct TerminalInput {
    sink: SplitSink<WebSocketStream<Upgraded>, Message>,
    url: String,
}

/// Receives from the terminal.
pub(crate) struct TerminalOutput {
    stream: SplitStream<WebSocketStream<Upgraded>>,
    url: String,
}

/// A process that was started from outside and runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<String>,
    pub(crate) cmd: String,
    pub(crate) args: Vec<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientMessage {
    Input { data: String, encoding: Encoding },
    Resize { cols: u16, rows: u16 },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerMessage {
    Start {
        #[serde(default)]
        tag: Option<String>,
    },
    Output(Data),
    Exit {
        exit_code: i32,
    },
    Error {
        data: String,
        #[serde(default)]
        code: String,
    },
}

impl Client {
    /// Opens a terminal in a sandbox, or comes back to one. It runs on when both halves are dropped.
    pub(crate) async fn terminal(
        &self,
        id: Id<id::Sandbox>,
        opening: &TerminalOpening,
    ) -> Result<(TerminalInput, TerminalOutput), ClientError> {
        let socket = self.web_socket(&format!("/v1/sandboxes/{id}/pty")).await?;
        let (sink, stream) = socket.split();
        let mut input = TerminalInput { sink, url: self.url.clone() };
        input.send(opening).await?;
        Ok((input, TerminalOutput { stream, url: self.url.clone() }))
    }

    /// What runs in a sandbox.
    pub(crate) async fn processes(&self, id: Id<id::Sandbox>) -> Result<Vec<Process>, ClientError> {
        #[derive(Deserialize)]
        struct Processes {
            processes: Vec<Process>,
        }
        let request = self.request(Method::GET, &format!("/v1/sandboxes/{id}/processes"));
        let Processes { processes } = self.call(request).await?.json().await.map_err(self.broken())?;
        Ok(processes)
    }
}

impl TerminalInput {
    /// Types.
    pub(crate) async fn input(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let (data, encoding) = encoded(bytes);
        self.send(&ClientMessage::Input { data, encoding }).await
    }

    pub(crate) async fn resize(&mut self, cols: u16, rows: u16) -> Result<(), ClientError> {
        self.send(&ClientMessage::Resize { cols, rows }).await
    }

    /// Says that nothing more comes. All that was typed has arrived when the output ends.
    pub(crate) async fn close(&mut self) -> Result<(), ClientError> {
        self.sink.close().await.map_err(|source| broken(&self.url, source))
    }

    async fn send(&mut self, message: &impl Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(message).expect("strings and numbers can be written as JSON");
        self.sink.send(Message::Text(text.into())).await.map_err(|source| broken(&self.url, source))
    }
}

impl TerminalOutput {
    /// What comes next; `None` when the connection ended without telling how the terminal did.
    pub(crate) async fn next(&mut self) -> Result<Option<TerminalEvent>, ClientError> {
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

fn event(text: &str) -> Result<TerminalEvent, String> {
    let message = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(match message {
        ServerMessage::Start { tag } => TerminalEvent::Started { tag },
        ServerMessage::Output(data) => TerminalEvent::Output(data.bytes()?),
        ServerMessage::Exit { exit_code } => TerminalEvent::Exit(exit_code),
        ServerMessage::Error { data, code } => TerminalEvent::Failed { code, message: data },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_message_of_the_contract() {
        let tag = Some("pty-1".to_owned());
        for (text, expected) in [
            (r#"{"type":"start","pid":7,"tag":"pty-1"}"#, TerminalEvent::Started { tag }),
            (r#"{"type":"output","data":"é","offset":0}"#, TerminalEvent::Output("é".into())),
            (
                r#"{"type":"output","data":"/wA=","encoding":"base64","offset":9,"dropped":2}"#,
                TerminalEvent::Output(vec![255, 0]),
            ),
            (r#"{"type":"exit","exit_code":-1}"#, TerminalEvent::Exit(-1)),
            (
                r#"{"type":"error","data":"no","code":"not_found"}"#,
                TerminalEvent::Failed { code: "not_found".into(), message: "no".into() },
            ),
        ] {
            assert_eq!(event(text).unwrap(), expected, "{text}");
        }
        assert!(event("{}").is_err());
    }
}
