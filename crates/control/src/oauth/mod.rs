//! Signing in at another provider: GitHub, or any issuer that speaks OpenID Connect.
//!
//! ```text
//!   page -> start: state, nonce and PKCE verifier into a sealed cookie -> provider
//!   provider -> callback: cookie and state agree; code -> identity -> one-time code, in the fragment -> page
//!   page -> exchange: one-time code and the cookie that came with it -> token
//! ```
//!
//! - A person is known by the provider's id of them, never by their address. An address that has an account is never taken
//!   over: its owner signs in and links the provider (`link`).
//! - Signing in and signing up are told apart: who wants the one does not get the other.
//!
//! `config`: which providers there are. `state`: the cookie. `oidc`, `github`: what each kind of provider speaks, over `http`.
//! `flow`: the three steps. Nothing of a provider is cached: sign-ins are rare, and keys that it replaces are found at once.

mod config;
mod flow;
mod github;
mod http;
mod link;
mod oidc;
mod state;

use sandbar_store::StoreError;
use sandbar_types::ErrorCode;

use crate::access::{AccessError, store_code};
use crate::people::PeopleError;

pub use config::{ConfigError, OAuthConfig, ProviderInfo};
pub use flow::{Begun, CallbackQuery, Finished, Intent};
pub use http::ProviderError;
pub use link::Identity;

pub(crate) use state::StateKey;

/// Who somebody is at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProvenIdentity {
    /// The provider's id of them.
    subject: String,
    /// Their address, where the provider has seen that it is theirs.
    verified_email: Option<String>,
    name: Option<String>,
}

/// Why signing in elsewhere failed.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No such provider.
    #[error("there is no sign-in provider {name:?}")]
    UnknownProvider {
        /// What was asked for.
        name: String,
    },
    /// The way back does not belong to a way out, or came too late.
    #[error("this sign-in was not begun in this browser, or took longer than ten minutes: begin again")]
    State,
    /// The provider, or the person at it, said no.
    #[error("the provider refused: {reason}")]
    Refused {
        /// In its word.
        reason: String,
    },
    /// The provider did not answer as it should.
    #[error("the sign-in provider {name:?} failed")]
    Provider {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// Signing in, without an account.
    #[error("nobody signed up with this identity")]
    NoAccount,
    /// Signing up, with an account.
    #[error("this identity has an account: sign in")]
    AccountExists,
    /// The provider has not seen that the address is theirs.
    #[error("the provider has not verified the e-mail address")]
    EmailNotVerified,
    /// The identity is another person's, or they have another one at the provider.
    #[error("this identity, or another one at the provider, is linked already")]
    AlreadyLinked,
    /// No such identity of the caller's.
    #[error("no identity at {name:?} is linked")]
    NotLinked {
        /// At which provider.
        name: String,
    },
    /// They could not sign in any more.
    #[error("this is the only way to sign in: set a password or link another provider first")]
    LastWayIn,
    /// The one-time code is not one, or was used, or is too old.
    #[error("the code is not valid: sign in again")]
    Code,
    /// An account or a sign-in could not be made.
    #[error(transparent)]
    People(#[from] PeopleError),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl OAuthError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::UnknownProvider { .. } | Self::NotLinked { .. } => ErrorCode::NotFound,
            Self::State | Self::Refused { .. } => ErrorCode::InvalidRequest,
            Self::Provider { .. } => ErrorCode::AgentError,
            Self::NoAccount | Self::EmailNotVerified => ErrorCode::Forbidden,
            Self::AccountExists | Self::AlreadyLinked => ErrorCode::AlreadyExists,
            Self::LastWayIn => ErrorCode::Conflict,
            Self::Code => ErrorCode::Unauthorized,
            Self::People(error) => error.code(),
            Self::Store(error) => store_code(error),
        }
    }

    /// The word that the page is told on the way back.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Refused { .. } => "refused",
            Self::NoAccount => "no_account",
            Self::AccountExists => "account_exists",
            Self::EmailNotVerified => "email_not_verified",
            Self::People(PeopleError::EmailTaken) => "email_taken",
            Self::AlreadyLinked => "already_linked",
            Self::Provider { .. } => "provider_failed",
            Self::Access(_)
            | Self::UnknownProvider { .. }
            | Self::NotLinked { .. }
            | Self::LastWayIn
            | Self::Code
            | Self::People(_)
            | Self::Store(_) => "failed",
        }
    }
}
