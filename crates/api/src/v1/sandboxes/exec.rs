//! `POST /v1/sandboxes/{id}/exec`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sandbar_control::sandboxes::{Command, ExecResult};
use sandbar_types::{Id, id};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathId};
use crate::schema::ActRefusals;

/// A command, and how long it may take.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Exec {
    /// A program, found by the guest's PATH. No shell is involved.
    #[schema(example = "python3", min_length = 1)]
    cmd: String,
    #[serde(default)]
    #[schema(example = json!(["-c", "print(6 * 7)"]))]
    args: Option<Vec<String>>,
    /// Seconds after which it is killed.
    #[schema(minimum = 1, maximum = 3600, default = 30)]
    timeout_sec: Option<u32>,
    /// Beside the sandbox's own environment.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// By default the user's home.
    cwd: Option<String>,
    /// By default the template's user.
    user: Option<String>,
    /// Not supported yet: `true` is refused. `exec/stream` with `detach` leaves a command running.
    background: Option<bool>,
}

/// How a command ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecOutcome {
    #[schema(value_type = String)]
    sandbox_id: Id<id::Sandbox>,
    cmd: String,
    /// At most 1 MiB, in `encoding`.
    stdout: String,
    /// At most 1 MiB, in `encoding`.
    stderr: String,
    /// -1 where a signal ended it.
    exit_code: i32,
    duration_ms: u64,
    encoding: Encoding,
    /// Whether output beyond the limit was dropped.
    truncated: bool,
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub(crate) enum Encoding {
    /// As they are: they are valid UTF-8.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64, with padding.
    #[serde(rename = "base64")]
    Base64,
}

/// Runs a command to its end.
#[utoipa::path(
    post,
    path = "/{id}/exec",
    operation_id = "exec_in_sandbox",
    tag = "sandboxes",
    params(("id" = String, Path, description = "The sandbox's id, `sb-...`")),
    request_body = Exec,
    responses((status = 200, description = "It ended, whatever its exit code", body = ExecOutcome), ActRefusals),
    security(("api_key" = [])),
)]
pub(crate) async fn exec_in_sandbox(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathId(id): PathId<id::Sandbox>,
    JsonBody(body): JsonBody<Exec>,
) -> Result<Json<ExecOutcome>, ApiError> {
    let Exec { cmd, args, timeout_sec, env, cwd, user, background } = body;
    if background == Some(true) {
        return Err(ApiError::invalid(
            "background is not supported yet: use exec/stream with detach to leave a command running",
        ));
    }
    let sandbox = app.control.sandbox_get(&ctx, id).await?;
    let command = Command { cmd, args: args.unwrap_or_default(), env: env.unwrap_or_default(), cwd, user };
    let result = app.control.sandbox_exec(&ctx, &sandbox, &command, timeout_sec).await?;
    Ok(Json(ExecOutcome::new(id, command.cmd, result)))
}

impl ExecOutcome {
    fn new(sandbox_id: Id<id::Sandbox>, cmd: String, result: ExecResult) -> Self {
        let ExecResult { stdout, stderr, exit_code, duration, truncated } = result;
        let (stdout, stderr, encoding) = encode(stdout, stderr, truncated);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { sandbox_id, cmd, stdout, stderr, exit_code, duration_ms, encoding, truncated }
    }
}

/// Both streams in one encoding: as text where both are UTF-8.
///
/// Output that was cut may end in the middle of a character; that rest is dropped, like all that came after it, rather than
/// turning a long text into base64.
fn encode(stdout: Bytes, stderr: Bytes, truncated: bool) -> (String, String, Encoding) {
    let text = |bytes: &Bytes| match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(error) if truncated && error.error_len().is_none() => {
            let whole = bytes.get(..error.valid_up_to())?;
            String::from_utf8(whole.to_vec()).ok()
        }
        Err(_) => None,
    };
    match (text(&stdout), text(&stderr)) {
        (Some(stdout), Some(stderr)) => (stdout, stderr, Encoding::Utf8),
        _ => (STANDARD.encode(stdout), STANDARD.encode(stderr), Encoding::Base64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_one_stream_of_bytes_makes_both_base64() {
        let bytes = |data: &'static [u8]| Bytes::from_static(data);
        assert_eq!(
            encode(bytes("grüße\n".as_bytes()), bytes(b""), false),
            ("grüße\n".to_owned(), String::new(), Encoding::Utf8)
        );
        assert_eq!(
            encode(bytes(b"ok"), bytes(b"\xff"), false),
            ("b2s=".to_owned(), "/w==".to_owned(), Encoding::Base64)
        );
    }

    #[test]
    fn only_output_that_was_cut_loses_a_broken_last_character() {
        let cut = Bytes::from_static(b"ab\xc3");
        assert_eq!(encode(cut.clone(), Bytes::new(), true).0, "ab");
        assert_eq!(encode(cut, Bytes::new(), false).2, Encoding::Base64);
        // Bytes that are wrong in the middle are no text, cut or not.
        assert_eq!(encode(Bytes::from_static(b"a\xffb"), Bytes::new(), true).2, Encoding::Base64);
    }
}
