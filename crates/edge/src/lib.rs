//! The edge: any port of a sandbox by name, for whatever speaks HTTP.
//!
//! It stands before the API on the same listener ([`router`]) and takes what is addressed to a sandbox (`address`): asks the control
//! plane where that is and whether the caller may reach it (`sandboxes`, `admission`; who makes it ask too often is refused, `toll`), and carries the request to it (`proxy`,
//! `upgrade`) over connections that go through the sandbox's host agent (`upstream`). What it refuses is in `refusal`, word by word what
//! E2B's clients know. It decides nothing about sandboxes and knows no SQL; of the guest agent's port it knows which paths
//! nobody outside may ask for (`agent_routes`).
//!
//! [`tls`], [`local_authority`] and [`acme`] are for the listener: certificates from files, which may change, of an authority of the
//! installation's own, and of a public one.

pub mod acme;
mod address;
mod admission;
mod agent_routes;
mod headers;
pub mod local_authority;
mod proxy;
mod refusal;
mod sandboxes;
pub mod tls;
mod toll;
mod upgrade;
mod upstream;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, Response};
use ipnet::IpNet;
use sandbar_control::Control;
use sandbar_trace::Span;
use tower::{ServiceExt as _, service_fn};

use address::Addressed;
use sandboxes::Sandboxes;
use upstream::Upstreams;

/// The edge. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Edge {
    control: Control,
    sandboxes: Arc<Sandboxes>,
    upstreams: Upstreams,
    trusted_proxies: Arc<[IpNet]>,
    charge: Charge,
}

/// Counts a request by where it comes from: its peer and headers. Refused: how long until one would be let in.
pub type Charge = Arc<dyn Fn(Option<IpAddr>, &HeaderMap) -> Result<(), Duration> + Send + Sync>;

/// What an operator can set about the edge.
pub struct Config {
    /// Whose word counts for where a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// Most requests and upgraded connections at the same time, to all sandboxes together.
    pub streams: usize,
    /// What a request is charged for which the database has to be asked.
    pub charge: Charge,
}

/// What is addressed to a sandbox goes there, and everything else to `api`. The listener tells who called
/// (`axum::extract::ConnectInfo<SocketAddr>`) and, where it is not plain HTTP, how (`http::uri::Scheme`) in a request's extensions;
/// of trusted proxies it is taken whom they speak for.
pub fn router(control: Control, config: Config, api: Router) -> Router {
    let Config { trusted_proxies, streams, charge } = config;
    let sandboxes = Arc::new(Sandboxes::new(control.clone(), streams));
    let upstreams = Upstreams::new(Arc::clone(&sandboxes));
    let edge = Edge { control, sandboxes, upstreams, trusted_proxies: trusted_proxies.into(), charge };
    Router::new().fallback_service(service_fn(move |request: Request<Body>| {
        let (edge, api) = (edge.clone(), api.clone());
        async move { Ok::<Response<Body>, Infallible>(edge.answer(request, api).await) }
    }))
}

impl Edge {
    async fn answer(&self, request: Request<Body>, api: Router) -> Response<Body> {
        match address::of(&request, self.control.domain()) {
            Addressed::ToApi => match api.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Addressed::ToSandbox(address) => {
                // A trace of ours. What the server in the guest is told of one is the client's alone, and passes as it is.
                let span = Span::of_request("edge", request.headers());
                span.set("sandbar.sandbox.id", address.id);
                span.set("sandbar.sandbox.port", address.port);
                let answered = span.run(self.pass_on(&address, request)).await;
                let response = answered.unwrap_or_else(|refusal| refusal.render(&address.name, address.port));
                span.answered(response.status());
                response
            }
            Addressed::Nowhere { name, refusal } => refusal.render(&name, 0),
        }
    }
}
