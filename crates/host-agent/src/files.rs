//! Files of a guest, streamed both ways at constant memory.

use bytes::Bytes;
use connectrpc::{ConnectError, InboundStream};
use futures::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sandbar_proto::host::{ReadFileResponse, WriteFileRequest, WriteFileResponse, write_file_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::Error;
use crate::guest::GuestClient;
use crate::sandbox::Visit;

use write_file_request::{Open, Request};

/// Chunks of a file on their way. Whoever reads slowly holds back the writer, not memory.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Writes a file from a stream of chunks. If the stream breaks off, the guest drops what it has got.
pub(crate) async fn write(
    guest: &GuestClient,
    open: &Open,
    mut requests: InboundStream<WriteFileRequest>,
) -> Result<WriteFileResponse, Error> {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(CHUNKS_IN_FLIGHT);
    let body = BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver)));

    let feed = async move {
        let mut bytes_written = 0;
        while let Some(request) = requests.next().await {
            let chunk = match request.map(|r| r.to_owned_message().request) {
                Ok(Some(Request::Chunk(chunk))) => chunk,
                Ok(Some(Request::Open(_)) | None) => {
                    let _gone = sender.send(Err(std::io::ErrorKind::InvalidInput.into())).await;
                    return Err(Error::BadInput("only chunks may follow the opening of a file".into()));
                }
                Err(error) => {
                    let _gone = sender.send(Err(std::io::ErrorKind::UnexpectedEof.into())).await;
                    return Err(Error::BadInput(format!("the upload broke off: {error}")));
                }
            };
            bytes_written += chunk.len() as u64;
            if sender.send(Ok(Frame::data(chunk.into()))).await.is_err() {
                // The guest has answered before the end: its answer says why.
                break;
            }
        }
        Ok(bytes_written)
    };

    let (fed, written) = tokio::join!(feed, guest.write_file(open, body));
    let bytes_written = fed?;
    let (path, etag) = written?;
    Ok(WriteFileResponse { bytes_written, path, etag, ..Default::default() })
}

/// Reads a file as a stream of chunks, the first of which tells the file's state: an empty file has one, too.
pub(crate) async fn read(
    visit: Visit,
    path: &str,
    user: &str,
) -> Result<impl Stream<Item = Result<ReadFileResponse, ConnectError>> + Send + use<>, Error> {
    let (etag, body) = visit.guest.read_file(path, user).await?;
    let reading = (body.into_data_stream().fuse(), visit, etag);
    Ok(futures::stream::unfold(Some(reading), |reading| async {
        let (mut body, mut visit, mut etag) = reading?;
        let chunk = tokio::select! {
            chunk = body.next() => match chunk {
                Some(chunk) => chunk.map_err(|e| Error::GuestUnreachable(format!("the download broke off: {e}"))),
                None if !etag.is_empty() => Ok(Bytes::new()),
                None => return None,
            },
            ended = visit.ended() => Err(ended),
        };
        Some(match chunk {
            Ok(chunk) => {
                let response = ReadFileResponse {
                    chunk: chunk.into(),
                    etag: std::mem::take(&mut etag),
                    ..Default::default()
                };
                (Ok(response), Some((body, visit, etag)))
            }
            // Nothing follows an error.
            Err(error) => (Err(error.into()), None),
        })
    }))
}
