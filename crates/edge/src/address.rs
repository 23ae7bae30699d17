//! To which port of which sandbox a request is addressed: by its host's first label, `PORT-ID`, or by headers.
//!
//! The id is the sandbox's own (`sb-UUID`) or 32 hexadecimal digits, as E2B's clients have it. A label of that form is meant for a
//! sandbox whatever domain follows, so the platform can be reached by any name that leads to it.

use http::{HeaderMap, HeaderName, Request, header};
use sandbar_types::guest::AGENT_PORT;
use sandbar_types::{Id, id::Sandbox};
use uuid::Uuid;

use crate::refusal::Refusal;

pub(crate) const SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
pub(crate) const SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// The API's own name below the domain.
const API_LABEL: &str = "api";
/// Where E2B's API has sandboxes.
const API_PATH: &str = "/sandboxes/";

/// A port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) id: Id<Sandbox>,
    pub(crate) port: u16,
    /// The id as the caller wrote it.
    pub(crate) name: String,
}

/// Where a request is to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Addressed {
    ToApi,
    ToSandbox(Address),
    /// It is meant for a sandbox, and there cannot be such a one.
    Nowhere {
        name: String,
        refusal: Refusal,
    },
}

/// The host that the client asked for, port and all.
pub(crate) fn host_of<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

pub(crate) fn of<B>(request: &Request<B>, domain: Option<&str>) -> Addressed {
    if is_for_api(request, domain) {
        return Addressed::ToApi;
    }
    match by_headers(request.headers()) {
        Addressed::ToApi => host_of(request).map_or(Addressed::ToApi, |host| by_host(host, domain)),
        addressed => addressed,
    }
}

/// E2B's clients of a year ago send the headers with calls of the API, too: to its own name, where it has one, or else to paths that are nothing to
/// the guest agent, whose port they name.
fn is_for_api<B>(request: &Request<B>, domain: Option<&str>) -> bool {
    let has_its_name = |host: &str| {
        let (label, rest) = host.split_once('.').unwrap_or((host, ""));
        let ours = domain.is_some_and(|domain| without_port(rest).eq_ignore_ascii_case(without_port(domain)));
        ours && label.eq_ignore_ascii_case(API_LABEL)
    };
    let of_agent = || {
        request
            .headers()
            .get(SANDBOX_PORT)
            .is_some_and(|port| port.as_bytes() == AGENT_PORT.to_string().as_bytes())
    };
    host_of(request).is_some_and(has_its_name) || (request.uri().path().starts_with(API_PATH) && of_agent())
}

fn by_headers(headers: &HeaderMap) -> Addressed {
    let Some(id) = headers.get(SANDBOX_ID) else { return Addressed::ToApi };
    let name = String::from_utf8_lossy(id.as_bytes()).into_owned();
    let port = headers.get(SANDBOX_PORT).and_then(|value| value.to_str().ok()).and_then(port);
    match (sandbox(&name), port) {
        (Some(id), Some(port)) => Addressed::ToSandbox(Address { id, port, name }),
        (None, _) => Addressed::Nowhere { name, refusal: Refusal::NotFound },
        (Some(_), None) => Addressed::Nowhere { name, refusal: Refusal::BadAddress },
    }
}

fn by_host(host: &str, domain: Option<&str>) -> Addressed {
    let host = host.to_ascii_lowercase();
    let (label, rest) = host.split_once('.').unwrap_or((&host, ""));
    let Some((port_text, name)) = label.split_once('-') else { return Addressed::ToApi };
    let Some(port) = port(port_text) else { return Addressed::ToApi };
    let name = name.to_owned();
    match sandbox(&name) {
        Some(id) => Addressed::ToSandbox(Address { id, port, name }),
        // Below the platform's own domain it can be meant for nothing else.
        None if domain.is_some_and(|domain| without_port(rest) == without_port(domain)) => {
            Addressed::Nowhere { name, refusal: Refusal::NotFound }
        }
        None => Addressed::ToApi,
    }
}

fn without_port(host: &str) -> &str {
    host.split(':').next().unwrap_or(host)
}

/// One port has one spelling.
fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok().filter(|port| *port != 0)?;
    (port.to_string() == text).then_some(port)
}

