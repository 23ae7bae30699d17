//! A guest that is not ours any more: its answers have no end, or are larger than any that is taken.

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::post;
use bytes::Bytes;
use tokio::net::TcpListener;

use super::*;
use crate::tree;

/// Serves as the guest's agent on a loopback address of the test's own.
async fn guest(last: u8, agent: Router) -> GuestClient {
    let address = Ipv4Addr::new(127, 83, 49, last);
    let listener = TcpListener::bind((address, AGENT_PORT)).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, agent).await });
    GuestClient::new(address, "token".to_owned())
}

fn endless() -> Body {
    Body::from_stream(futures::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096]))
    }))
}

fn open() -> Open {
    Open { path: "/tmp/a".to_owned(), ..Default::default() }
}

fn nothing() -> RequestBody {
    Full::default().map_err(|never| match never {}).boxed()
}

#[tokio::test]
async fn an_answer_to_a_write_that_does_not_end_is_an_error() {
    let guest = guest(1, Router::new().route("/files", post(async || endless()))).await;
    let failed = guest.write_file(&open(), nothing()).await.unwrap_err();
    assert!(matches!(failed, Error::GuestUnreachable(_)), "{failed}");
}

#[tokio::test]
async fn a_refusal_that_does_not_end_is_told_by_its_status() {
    let refuse = async || (StatusCode::BAD_REQUEST, endless());
    let guest = guest(2, Router::new().route("/files", post(refuse))).await;
    let failed = guest.write_file(&open(), nothing()).await.unwrap_err();
    assert!(matches!(&failed, Error::BadInput(text) if text.starts_with("400")), "{failed}");
}

#[tokio::test]
async fn a_listing_that_is_too_long_is_told_as_that() {
    // An entry's name with more bytes than a listing may have, as the wire has it: a message in a message, their lengths before them.
    let long = 9 << 20;
    let mut answer = Vec::new();
    field(&mut answer, long + 1 + varint(long).len());
    field(&mut answer, long);
    answer.resize(answer.len() + long, b'a');
    let list = async move || ([(header::CONTENT_TYPE, "application/proto")], answer.clone()).into_response();
    let guest = guest(3, Router::new().route("/filesystem.Filesystem/ListDir", post(list))).await;
    let failed = tree::list(&guest, "/".to_owned(), "", 1).await.unwrap_err();
    assert!(matches!(&failed, Error::BadInput(text) if text.starts_with("too many entries")), "{failed}");
}

/// The head of field 1, of so many bytes.
fn field(message: &mut Vec<u8>, length: usize) {
    message.push(0x0a);
    message.extend(varint(length));
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
