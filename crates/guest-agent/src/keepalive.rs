//! How long a stream of events stays silent before it says that it lives.

use std::time::Duration;

use connectrpc::RequestContext;

/// Unless the caller says otherwise.
const INTERVAL: Duration = Duration::from_secs(90);
/// More is as good as never, and a time that far ahead is none.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Seconds.
const HEADER: &str = "keepalive-ping-interval";

/// The interval that a caller asks for.
pub(crate) fn interval(ctx: &RequestContext) -> Duration {
    ctx.header(HEADER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(INTERVAL, |seconds: u64| Duration::from_secs(seconds).min(INTERVAL_MAX))
}
