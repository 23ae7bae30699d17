//! Which state of a file somebody saw, in a word (`ETag`), and what a write asks of the state that it replaces (`If-Match`,
//! `If-None-Match`; RFC 9110, 13.1).
//!
//! The word is of what the kernel notes of a file with every change, so it costs no look at the contents: a change of its rights alone
//! makes another word, too. Writes through the agent keep it exactly, since they go one after the other. Of a program in the guest
//! that writes to the file in the moment of the copy itself, nobody learns.

use std::fs::Metadata as Attributes;
use std::os::unix::fs::MetadataExt;

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName};

use crate::error::ApiError;

/// A file's state, as `ETag` has it.
pub(super) fn tag(file: &Attributes) -> String {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let modified = nanos(file.mtime(), file.mtime_nsec());
    let changed = nanos(file.ctime(), file.ctime_nsec());
    format!("\"{:x}-{:x}-{modified:x}-{changed:x}\"", file.ino(), file.len())
}

/// What must be there for a write to take place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Whatever,
    Nothing,
    Something,
    /// A file in one of these states.
    States(Vec<String>),
}

impl Condition {
    /// Collects a request's headers. A condition that is not known here must not pass for none.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match (text(headers, &IF_MATCH)?.as_deref(), text(headers, &IF_NONE_MATCH)?.as_deref()) {
            (None, None) => Ok(Self::Whatever),
            (Some("*"), None) => Ok(Self::Something),
            (None, Some("*")) => Ok(Self::Nothing),
            (Some(states), None) => {
                Ok(Self::States(states.split(',').map(|state| state.trim().to_owned()).collect()))
            }
            (None, Some(_)) => Err(ApiError::bad_request("if-none-match of a write is '*'")),
            (Some(_), Some(_)) => Err(ApiError::bad_request("if-match and if-none-match exclude each other")),
        }
    }

    /// Whether what is there is what must be.
    pub(super) fn allows(&self, there: Option<&Attributes>) -> bool {
        match (self, there) {
            (Self::Whatever, _) | (Self::Nothing, None) | (Self::Something, Some(_)) => true,
            (Self::Nothing, Some(_)) | (Self::Something | Self::States(_), None) => false,
            (Self::States(states), Some(there)) => states.contains(&tag(there)),
        }
    }
}

/// A header's value, its lines as one.
fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ApiError> {
    let lines: Result<Vec<&str>, _> = headers.get_all(name).iter().map(|line| line.to_str()).collect();
    let lines = lines.map_err(|_| ApiError::bad_request(format!("{name} is no text")))?;
    Ok((!lines.is_empty()).then(|| lines.join(",").trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_is_not_understood_is_refused() {
        let of = |pairs: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value.parse().unwrap());
            }
            Condition::of(&headers).ok()
        };
        let states = |states: &[&str]| {
            Some(Condition::States(states.iter().map(|state| (*state).to_owned()).collect()))
        };
        assert_eq!(of(&[]), Some(Condition::Whatever));
        assert_eq!(of(&[(IF_MATCH, "*")]), Some(Condition::Something));
        assert_eq!(of(&[(IF_NONE_MATCH, " * ")]), Some(Condition::Nothing));
        assert_eq!(
            of(&[(IF_MATCH, "\"a\" , \"b\""), (IF_MATCH, "\"c\"")]),
            states(&["\"a\"", "\"b\"", "\"c\""])
        );
        assert_eq!(of(&[(IF_MATCH, "")]), states(&[""]));
        assert_eq!(of(&[(IF_NONE_MATCH, "\"a\"")]), None);
        assert_eq!(of(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")]), None);
    }
}