fn sandbox(name: &str) -> Option<Id<Sandbox>> {
    let is_hex =
        |name: &str| name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex(name) { Uuid::try_parse(name).ok().map(Id::from_uuid) } else { name.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(host: &str, headers: &[(&str, &str)]) -> Addressed {
        let mut request = Request::get("/").header(header::HOST, host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        of(&request.body(()).unwrap(), Some("sbx.example"))
    }

    fn to(addressed: Addressed) -> Option<(Id<Sandbox>, u16)> {
        match addressed {
            Addressed::ToSandbox(address) => Some((address.id, address.port)),
            Addressed::ToApi | Addressed::Nowhere { .. } => None,
        }
    }

    #[test]
    fn a_sandbox_is_named_by_host_under_any_domain_and_by_headers() {
        let id: Id<Sandbox> = Id::new();
        let port = 3000;
        for host in [
            format!("3000-{id}.sbx.example"),
            format!("3000-{}.sbx.example:8443", id.e2b()),
            format!("3000-{}.localhost:8080", id.e2b()),
            format!("3000-{}.SBX.example", id.e2b().to_uppercase()),
        ] {
            assert_eq!(to(asked(&host, &[])), Some((id, port)), "{host}");
        }
        for name in [id.to_string(), id.e2b()] {
            let headers = [("e2b-sandbox-id", name.as_str()), ("e2b-sandbox-port", "3000")];
            assert_eq!(to(asked("127.0.0.1:8080", &headers)), Some((id, port)));
            // They say more than the host.
            assert_eq!(to(asked(&format!("1-{}.x", Id::<Sandbox>::new()), &headers)), Some((id, port)));
        }
    }

    #[test]
    fn calls_of_the_api_stay_that_though_they_name_a_sandbox() {
        let id = Id::<Sandbox>::new().e2b();
        let asked = |host: &str, path: &str, port: &str| {
            let request = Request::post(path).header(header::HOST, host);
            let request = request.header("e2b-sandbox-id", &id).header("e2b-sandbox-port", port);
            of(&request.body(()).unwrap(), Some("sbx.example:8443"))
        };
        let connect = format!("/sandboxes/{id}/connect");
        assert_eq!(asked("api.sbx.example:8443", &connect, "49983"), Addressed::ToApi);
        assert_eq!(asked("API.sbx.example", "/files", "8000"), Addressed::ToApi);
        assert_eq!(asked("127.0.0.1:8080", &connect, "49983"), Addressed::ToApi);
        // A server of the sandbox's may have such paths, and the agent has others.
        assert!(to(asked("127.0.0.1:8080", &connect, "8000")).is_some());
        assert!(to(asked("127.0.0.1:8080", "/files", "49983")).is_some());
        assert!(to(asked("api.other.example", "/files", "49983")).is_some());
    }

    #[test]
    fn hosts_of_other_forms_are_the_apis() {
        let id: Id<Sandbox> = Id::new();
        for host in [
            "127.0.0.1:8080".to_owned(),
            "[::1]:8080".to_owned(),
            "api.sbx.example".to_owned(),
            "sbx.example".to_owned(),
            format!("{id}.sbx.example"),
            format!("0-{id}.sbx.example"),
            format!("65536-{id}.sbx.example"),
            format!("03000-{id}.sbx.example"),
            format!("+3000-{id}.sbx.example"),
            "3000-short.other.example".to_owned(),
            String::new(),
        ] {
            assert_eq!(asked(&host, &[]), Addressed::ToApi, "{host}");
        }
    }

    #[test]
    fn what_cannot_be_a_sandbox_is_said_so_where_nothing_else_can_be_meant() {
        let id: Id<Sandbox> = Id::new();
        let name = |addressed| match addressed {
            Addressed::Nowhere { name, refusal } => Some((name, refusal)),
            _ => None,
        };
        let unknown = name(asked("49983-i0123.sbx.example:8443", &[]));
        assert_eq!(unknown, Some(("i0123".to_owned(), Refusal::NotFound)));
        let unknown = name(asked("h", &[("e2b-sandbox-id", "i0123"), ("e2b-sandbox-port", "1")]));
        assert_eq!(unknown, Some(("i0123".to_owned(), Refusal::NotFound)));
        let id = id.e2b();
        for port in ["", "0", "x", "70000"] {
            let headers = [("e2b-sandbox-id", id.as_str()), ("e2b-sandbox-port", port)];
            assert_eq!(name(asked("h", &headers)), Some((id.clone(), Refusal::BadAddress)), "{port}");
        }
        assert_eq!(name(asked("h", &[("e2b-sandbox-id", &id)])), Some((id.clone(), Refusal::BadAddress)));
    }

    proptest! {
        #[test]
        fn every_port_of_every_sandbox_has_its_name(raw in any::<u128>(), port in 1_u16..) {
            let id: Id<Sandbox> = Id::from_uuid(Uuid::from_u128(raw));
            for name in [id.to_string(), id.e2b()] {
                prop_assert_eq!(to(asked(&format!("{port}-{name}.x"), &[])), Some((id, port)));
            }
        }

        #[test]
        fn no_host_breaks_it(host in "[ -~]{0,80}") {
            if let Ok(request) = Request::get("/").header(header::HOST, host).body(()) {
                let _addressed = of(&request, Some("sbx.example"));
            }
        }
    }
}
