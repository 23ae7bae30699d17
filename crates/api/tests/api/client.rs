//! A client of the API: what it sends is bytes on a socket.

use futures::{SinkExt as _, StreamExt as _};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A client with a credential, or without.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    credential: Option<(&'static str, String)>,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null where there was none, or none that is JSON.
    pub(crate) body: Value,
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: String) -> Self {
        Self { http: reqwest::Client::new(), address, credential: None }
    }

    /// Where an answer points is the test's to look at.
    pub(crate) fn without_redirects(&self) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self { http, ..self.clone() }
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { credential: Some(("X-API-Key", key.to_owned())), ..self.clone() }
    }

    pub(crate) fn with_bearer(&self, token: &str) -> Self {
        Self { credential: Some(("Authorization", format!("Bearer {token}"))), ..self.clone() }
    }

    pub(crate) fn with_host_token(&self, token: &str) -> Self {
        Self { credential: Some(("X-Host-Token", token.to_owned())), ..self.clone() }
    }

    pub(crate) fn anonymous(&self) -> Self {
        Self { credential: None, ..self.clone() }
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.address));
        match &self.credential {
            Some((name, value)) => request.header(*name, value),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PUT, path).json(&body)).await
    }

    /// Makes a sandbox of which only the id matters.
    pub(crate) async fn sandbox(&self) -> String {
        let answer = self.post("/v1/sandboxes", serde_json::json!({})).await.expect(201);
        answer["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn status_of(&self, id: &str) -> String {
        let body = self.get(&format!("/v1/sandboxes/{id}")).await.expect(200);
        body["status"].as_str().unwrap().to_owned()
    }

    /// Opens a WebSocket; the status where the server refuses.
    pub(crate) async fn open(&self, path: &str) -> Result<Socket, u16> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some((name, value)) = &self.credential {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap().to_vec();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    Answer { status, headers, body, bytes }
}

impl Answer {
    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The message of a refusal that must have this code; its form is checked.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.body["error"]["code"].as_str()), (status, Some(code)), "{}", self.body);
        let id = self.headers["x-request-id"].to_str().unwrap();
        assert_eq!(self.body["error"]["request_id"], id);
        let message = self.body["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty());
        message.to_owned()
    }

    pub(crate) fn next_cursor(&self) -> Option<String> {
        self.headers.get("x-next-cursor").map(|value| value.to_str().unwrap().to_owned())
    }
}

/// An open WebSocket.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(crate) async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    pub(crate) async fn say_raw(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// The next message; null once the server closed.
    pub(crate) async fn hear(&mut self) -> Value {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Value::Null,
                other => panic!("{other:?}"),
            }
        }
    }

    /// All messages until the server closes.
    pub(crate) async fn hear_all(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            match self.hear().await {
                Value::Null => return all,
                message => all.push(message),
            }
        }
    }
}
