//! Why a call to a host agent failed.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use buffa::Message as _;
use connectrpc::{ConnectError, ErrorCode};
use sandbar_proto::host::ErrorDetail;
pub use sandbar_proto::host::error_detail::Reason;

/// The detail that a host agent attaches to a refusal.
const DETAIL_TYPE: &str = "sandbar.host.v1.ErrorDetail";

/// Why a call to a host agent failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The agent refused, and says why in a word that programs read.
    #[error("the host refused ({reason:?}): {message}")]
    Refused {
        /// The word.
        reason: Reason,
        /// What it says to people.
        message: String,
    },
    /// The agent cannot be reached, or the connection broke.
    #[error("the host cannot be reached")]
    Unreachable(#[source] Box<ConnectError>),
    /// The call's deadline passed. Whether the host carried it out is unknown.
    #[error("the host did not answer in time")]
    Deadline(#[source] Box<ConnectError>),
    /// The agent failed without a reason that programs read.
    #[error("the host failed")]
    Failed(#[source] Box<ConnectError>),
    /// The agent's answer makes no sense.
    #[error("the host's answer is not valid: {0}")]
    Protocol(&'static str),
}

impl HostError {
    /// The reason of a refusal.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::Unreachable(_) | Self::Deadline(_) | Self::Failed(_) | Self::Protocol(_) => None,
        }
    }

    /// What the agent said, for people.
    #[must_use]
    pub fn agent_message(&self) -> &str {
        match self {
            Self::Refused { message, .. } => message,
            Self::Failed(error) => error.message.as_deref().unwrap_or("no message"),
            Self::Unreachable(_) => "unreachable",
            Self::Deadline(_) => "no answer in time",
            Self::Protocol(what) => what,
        }
    }
}

impl From<ConnectError> for HostError {
    fn from(error: ConnectError) -> Self {
        if let Some(reason) = refusal(&error) {
            let message = error.message.unwrap_or_default();
            return Self::Refused { reason, message };
        }
        match error.code {
            ErrorCode::Unavailable => Self::Unreachable(error.into()),
            ErrorCode::DeadlineExceeded => Self::Deadline(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

/// The reason in an error's details. Never read from its text.
fn refusal(error: &ConnectError) -> Option<Reason> {
    error.details.iter().filter(|detail| is_ours(&detail.type_url)).find_map(|detail| {
        let value = detail.value.as_deref()?;
        let bytes = STANDARD_NO_PAD.decode(value).or_else(|_| STANDARD.decode(value)).ok()?;
        let detail = ErrorDetail::decode(&mut bytes.as_slice()).ok()?;
        detail.reason.as_known().filter(|reason| *reason != Reason::REASON_UNSPECIFIED)
    })
}

/// The name stands alone on the wire, or at the end of a type URL.
fn is_ours(type_url: &str) -> bool {
    type_url.rsplit('/').next() == Some(DETAIL_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason) -> ConnectError {
        let detail = ErrorDetail { reason: reason.into(), ..Default::default() };
        ConnectError::failed_precondition("no")
            .with_detail(connectrpc::ErrorDetail::from_message(DETAIL_TYPE, &detail))
    }

    #[test]
    fn the_reason_is_read_from_the_detail_whatever_the_code() {
        for reason in [Reason::REASON_SANDBOX_NOT_FOUND, Reason::REASON_NO_CAPACITY, Reason::REASON_TIMEOUT] {
            for code in [ErrorCode::Unavailable, ErrorCode::Internal, ErrorCode::NotFound] {
                let mut error = refused(reason);
                error.code = code;
                assert_eq!(HostError::from(error).reason(), Some(reason));
            }
        }
    }

    #[test]
    fn without_a_known_reason_the_code_decides() {
        assert!(matches!(HostError::from(ConnectError::unavailable("x")), HostError::Unreachable(_)));
        assert!(matches!(HostError::from(ConnectError::deadline_exceeded("x")), HostError::Deadline(_)));
        assert!(matches!(HostError::from(ConnectError::not_found("sandbox")), HostError::Failed(_)));
        assert!(matches!(HostError::from(refused(Reason::REASON_UNSPECIFIED)), HostError::Failed(_)));
    }

    #[test]
    fn a_full_type_url_is_ours_and_a_foreign_detail_is_not() {
        let mut error = refused(Reason::REASON_TIMEOUT);
        error.details[0].type_url = format!("type.googleapis.com/{DETAIL_TYPE}");
        assert_eq!(HostError::from(error.clone()).reason(), Some(Reason::REASON_TIMEOUT));
        error.details[0].type_url = "google.rpc.RetryInfo".to_owned();
        assert_eq!(HostError::from(error).reason(), None);
    }
}
