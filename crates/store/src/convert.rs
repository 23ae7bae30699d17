//! Between PostgreSQL's types and ours. The schema's CHECKs keep what is stored within what is read here; a value outside is
//! told, not guessed at.

use std::fmt::Display;
use std::str::FromStr;

use crate::StoreError;

/// Reads a word (a state, a kind).
pub(crate) fn word<T: FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Unknown { column, value: text.to_owned() })
}

/// Reads a word that may be absent.
pub(crate) fn word_opt<T: FromStr>(
    column: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| word(column, text)).transpose()
}

/// Reads a number that is never negative.
pub(crate) fn unsigned<S, U>(column: &'static str, value: S) -> Result<U, StoreError>
where
    S: Copy + Display,
    U: TryFrom<S>,
{
    U::try_from(value).map_err(|_| StoreError::Unknown { column, value: value.to_string() })
}

/// Reads a number that may be absent.
pub(crate) fn unsigned_opt<S, U>(column: &'static str, value: Option<S>) -> Result<Option<U>, StoreError>
where
    S: Copy + Display,
    U: TryFrom<S>,
{
    value.map(|value| unsigned(column, value)).transpose()
}

/// A number for a column that is narrower on its positive side. Callers have checked the bounds; beyond them the largest value is
/// stored, which the schema's CHECKs then refuse.
pub(crate) fn integer(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// As [`integer`].
pub(crate) fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbar_types::SandboxStatus;

    #[test]
    fn unknown_values_are_named() {
        assert!(matches!(word("sandboxes.status", "running"), Ok(SandboxStatus::Running)));
        let error = word::<SandboxStatus>("sandboxes.status", "asleep").unwrap_err();
        assert_eq!(error.to_string(), "sandboxes.status holds \"asleep\", which this version does not know");
        assert!(unsigned::<i32, u32>("sandboxes.vcpus", -1).is_err());
        assert_eq!(unsigned_opt::<i64, u64>("x", None).unwrap(), None);
        assert_eq!((integer(u32::MAX), bigint(u64::MAX)), (i32::MAX, i64::MAX));
    }
}
