//! The connection to a host, with a look at each call: how long until its answer begins, and how that is. A call that is part of a trace is a
//! span of it, and the host is told so.

use std::time::Instant;

use connectrpc::client::{BoxFuture, ClientBody, ClientTransport, SharedHttp2Connection};
use http::{Request, Response};
use sandbar_trace::Span;
use sandbar_types::Id;
use sandbar_types::id::Host;

/// See the module. Cheap to clone, as what it wraps.
#[derive(Clone)]
pub(super) struct Measured {
    connection: SharedHttp2Connection,
    host: Id<Host>,
}

impl Measured {
    pub(super) const fn new(connection: SharedHttp2Connection, host: Id<Host>) -> Self {
        Self { connection, host }
    }
}

impl ClientTransport for Measured {
    type ResponseBody = <SharedHttp2Connection as ClientTransport>::ResponseBody;
    type Error = <SharedHttp2Connection as ClientTransport>::Error;

    fn send(
        &self,
        mut request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let span = Span::of_call(&rpc);
        span.set("sandbar.host.id", self.host);
        span.carry(request.headers_mut());
        let answer = self.connection.send(request);
        Box::pin(async move {
            let started = Instant::now();
            let answer = answer.await;
            // A stream that fails later has begun well; its failure is told to whoever reads it.
            let outcome = match &answer {
                Ok(response) if response.status().is_success() => "ok",
                Ok(_) => "refused",
                Err(_) => "unreachable",
            };
            metrics::histogram!("sandbar_host_rpc_seconds", "rpc" => rpc, "outcome" => outcome)
                .record(started.elapsed());
            if outcome != "ok" {
                span.failed(outcome);
            }
            answer
        })
    }
}
