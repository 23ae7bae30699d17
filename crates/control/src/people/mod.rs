//! People: accounts (`signup`, `profile`), signing in (`login`, `sessions`, `tokens`), finding them (`search`), and what the
//! platform's operator may do to them (`admin`). Passwords are in `passwords`, the limits of trying in `throttle`; signing in at
//! other providers is [`crate::oauth`].

mod admin;
mod login;
pub(crate) mod passwords;
mod profile;
mod search;
mod sessions;
mod signup;
mod throttle;
pub(crate) mod tokens;

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_store::StoreError;
use sandbar_store::users::UserRow;
use sandbar_types::id::{self, Team};
use sandbar_types::{ErrorCode, Id};
use secrecy::SecretString;

use crate::access::{AccessError, store_code};
use crate::secrets::SecretError;

pub use admin::PlatformRole;
pub use profile::{PasswordChange, ProfileChange};

pub(crate) use signup::{NewAccount, check_email, default_team_name, new_slug};
pub(crate) use throttle::Counted;

/// Where a request comes from, as far as it can be told.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What it calls itself.
    pub user_agent: String,
}

/// Who wants an account.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct NewUser {
    pub email: String,
    pub password: SecretString,
    pub name: String,
}

/// A sign-in that succeeded.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct SignIn {
    /// The JWT.
    pub token: SecretString,
    pub user_id: Id<id::User>,
    /// None: they belong to no team.
    pub team_id: Option<Id<Team>>,
    pub email: String,
    pub name: String,
}

/// A person, as they see themselves and the platform's administrators see them.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct User {
    pub id: Id<id::User>,
    pub email: String,
    pub name: String,
    pub has_password: bool,
    pub is_admin: bool,
    pub created_at: DateTime<Utc>,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        let UserRow { id, email, name, has_password, is_admin, created_at } = row;
        Self { id, email, name, has_password, is_admin, created_at }
    }
}

/// A sign-in that counts.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Session {
    pub id: Id<id::Session>,
    /// Whether it is the one that asks.
    pub is_current: bool,
    pub user_agent: String,
    pub address: Option<IpAddr>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// What is wrong with what somebody wants to be called, or to sign in with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPerson {
    /// Not an address.
    #[error("email: not an e-mail address")]
    Email,
    /// Too short, too long, or with characters that cannot be seen.
    #[error("name: between 1 and 100 characters, none of them a control character")]
    Name,
    /// Too short or too long.
    #[error("password: between 8 and 1024 bytes")]
    Password,
    /// A search that would list people.
    #[error("email: at least 3 characters, one of them @")]
    SearchText,
}

/// Why an operation on people failed.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The request makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidPerson),
    /// No account, another password, or none: the caller is not told which.
    #[error("the e-mail address or the password is wrong")]
    WrongCredentials,
    /// The old password is not the one.
    #[error("the old password is wrong")]
    WrongPassword,
    /// The address has an account.
    #[error("this e-mail address has an account")]
    EmailTaken,
    /// Tried too often.
    #[error("too many attempts: try again in {} s", .retry_after.as_secs())]
    TooOften {
        /// How long to wait.
        retry_after: Duration,
    },
    /// No such person, or none that the caller may know of.
    #[error("there is no such user")]
    NoSuchUser,
    /// No such sign-in of the caller's.
    #[error("there is no session {id}")]
    NoSuchSession {
        /// Which.
        id: Id<id::Session>,
    },
    /// The caller does not belong to the team.
    #[error("you are not a member of the team {id}")]
    NotAMember {
        /// Which.
        id: Id<Team>,
    },
    /// Nobody would be left to administer the platform.
    #[error("this is the platform's last administrator: make another one first")]
    LastAdmin,
    /// Another change came first.
    #[error("the password was changed meanwhile")]
    ChangedMeanwhile,
    /// The password could not be hashed.
    #[error("the password could not be hashed")]
    Hash,
    /// The platform's keys cannot be read or replaced.
    #[error("the platform's keys cannot be read or replaced")]
    Secret(#[from] SecretError),
    /// The token could not be signed.
    #[error("the token could not be signed")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl PeopleError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::Invalid(_) => ErrorCode::InvalidRequest,
            Self::WrongCredentials => ErrorCode::Unauthorized,
            Self::WrongPassword | Self::NotAMember { .. } => ErrorCode::Forbidden,
            Self::EmailTaken => ErrorCode::EmailTaken,
            Self::TooOften { .. } => ErrorCode::RateLimited,
            Self::NoSuchUser | Self::NoSuchSession { .. } => ErrorCode::NotFound,
            Self::LastAdmin | Self::ChangedMeanwhile => ErrorCode::Conflict,
            Self::Hash | Self::Secret(_) | Self::Token(_) => ErrorCode::InternalError,
            Self::Store(error) => store_code(error),
        }
    }

    /// How long the caller is to wait before they try again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooOften { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}
