//! The authority's protocol goes over the HTTP client that everything else uses, with limits on time and size.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};

use super::AcmeError;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const MOST_BYTES: usize = 1 << 20;

/// Speaks to an authority. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http(Client);

impl Http {
    /// `trusted`: certificates in PEM that are trusted, beside the system's.
    pub(super) fn new(trusted: Option<&Path>) -> Result<Self, AcmeError> {
        let unusable = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| AcmeError::Trusted {
            path: path.to_owned(),
            source,
        };
        let mut client = Client::builder().timeout(LIMIT).redirect(Policy::none());
        if let Some(path) = trusted {
            let pem = std::fs::read(path).map_err(|source| unusable(path, source.into()))?;
            let all = Certificate::from_pem_bundle(&pem).map_err(|source| unusable(path, source.into()))?;
            if all.is_empty() {
                return Err(unusable(path, "there is no certificate in it".into()));
            }
            client = client.tls_certs_merge(all);
        }
        let client = client.build().map_err(|source| AcmeError::Authority {
            step: "spoken to by TLS",
            source: Error::Other(source.into()),
        })?;
        Ok(Self(client))
    }

    pub(super) fn boxed(&self) -> Box<dyn HttpClient> {
        Box::new(self.clone())
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let failed = |error: reqwest::Error| Error::Other(error.into());
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let url = head.uri.to_string();
            let sent = client.request(head.method, url).headers(head.headers).body(body).send();
            let mut response = sent.await.map_err(failed)?;
            let mut bytes = BytesMut::new();
            while let Some(piece) = response.chunk().await.map_err(failed)? {
                if bytes.len() + piece.len() > MOST_BYTES {
                    return Err(Error::Str("an answer is too large"));
                }
                bytes.extend_from_slice(&piece);
            }
            let mut answer = http::Response::new(());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            let (parts, ()) = answer.into_parts();
            Ok(BytesResponse { parts, body: Box::new(bytes.freeze()) })
        })
    }
}
