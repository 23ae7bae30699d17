//! Answers that are the edge's own. The first two are what E2B's clients read, to the letter; the others have the same form.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// Why a request does not get to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("The sandbox was not found")]
    NotFound,
    #[error("The sandbox is running but port is not open")]
    PortClosed,
    #[error("What listens on the port takes no connections")]
    PortStuck,
    #[error("The connection to the port broke off before it had answered")]
    BrokeOff,
    #[error("This needs X-API-Key with a key of the sandbox's team, or E2b-Traffic-Access-Token")]
    Forbidden,
    #[error("There is nothing at this path")]
    NoSuchPath,
    #[error("This names no port: E2b-Sandbox-Port must be 1 to 65535")]
    BadAddress,
    #[error("The sandbox is on its way to another state")]
    Changing,
    #[error("The sandbox's host does not answer")]
    HostGone,
    #[error("The sandbox is paused and could not be resumed")]
    NotResumed,
    #[error("The sandbox has as many connections as it may have")]
    TooMany,
    #[error("There are as many connections to sandboxes as there may be")]
    Full,
    #[error("Too many requests: see the header Retry-After")]
    RateLimited(Duration),
    #[error("CONNECT is taken with a :protocol only")]
    PlainConnect,
    #[error("An internal error occurred")]
    Internal,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::NotFound | Self::PortClosed | Self::BrokeOff => StatusCode::BAD_GATEWAY,
            Self::PortStuck => StatusCode::GATEWAY_TIMEOUT,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::BadAddress => StatusCode::BAD_REQUEST,
            Self::Changing => StatusCode::CONFLICT,
            Self::HostGone | Self::NotResumed | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooMany | Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::PlainConnect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// For figures.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PortClosed => "port_closed",
            Self::PortStuck => "port_stuck",
            Self::BrokeOff => "broke_off",
            Self::Forbidden => "forbidden",
            Self::NoSuchPath => "no_such_path",
            Self::BadAddress => "bad_address",
            Self::Changing => "changing",
            Self::HostGone => "host_gone",
            Self::NotResumed => "not_resumed",
            Self::TooMany => "too_many",
            Self::Full => "full",
            Self::RateLimited(_) => "rate_limited",
            Self::PlainConnect => "plain_connect",
            Self::Internal => "internal",
        }
    }

    /// The answer, with the sandbox's id as the caller wrote it.
    pub(crate) fn render(self, sandbox: &str, port: u16) -> Response<Body> {
        let status = self.status();
        let mut body = json!({ "sandboxId": sandbox, "message": self.to_string(), "code": status.as_u16() });
        if matches!(self, Self::PortClosed | Self::PortStuck) {
            body["port"] = port.into();
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // The answer says nothing that a page may not read.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if let Self::RateLimited(wait) = self {
            // Whole seconds, rounded up: who waits as told is not refused again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::NotFound | Self::PortClosed) {
            // E2B's clients repeat what is 502 unless they are told that it is of no use.
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rendered(refusal: Refusal) -> (u16, String) {
        let response = refusal.render("0192f0c15c4e7a3b9d2e3f4a5b6c7d8e", 3000);
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_two_that_e2bs_clients_read_are_to_the_letter() {
        let (status, body) = rendered(Refusal::NotFound).await;
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        let known = json!({"sandboxId": "0192f0c15c4e7a3b9d2e3f4a5b6c7d8e", "message": "The sandbox was not found", "code": 502});
        assert_eq!((status, told), (502, known));
        let (status, body) = rendered(Refusal::PortClosed).await;
        let told: serde_json::Value = serde_json::from_str(&body).unwrap();
        let known = json!({"sandboxId": "0192f0c15c4e7a3b9d2e3f4a5b6c7d8e",
            "message": "The sandbox is running but port is not open", "port": 3000, "code": 502});
        assert_eq!((status, told), (502, known));
    }
}
