//! The connection to a host, with a look at each call: how long until its answer begins, and how that is.

use std::time::Instant;

use connectrpc::client::{BoxFuture, ClientBody, ClientTransport, SharedHttp2Connection};
use http::{Request, Response};

/// See the module. Cheap to clone, as what it wraps.
#[derive(Clone)]
pub(super) struct Measured(SharedHttp2Connection);

impl Measured {
    pub(super) const fn new(connection: SharedHttp2Connection) -> Self {
        Self(connection)
    }
}

impl ClientTransport for Measured {
    type ResponseBody = <SharedHttp2Connection as ClientTransport>::ResponseBody;
    type Error = <SharedHttp2Connection as ClientTransport>::Error;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let answer = self.0.send(request);
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
            answer
        })
    }
}
