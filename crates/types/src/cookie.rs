//! The cookies that the API gives to browsers, and that nobody behind it is to see.

/// A cookie's name. Over TLS it has the prefix that makes browsers take it from this very host alone, and never from a page of a
/// sandbox below its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// Over plain HTTP.
    pub plain: &'static str,
    /// Over TLS.
    pub over_tls: &'static str,
}

/// The token of a sign-in.
pub const SESSION: Cookie = Cookie { plain: "sandbar", over_tls: "__Host-sandbar" };
/// Between the way out to another provider and the way back.
pub const OAUTH_STATE: Cookie = Cookie { plain: "sandbar_oauth", over_tls: "__Host-sandbar_oauth" };
/// Between the way back and the exchange.
pub const OAUTH_BINDING: Cookie =
    Cookie { plain: "sandbar_oauth_exchange", over_tls: "__Host-sandbar_oauth_exchange" };

/// Whether a cookie of this name is the API's.
#[must_use]
pub fn is_ours(name: &[u8]) -> bool {
    let all = [SESSION, OAUTH_STATE, OAUTH_BINDING];
    all.iter().any(|cookie| [cookie.plain, cookie.over_tls].iter().any(|own| own.as_bytes() == name))
}
