//! One request to a port and its answer.
//!
//! Bodies pass as they come, both ways, frame by frame: no limit on their size, none on their time, and no more memory than the windows
//! of the connections. Interim answers (1xx) end here, and a body that is `Expect`ed is asked for when the server reads it.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use sandbar_control::traffic::Destination;
use sandbar_types::guest::AGENT_PORT;

use crate::address::{Address, host_of};
use crate::headers::{self, Caller};
use crate::refusal::Refusal;
use crate::sandboxes::Place;
use crate::toll::Toll;
use crate::{Edge, upgrade, upstream};

impl Edge {
    /// The server's answer, or why there is none.
    pub(crate) async fn pass_on(
        &self,
        address: &Address,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let answered = self.pass_on_uncounted(address, request).await;
        let outcome = answered.as_ref().map_or_else(|refusal| refusal.word(), |_| "answered");
        metrics::counter!("sandbar_edge_requests_total", "outcome" => outcome).increment(1);
        answered
    }

    async fn pass_on_uncounted(
        &self,
        address: &Address,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let toll = Toll { charge: &self.charge, peer: peer(&request), headers: request.headers() };
        let destination = self.sandboxes.find(address.id, &toll).await?;
        let wake = self.admit(&destination, address.port, request.uri().path(), &toll).await?;
        let place = self.sandboxes.enter(address.id)?;
        self.sandboxes.ready(&destination, wake).await?;

        let asked = asked_upgrade(&request, address.port)?;
        let client = asked.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let request = self.head_for_server(address, &destination, request, asked.as_ref())?;
        let mut response = self.upstreams.send(request, wake).await?;

        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        match (asked, client) {
            (Some(asked), Some(client)) if upgraded => {
                let server = hyper::upgrade::on(&mut response);
                tokio::spawn(upgrade::carry(client, server, place));
                Ok(upgrade::answer(&asked, response.into_parts().0))
            }
            // Nobody asked for it.
            _ if upgraded => Err(Refusal::BrokeOff),
            _ => Ok(answer(response, place)),
        }
    }

    /// The request as the server is to see it.
    fn head_for_server(
        &self,
        address: &Address,
        destination: &Destination,
        request: Request<Body>,
        asked: Option<&upgrade::Asked>,
    ) -> Result<Request<Body>, Refusal> {
        let host = host_of(&request).map(str::to_owned);
        let scheme = request.extensions().get::<Scheme>().unwrap_or(&Scheme::HTTP).clone();
        let peer = peer(&request);
        let is_trusted =
            peer.is_some_and(|peer| self.trusted_proxies.iter().any(|network| network.contains(&peer)));

        let (mut parts, body) = request.into_parts();
        let uri = upstream::uri(address, parts.uri.path_and_query()).map_err(|_| Refusal::BadAddress)?;
        headers::end_of_hop(&mut parts.headers);
        headers::keep_credentials(&mut parts.headers);
        headers::as_http1(&mut parts.headers);
        let caller = Caller { peer, is_trusted, scheme: scheme.as_str(), host: host.as_deref() };
        headers::tell_caller(&mut parts.headers, caller);
        let masked = destination.ingress.masked_host(address.port).filter(|_| address.port != AGENT_PORT);
        if let Some(Ok(host)) = masked.or(host).map(|host| HeaderValue::from_str(&host)) {
            parts.headers.insert(header::HOST, host);
        }
        if let Some(asked) = asked {
            asked.write(&mut parts.headers);
            parts.method = if asked.is_extended() { Method::GET } else { parts.method };
        }

        let body = if asked.is_some_and(upgrade::Asked::is_extended) { Body::empty() } else { body };
        let mut onward = Request::new(body);
        *onward.method_mut() = parts.method;
        *onward.uri_mut() = uri;
        *onward.version_mut() =
            if upstream::is_grpc(&parts.headers) { Version::HTTP_2 } else { Version::HTTP_11 };
        *onward.headers_mut() = parts.headers;
        Ok(onward)
    }
}

/// The other end of the connection that a request came by.
fn peer(request: &Request<Body>) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical())
}

/// What the client wants its connection to become. Nothing of that kind leads to the guest agent.
fn asked_upgrade(request: &Request<Body>, port: u16) -> Result<Option<upgrade::Asked>, Refusal> {
    if request.method() == Method::CONNECT {
        return match request.extensions().get::<Protocol>() {
            Some(protocol) if port != AGENT_PORT => Ok(upgrade::Asked::by_connect(protocol)),
            _ => Err(Refusal::PlainConnect),
        };
    }
    let asked = headers::upgrade_of(request.headers()).filter(|_| port != AGENT_PORT);
    Ok(asked.map(upgrade::Asked::by_header))
}

fn answer(response: Response<Incoming>, place: Place) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    headers::end_of_hop(&mut parts.headers);
    parts.version = Version::default();
    // What belongs to the connection to the server: what is left of it would be taken for the client's.
    parts.extensions.clear();
    Response::from_parts(parts, Body::new(Held { body, _place: place }))
}

/// A body that keeps its stream's place until it ends.
struct Held {
    body: Incoming,
    _place: Place,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
