//! `POST /init`: the host makes this guest one particular sandbox. After a boot, and again after every restore.
//!
//! The order is the contract. Clock, entropy and hostname come before the token, since with the token the sandbox begins
//! to serve: a guest that shares its random numbers with its siblings must never do that. So a failed step leaves the
//! token as it was and answers 500.
//!
//! After a restore of a guest that was sealed (`snapshot`), this is also what opens it. It is then not enough to say nothing:
//! time, entropy and token must come along.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State as Extract};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::connections::Peer;
use crate::error::ApiError;
use crate::server::Agent;
use crate::state::{AccessToken, Door, Sandbox, StateError};
use crate::system::System;

/// Bytes of entropy that one call may bring.
const ENTROPY_MAX: usize = 4096;
/// Linux's limit for a hostname.
const HOSTNAME_MAX: usize = 64;

/// What the host asks for. Every field is optional: what is absent stays as it is.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct InitRequest {
    access_token: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
    timestamp_unix_nanos: Option<Nanos>,
    hostname: Option<String>,
    entropy: Option<String>,
    default_user: Option<String>,
    default_workdir: Option<String>,
}

/// A 64-bit number: as a string in protobuf's JSON, as a number in everybody else's.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Nanos {
    Number(u64),
    Text(String),
}

impl Nanos {
    pub(crate) fn read(self) -> Result<u64, std::num::ParseIntError> {
        match self {
            Self::Number(nanos) => Ok(nanos),
            Self::Text(text) => text.parse(),
        }
    }
}

/// The steps in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Set the wall clock.
    Clock,
    /// Re-seed the kernel's random numbers.
    Entropy,
    /// Name the machine.
    Hostname,
    /// Keep environment, defaults and token: from here on the sandbox serves.
    Identity,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clock => "clock",
            Self::Entropy => "entropy",
            Self::Hostname => "hostname",
            Self::Identity => "identity",
        })
    }
}

/// Why `/init` failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The request makes no sense; nothing was changed.
    #[error("invalid {field}: {reason}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The machine refused a step; the token is as before.
    #[error("step {step} failed: {source}")]
    Machine {
        /// Which step.
        step: Step,
        /// Why.
        source: io::Error,
    },
    /// The state could not be kept; the token is as before.
    #[error("step {} failed: {source}", Step::Identity)]
    State {
        /// Why.
        #[from]
        source: StateError,
    },
}

/// A request that has been read and found sensible.
struct Plan {
    unix_nanos: Option<u64>,
    entropy: Option<Vec<u8>>,
    hostname: Option<String>,
    identity: Box<dyn FnOnce(&mut Sandbox) + Send>,
}

