//! The error codes of the native API. The one table from code to HTTP status.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $word:literal, $status:literal;)*) => {
        /// Why a request was refused, in the word that programs read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {$(
            $(#[$doc])*
            #[serde(rename = $word)]
            $code,
        )*}

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// The word in the answer's body.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {$(Self::$code => $word),*}
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self {$(Self::$code => $status),*}
            }
        }
    };
}

codes! {
    /// The request is malformed or out of bounds.
    InvalidRequest = "invalid_request", 400;
    /// No credential, or one that is not valid (any more).
    Unauthorized = "unauthorized", 401;
    /// The credential is valid, but not for this.
    Forbidden = "forbidden", 403;
    /// The caller has no team.
    NoTeam = "no_team", 403;
    /// No such thing, or none that the caller may know of.
    NotFound = "not_found", 404;
    /// The thing is not in a state that allows this.
    InvalidState = "invalid_state", 409;
    /// Another change came first.
    Conflict = "conflict", 409;
    /// A thing of this name exists.
    AlreadyExists = "already_exists", 409;
    /// The name may not be taken.
    NameReserved = "name_reserved", 409;
    /// The e-mail address has an account.
    EmailTaken = "email_taken", 409;
    /// The host still has sandboxes.
    HostHasSandboxes = "host_has_sandboxes", 409;
    /// What the request expects of a thing is not so, or not any more.
    PreconditionFailed = "precondition_failed", 412;
    /// The request's body is over the limit.
    TooLarge = "too_large", 413;
    /// Too many requests, or a quota is used up.
    RateLimited = "rate_limited", 429;
    /// A fault of ours; the log has it under the request id.
    InternalError = "internal_error", 500;
    /// The host agent or the guest agent failed.
    AgentError = "agent_error", 502;
    /// The platform's database does not answer at the moment.
    Unavailable = "unavailable", 503;
    /// The sandbox's host cannot be reached.
    HostUnavailable = "host_unavailable", 503;
    /// No host can take the sandbox.
    NoHostsAvailable = "no_hosts_available", 503;
    /// The work did not end in time.
    Timeout = "timeout", 504;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_serialize_as_themselves() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert!((400..600).contains(&code.http_status()));
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!(ErrorCode::ALL.iter().skip(i + 1).all(|other| other.as_str() != code.as_str()));
        }
    }
}
