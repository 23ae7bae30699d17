//! Opens a TLS connection to a host's address and checks that it is that host.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects to one host, whatever URI is asked for.
#[derive(Clone)]
pub(super) struct Connect {
    pub(super) address: Arc<str>,
    pub(super) name: ServerName<'static>,
    pub(super) tls: TlsConnector,
}

impl tower::Service<Uri> for Connect {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let tcp = TcpStream::connect(&*this.address).await?;
            // Frames are small and answers are waited for: Nagle would only add latency.
            tcp.set_nodelay(true)?;
            Ok(TokioIo::new(this.tls.connect(this.name, tcp).await?))
        })
    }
}
