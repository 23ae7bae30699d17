//! Who may connect to a sandbox's ports by name, and what its servers are told of it.
//!
//! The guest agent's port is another matter: it takes the sandbox's own token, whatever stands here.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most ports that may be named.
pub const PUBLIC_PORTS: usize = 64;
/// Most bytes of a host name.
const HOST_BYTES: usize = 255;
/// Stands for the port in [`Ingress::mask_request_host`].
const PORT_MARK: &str = "${PORT}";

/// As the API takes it and the sandbox's row keeps it. The default lets in whoever has a key of the team or the traffic token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ingress {
    /// Whether anybody may reach every port.
    pub public: bool,
    /// The ports that anybody may reach where not all are public.
    pub public_ports: BTreeSet<u16>,
    /// What its servers see as `Host`, in place of the name that the client asked for.
    pub mask_request_host: Option<String>,
    /// Whether a request resumes it where it is paused.
    pub auto_resume: bool,
}

/// Why an ingress policy cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIngress {
    /// Port 0 is none.
    #[error("public_ports: 0 is not a port")]
    Port,
    /// Too many ports.
    #[error("public_ports may name at most {PUBLIC_PORTS} ports")]
    TooManyPorts,
    /// A host that cannot be one.
    #[error(
        "mask_request_host must be a host name, with a port or without, of at most {HOST_BYTES} characters"
    )]
    MaskRequestHost,
}

impl Ingress {
    /// Refuses what cannot be a policy.
    pub fn check(&self) -> Result<(), InvalidIngress> {
        if self.public_ports.contains(&0) {
            return Err(InvalidIngress::Port);
        }
        if self.public_ports.len() > PUBLIC_PORTS {
            return Err(InvalidIngress::TooManyPorts);
        }
        let is_host = |host: &String| {
            let host = host.replace(PORT_MARK, "65535");
            let fits = (1..=HOST_BYTES).contains(&host.len());
            fits && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        };
        if self.mask_request_host.as_ref().is_some_and(|host| !is_host(host)) {
            return Err(InvalidIngress::MaskRequestHost);
        }
        Ok(())
    }

    /// Whether anybody may reach this port.
    #[must_use]
    pub fn is_public(&self, port: u16) -> bool {
        self.public || self.public_ports.contains(&port)
    }

    /// What a server on this port sees as `Host`, if not what the client asked for.
    #[must_use]
    pub fn masked_host(&self, port: u16) -> Option<String> {
        self.mask_request_host.as_ref().map(|host| host.replace(PORT_MARK, &port.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_public_by_name_or_altogether() {
        let none = Ingress::default();
        let some = Ingress { public_ports: [80, 3000].into(), ..Ingress::default() };
        let all = Ingress { public: true, ..Ingress::default() };
        for port in [1, 80, 3000, 65535] {
            assert!(!none.is_public(port) && all.is_public(port), "{port}");
            assert_eq!(some.is_public(port), port == 80 || port == 3000, "{port}");
        }
    }

    #[test]
    fn a_masked_host_names_the_port_where_it_is_asked_to() {
        let masked = |host: &str| Ingress { mask_request_host: Some(host.to_owned()), ..Ingress::default() };
        for (host, seen) in [("localhost:${PORT}", "localhost:8080"), ("app.example.com", "app.example.com")]
        {
            let ingress = masked(host);
            assert_eq!(ingress.check(), Ok(()));
            assert_eq!(ingress.masked_host(8080).as_deref(), Some(seen));
        }
        for bad in ["", "a b", "a\r\nb", "a/b", "ünicode", "user@host", &"a".repeat(256)] {
            assert_eq!(masked(bad).check(), Err(InvalidIngress::MaskRequestHost), "{bad:?}");
        }
        assert_eq!(Ingress::default().masked_host(1), None);
    }

    #[test]
    fn ports_that_make_no_sense_are_refused() {
        let of = |ports: BTreeSet<u16>| Ingress { public_ports: ports, ..Ingress::default() }.check();
        assert_eq!(of([0].into()), Err(InvalidIngress::Port));
        assert_eq!(of((1..=65).collect()), Err(InvalidIngress::TooManyPorts));
        assert_eq!(of((1..=64).collect()), Ok(()));
    }
}