/// Handles the route. Who may call it is decided before, in `auth`.
pub(crate) async fn handle(
    Extract(agent): Extract<Arc<Agent>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Response {
    let request: InitRequest = match read(&body) {
        Ok(request) => request,
        Err(error) => return ApiError::bad_request(format!("invalid body: {error}")).into_response(),
    };
    // One at a time: two interleaved calls could mix two sandboxes' identities.
    let _turn = agent.identity_turn.lock().await;
    let before = agent.state.current();
    let hostname = request.hostname.clone();
    // Here and not on a thread of its own: it is a handful of system calls, and after a restore a new thread would cost more than
    // all of them.
    match apply(request, agent.system.as_ref(), &agent.state) {
        Ok(()) => {
            // With another token it is another sandbox, whose log this is not.
            if before.access_token.is_some() && before.access_token != agent.state.current().access_token {
                agent.processes.log().forget();
            }
            if before.door == Door::Sealed {
                agent.connections.end_sealed(Some(peer.connection));
            }
            if let Some(name) = hostname {
                // After the answer, and before the agent's one thread turns to another request.
                let agent = Arc::clone(&agent);
                tokio::spawn(async move { agent.system.publish_hostname(&name) });
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error @ InitError::Invalid { .. }) => ApiError::bad_request(error.to_string()).into_response(),
        Err(error) => {
            tracing::error!(%error, "init failed");
            ApiError::internal(error.to_string()).into_response()
        }
    }
}

/// An object, or nothing at all, which is one without fields.
pub(crate) fn read<T: DeserializeOwned + Default>(body: &[u8]) -> serde_json::Result<T> {
    if body.is_empty() {
        return Ok(T::default());
    }
    // By way of a map: serde would also take an array for the fields in their order.
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
    serde_json::from_value(fields.into())
}

/// Makes the steps in order and stops at the first that fails.
///
/// # Errors
/// If the request is invalid (nothing was done) or a step failed (those before it are done, the token is as it was).
pub fn apply(
    request: InitRequest,
    system: &dyn System,
    state: &crate::state::State,
) -> Result<(), InitError> {
    let plan = check(request, state.current().door)?;
    let failed = |step| move |source| InitError::Machine { step, source };
    if let Some(unix_nanos) = plan.unix_nanos {
        system.set_clock(unix_nanos).map_err(failed(Step::Clock))?;
    }
    if let Some(seed) = &plan.entropy {
        system.add_entropy(seed).map_err(failed(Step::Entropy))?;
    }
    if let Some(name) = &plan.hostname {
        system.set_hostname(name).map_err(failed(Step::Hostname))?;
    }
    let mut sandbox = Sandbox::clone(&state.current());
    (plan.identity)(&mut sandbox);
    Ok(state.replace(sandbox)?)
}

fn check(request: InitRequest, door: Door) -> Result<Plan, InitError> {
    let InitRequest {
        access_token,
        env_vars,
        timestamp_unix_nanos,
        hostname,
        entropy,
        default_user,
        default_workdir,
    } = request;
    let invalid = |field, reason| InitError::Invalid { field, reason };

    if door == Door::Sealed {
        let needed = [
            ("accessToken", access_token.is_some()),
            ("entropy", entropy.is_some()),
            ("timestampUnixNanos", timestamp_unix_nanos.is_some()),
        ];
        if let Some((field, _)) = needed.into_iter().find(|(_, given)| !given) {
            return Err(invalid(field, "needed after a snapshot"));
        }
    }
    let unix_nanos = timestamp_unix_nanos
        .map(Nanos::read)
        .transpose()
        .map_err(|_| invalid("timestampUnixNanos", "not a number of nanoseconds"))?;
    let entropy = match entropy {
        None => None,
        Some(text) => {
            let seed = STANDARD.decode(text).map_err(|_| invalid("entropy", "not base64"))?;
            if seed.is_empty() || seed.len() > ENTROPY_MAX {
                return Err(invalid("entropy", "must be 1 to 4096 bytes"));
            }
            Some(seed)
        }
    };
    if hostname.as_deref().is_some_and(|name| !is_hostname(name)) {
        return Err(invalid("hostname", "not a hostname"));
    }
    let token = match access_token {
        None => None,
        Some(token) => Some(AccessToken::new(token).ok_or_else(|| invalid("accessToken", "empty"))?),
    };
    if env_vars.iter().flatten().any(|(name, value)| !is_env(name, value)) {
        return Err(invalid("envVars", "a name is empty or holds '=', or something holds a NUL"));
    }
    if default_user.as_deref() == Some("") {
        return Err(invalid("defaultUser", "empty"));
    }
    if default_workdir.as_deref() == Some("") {
        return Err(invalid("defaultWorkdir", "empty"));
    }

    let identity = Box::new(move |sandbox: &mut Sandbox| {
        if let Some(env_vars) = env_vars {
            sandbox.env_vars = env_vars;
        }
        sandbox.default_user = default_user.or(sandbox.default_user.take());
        sandbox.default_workdir = default_workdir.or(sandbox.default_workdir.take());
        sandbox.access_token = token.or(sandbox.access_token.take());
        sandbox.door = Door::Open;
    });
    Ok(Plan { unix_nanos, entropy, hostname, identity })
}

fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= HOSTNAME_MAX && name.split('.').all(label)
}

/// Whether the kernel can pass this to a process.
pub(crate) fn is_env(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use crate::state::State;

    /// A machine that writes down what was done, and refuses one step.
    #[derive(Default)]
    struct Recorder {
        done: Mutex<Vec<String>>,
        refuses: Option<Step>,
    }

    impl Recorder {
        fn record(&self, step: Step, what: String) -> io::Result<()> {
            if self.refuses == Some(step) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.done.lock().unwrap().push(what);
            Ok(())
        }
    }

    impl System for Recorder {
        fn set_clock(&self, unix_nanos: u64) -> io::Result<()> {
            self.record(Step::Clock, format!("clock {unix_nanos}"))
        }
        fn add_entropy(&self, seed: &[u8]) -> io::Result<()> {
            self.record(Step::Entropy, format!("entropy {}", seed.len()))
        }
        fn set_hostname(&self, name: &str) -> io::Result<()> {
            self.record(Step::Hostname, format!("hostname {name}"))
        }
        fn publish_hostname(&self, _name: &str) {}
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::load(dir.path().join("state.json")).unwrap();
        (dir, state)
    }

    fn request(json: &str) -> InitRequest {
        serde_json::from_str(json).unwrap()
    }

    const ALL: &str = r#"{"accessToken":"t","envVars":{"A":"1"},"timestampUnixNanos":"1700000000000000001",
        "hostname":"sandbox-1","entropy":"AAECAwQFBgc=","defaultUser":"root","defaultWorkdir":"/srv","unknown":1}"#;

    #[test]
    fn steps_come_in_order_and_the_token_last() {
        let (_dir, state) = state();
        let machine = Recorder::default();
        apply(request(ALL), &machine, &state).unwrap();
        assert_eq!(
            *machine.done.lock().unwrap(),
            ["clock 1700000000000000001", "entropy 8", "hostname sandbox-1"]
        );
        let sandbox = state.current();
        assert!(sandbox.access_token.as_ref().unwrap().matches(b"t"));
        assert_eq!(sandbox.env_vars["A"], "1");
        assert_eq!((sandbox.default_user(), sandbox.default_workdir.as_deref()), ("root", Some("/srv")));
    }

    #[test]
    fn no_token_while_a_step_fails() {
        for step in [Step::Clock, Step::Entropy, Step::Hostname] {
            let (_dir, state) = state();
            let machine = Recorder { refuses: Some(step), ..Recorder::default() };
            let error = apply(request(ALL), &machine, &state).unwrap_err();
            assert!(error.to_string().starts_with(&format!("step {step} failed")), "{error}");
            assert!(state.current().access_token.is_none());
        }
    }

    #[test]
    fn a_seal_ends_with_the_identity_and_not_without_all_of_it() {
        let (_dir, state) = state();
        apply(request(ALL), &Recorder::default(), &state).unwrap();
        let sealed = Sandbox { door: Door::Sealed, ..Sandbox::clone(&state.current()) };
        state.replace(sealed.clone()).unwrap();
        for json in [
            "{}",
            r#"{"hostname":"h"}"#,
            r#"{"accessToken":"new","entropy":"AAEC"}"#,
            r#"{"accessToken":"new","timestampUnixNanos":1}"#,
            r#"{"entropy":"AAEC","timestampUnixNanos":1}"#,
        ] {
            let error = apply(request(json), &Recorder::default(), &state).unwrap_err();
            assert!(matches!(error, InitError::Invalid { .. }), "{json}: {error}");
            assert!(*state.current() == sealed, "{json}");
        }
        for step in [Step::Clock, Step::Entropy, Step::Hostname] {
            let machine = Recorder { refuses: Some(step), ..Recorder::default() };
            apply(request(ALL), &machine, &state).unwrap_err();
            assert!(*state.current() == sealed, "{step}");
        }
        let new = r#"{"accessToken":"new","entropy":"AAEC","timestampUnixNanos":1}"#;
        apply(request(new), &Recorder::default(), &state).unwrap();
        let sandbox = state.current();
        assert!(sandbox.access_token.as_ref().unwrap().matches(b"new"));
        assert_eq!(sandbox.door, Door::Open);
    }

    #[test]
    fn no_token_if_it_cannot_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::load(dir.path().join("state.json")).unwrap();
        // Longer than a page, the state needs a new file, whose name is taken.
        std::fs::create_dir(dir.path().join("state.tmp")).unwrap();
        let env_vars = Some(BTreeMap::from([("A".into(), "b".repeat(5000))]));
        let error =
            apply(InitRequest { env_vars, ..request(ALL) }, &Recorder::default(), &state).unwrap_err();
        assert!(error.to_string().starts_with("step identity failed"), "{error}");
        assert!(state.current().access_token.is_none());
    }

    #[test]
    fn what_is_absent_stays() {
        let (_dir, state) = state();
        apply(request(ALL), &Recorder::default(), &state).unwrap();
        let before = state.current();
        apply(request(r#"{"timestampUnixNanos":5}"#), &Recorder::default(), &state).unwrap();
        assert!(*before == *state.current());
        apply(request(r#"{"envVars":{}}"#), &Recorder::default(), &state).unwrap();
        assert!(state.current().env_vars.is_empty());
    }

    #[test]
    fn nonsense_changes_nothing() {
        let long = format!(r#"{{"hostname":"{}"}}"#, "a".repeat(65));
        let big = format!(r#"{{"entropy":"{}"}}"#, STANDARD.encode([0; 4097]));
        for json in [
            r#"{"accessToken":"","hostname":"h"}"#,
            r#"{"timestampUnixNanos":"soon","hostname":"h"}"#,
            r#"{"entropy":"?","hostname":"h"}"#,
            r#"{"entropy":"","hostname":"h"}"#,
            r#"{"hostname":""}"#,
            r#"{"hostname":"a b"}"#,
            r#"{"hostname":"-a"}"#,
            r#"{"hostname":"a\nb"}"#,
            r#"{"envVars":{"A=B":"1"},"hostname":"h"}"#,
            r#"{"envVars":{"":"1"},"hostname":"h"}"#,
            r#"{"defaultUser":"","hostname":"h"}"#,
            r#"{"defaultWorkdir":"","hostname":"h"}"#,
            long.as_str(),
            big.as_str(),
        ] {
            let (_dir, state) = state();
            let machine = Recorder::default();
            let error = apply(request(json), &machine, &state).unwrap_err();
            assert!(matches!(error, InitError::Invalid { .. }), "{json}: {error}");
            assert!(machine.done.lock().unwrap().is_empty(), "{json}");
        }
    }
}
