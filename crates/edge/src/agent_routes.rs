//! What of the guest agent may be asked for from outside. What is not named here is the host's alone (`/init`, `/snapshot/...`,
//! `/connect`), and so is every path that would only become another one by somebody's reading of it: a list of what is refused
//! would have to know all of those.

/// Whether a path, as it was sent, is one of those.
pub(crate) fn is_open(path: &str) -> bool {
    let is_method = |service: &str| {
        let method = path.strip_prefix('/').and_then(|rest| rest.strip_prefix(service)?.strip_prefix('/'));
        method.is_some_and(|method| !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    matches!(path, "/health" | "/metrics" | "/envs" | "/files")
        || is_method("process.Process")
        || is_method("filesystem.Filesystem")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_e2bs_clients_ask_for_is_open() {
        for path in [
            "/health",
            "/metrics",
            "/envs",
            "/files",
            "/process.Process/Start",
            "/process.Process/StreamInput",
            "/filesystem.Filesystem/WatchDir",
        ] {
            assert!(is_open(path), "{path}");
        }
    }

    #[test]
    fn what_is_the_hosts_is_closed_however_it_is_written() {
        for path in [
            "/init",
            "//init",
            "/./init",
            "/x/../init",
            "/files/../init",
            "/%69nit",
            "/init/",
            "/init;x",
            "/INIT",
            "/snapshot/prepare",
            "/snapshot/resume",
            "/health/../snapshot/resume",
            "/process.Process/../../init",
            "/process.Process/..%2f..%2finit",
            "/connect",
            "/connect?port=1",
            "/ready",
            "/freeze",
            "",
            "/",
            "*",
        ] {
            assert!(!is_open(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn an_open_path_means_only_itself(path in "/[ -~]{0,40}") {
            if is_open(&path) {
                prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/' || b == b'.'));
                prop_assert!(!path.contains("..") && !path.contains("//"));
            }
        }
    }
}
