//! The edge: any port of a sandbox by name, for whatever speaks HTTP.
//!
//! It stands before the API on the same listener ([`router`]) and takes what is addressed to a sandbox (`address`): asks the control
//! plane where that is and whether the caller may reach it (`sandboxes`, `admission`), and carries the request to it (`proxy`,
//! `upgrade`) over connections that go through the sandbox's host agent (`upstream`). What it refuses is in `refusal`, word by word what
//! E2B's clients know. It decides nothing about sandboxes and knows no SQL; of the guest agent's port it knows which paths
//! nobody outside may ask for (`agent_routes`).
//!
//! [`tls`] and [`local_authority`] are for the listener: certificates from files, which may change, and an authority of the
//! installation's own.

mod address;
mod admission;
mod agent_routes;
mod headers;
pub mod local_authority;
mod proxy;
mod refusal;
mod sandboxes;
pub mod tls;
mod upgrade;
mod upstream;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use ipnet::IpNet;
use sandbar_control::Control;
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
}

/// What is addressed to a sandbox goes there, and everything else to `api`. The listener tells who called
/// (`axum::extract::ConnectInfo<SocketAddr>`) and, where it is not plain HTTP, how (`http::uri::Scheme`) in a request's extensions;
/// of trusted proxies it is taken whom they speak for.
pub fn router(control: Control, trusted_proxies: &[IpNet], api: Router) -> Router {
    let sandboxes = Arc::new(Sandboxes::new(control.clone()));
    let upstreams = Upstreams::new(Arc::clone(&sandboxes));
    let edge = Edge { control, sandboxes, upstreams, trusted_proxies: trusted_proxies.into() };
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
                let answered = self.pass_on(&address, request).await;
                answered.unwrap_or_else(|refusal| refusal.render(&address.name, address.port))
            }
            Addressed::Nowhere { name, refusal } => refusal.render(&name, 0),
        }
    }
}
