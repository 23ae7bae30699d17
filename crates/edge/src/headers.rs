//! What a proxy changes of a message's head: what belongs to one connection goes no further (RFC 9110, 7.6.1), who asked is added,
//! and credentials that are the platform's stay here.

use std::net::IpAddr;

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use sandbar_control::traffic::is_api_key;
use sandbar_types::cookie;

use crate::address::{SANDBOX_ID, SANDBOX_PORT};

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
pub(crate) const TRAFFIC_TOKEN: HeaderName = HeaderName::from_static("e2b-traffic-access-token");

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What a connection carries from now on.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(CONNECTION).iter().flat_map(tokens).any(|name| name == UPGRADE.as_str());
    headers.get(UPGRADE).filter(|_| asked).cloned()
}

/// Removes what belongs to the connection that a message came by. `Trailer` stays, which says what follows the body.
pub(crate) fn end_of_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers.get_all(CONNECTION).iter().flat_map(tokens).collect();
    let takes_trailers = headers.get_all(TE).iter().flat_map(tokens).any(|coding| coding == "trailers");
    for name in named {
        // The two that a client may not have taken away.
        if name != HOST.as_str() && name != "content-length" {
            headers.remove(name);
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// From whom a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// The other end of the connection.
    pub(crate) peer: Option<IpAddr>,
    /// Whether that is a proxy whose word counts.
    pub(crate) is_trusted: bool,
    pub(crate) scheme: &'a str,
    pub(crate) host: Option<&'a str>,
}

/// Says who asked, and for what. What a proxy says that nobody trusts is forgotten.
pub(crate) fn tell_caller(headers: &mut HeaderMap, caller: Caller<'_>) {
    if !caller.is_trusted {
        for name in [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO] {
            headers.remove(name);
        }
    }
    let before = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let before: Vec<String> = before.map(str::to_owned).collect();
    let way =
        before.into_iter().chain(caller.peer.map(|peer| peer.to_string())).collect::<Vec<_>>().join(", ");
    if let Ok(way) = HeaderValue::from_str(&way)
        && !way.is_empty()
    {
        headers.insert(X_FORWARDED_FOR, way);
    }
    let said = [(X_FORWARDED_PROTO, Some(caller.scheme)), (X_FORWARDED_HOST, caller.host)];
    for (name, value) in said {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// Removes what is between the caller and the platform. A key that is not one of ours is the caller's affair with the server.
pub(crate) fn keep_credentials(headers: &mut HeaderMap) {
    let ours = |value: &HeaderValue| value.to_str().is_ok_and(|text| is_api_key(text.trim()));
    if headers.get_all(API_KEY).iter().any(ours) {
        headers.remove(API_KEY);
    }
    for name in [TRAFFIC_TOKEN, SANDBOX_ID, SANDBOX_PORT] {
        headers.remove(name);
    }
    keep_cookies(headers);
}

/// A browser sends them along where a sandbox is reached by our own name.
fn keep_cookies(headers: &mut HeaderMap) {
    let is_ours = |pair: &[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        cookie::is_ours(name.trim_ascii())
    };
    let pairs =
        |value: &[u8]| -> Vec<Vec<u8>> { value.split(|byte| *byte == b';').map(<[u8]>::to_vec).collect() };
    let sent: Vec<_> = headers.get_all(COOKIE).iter().map(|value| pairs(value.as_bytes())).collect();
    if !sent.iter().flatten().any(|pair| is_ours(pair)) {
        return;
    }
    headers.remove(COOKIE);
    for mut line in sent {
        line.retain(|pair| !is_ours(pair));
        if let Ok(left) = HeaderValue::from_bytes(line.join(&b';').trim_ascii())
            && !left.is_empty()
        {
            headers.append(COOKIE, left);
        }
    }
}

/// What HTTP/1.1 has otherwise: cookies in one line. `Expect` is answered here, when the body is asked for.
pub(crate) fn as_http1(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
    let mut cookies = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(_)) = (cookies.next(), cookies.next()) {
        let rest = headers.get_all(COOKIE).iter().skip(1).map(HeaderValue::as_bytes);
        let joined = std::iter::once(first.as_bytes()).chain(rest).collect::<Vec<_>>().join(&b"; "[..]);
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(COOKIE, joined);
        }
    }
}

fn tokens(value: &HeaderValue) -> Vec<String> {
    let text = value.to_str().unwrap_or_default();
    text.split(',').map(|token| token.trim().to_ascii_lowercase()).filter(|token| !token.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn left(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut left: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn what_belongs_to_one_connection_goes_no_further() {
        let mut all = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "content-length, host"),
            ("x-mine", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "Basic eDp5"),
            ("te", "gzip, trailers;q=1, Trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        end_of_hop(&mut all);
        let stays = [
            ("accept", "*/*"),
            ("content-length", "3"),
            ("host", "a"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
        ];
        assert_eq!(left(&all), stays);
    }

    #[test]
    fn an_upgrade_is_one_that_the_connection_names() {
        assert_eq!(upgrade_of(&headers(&[("upgrade", "websocket")])), None);
        assert_eq!(upgrade_of(&headers(&[("connection", "upgrade")])), None);
        let asked = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade_of(&asked).unwrap(), "websocket");
    }

    #[test]
    fn who_asked_is_told_as_far_as_it_is_known() {
        let caller = |is_trusted| Caller {
            peer: Some("192.0.2.1".parse().unwrap()),
            is_trusted,
            scheme: "http",
            host: Some("3000-x.example"),
        };
        let told = [
            ("forwarded", "for=198.51.100.7"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-host", "forged"),
            ("x-forwarded-proto", "https"),
        ];
        let mut forged = headers(&told);
        tell_caller(&mut forged, caller(false));
        let own = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "3000-x.example"),
            ("x-forwarded-proto", "http"),
        ];
        assert_eq!(left(&forged), own);
        let mut proxied = headers(&told);
        tell_caller(&mut proxied, caller(true));
        assert_eq!(proxied["x-forwarded-for"], "198.51.100.7, 192.0.2.1");
        assert_eq!(proxied["x-forwarded-proto"], "https");
    }

    #[test]
    fn the_platforms_credentials_stay_and_the_servers_own_pass() {
        let ours = format!("e2b_{}", "0a".repeat(20));
        let mut all = headers(&[
            ("x-api-key", &ours),
            ("e2b-traffic-access-token", "t"),
            ("e2b-sandbox-id", "i"),
            ("e2b-sandbox-port", "1"),
            ("authorization", "Bearer the-apps"),
            ("x-access-token", "a"),
        ]);
        keep_credentials(&mut all);
        assert_eq!(left(&all), [("authorization", "Bearer the-apps"), ("x-access-token", "a")]);
        let mut theirs = headers(&[("x-api-key", "sk-theirs")]);
        keep_credentials(&mut theirs);
        assert_eq!(left(&theirs), [("x-api-key", "sk-theirs")]);
        let mut both = headers(&[("x-api-key", "sk-theirs"), ("x-api-key", &ours)]);
        keep_credentials(&mut both);
        assert!(both.is_empty());
    }

    #[test]
    fn the_platforms_cookies_stay_and_the_servers_own_pass() {
        for (sent, passed) in [
            ("sandbar=t", None),
            ("a=1; sandbar=t; b=2", Some("a=1; b=2")),
            ("__Host-sandbar=t;a=1", Some("a=1")),
            ("a=1;__Host-sandbar_oauth=s;sandbar_oauth=s", Some("a=1")),
            ("sandbar_oauth_exchange=x; __Host-sandbar_oauth_exchange=x; sandbar =t", None),
            ("sandbars=1;  my=sandbar; sandbar_=2", Some("sandbars=1;  my=sandbar; sandbar_=2")),
        ] {
            let mut all = headers(&[("cookie", sent)]);
            keep_credentials(&mut all);
            assert_eq!(all.get("cookie").map(|value| value.to_str().unwrap()), passed, "{sent}");
        }
        let mut lines = headers(&[("cookie", "sandbar=t"), ("cookie", "a=1")]);
        keep_credentials(&mut lines);
        assert_eq!(left(&lines), [("cookie", "a=1")]);
    }

    #[test]
    fn cookies_are_one_line_in_http1() {
        let mut split = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("expect", "100-continue")]);
        as_http1(&mut split);
        assert_eq!(left(&split), [("cookie", "a=1; b=2; c=3")]);
    }
}
