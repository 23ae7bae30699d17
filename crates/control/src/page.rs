//! Keyset pages: newest first, the next page named by the last row of this one, so that inserts never skip or repeat a row.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use sandbar_store::Position;
use uuid::Uuid;

/// Most items of one page.
pub const MAX_LIMIT: u32 = 200;
/// Items of a page where the caller does not say.
pub const DEFAULT_LIMIT: u32 = 50;

/// Where a page begins: after this row. Opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub(crate) Position);

/// Text that is no cursor of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid cursor: pass the one that came with the page before, as it was")]
pub struct InvalidCursor;

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// Where the next page begins; none on the last page.
    pub next: Option<Cursor>,
}

/// Which page is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    limit: u32,
    after: Option<Cursor>,
}

/// A limit that is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limit must be between 1 and {MAX_LIMIT}")]
pub struct InvalidLimit;

impl PageRequest {
    /// A page of at most `limit` items (by default [`DEFAULT_LIMIT`]) after a cursor, or from the newest on.
    pub fn new(limit: Option<u32>, after: Option<Cursor>) -> Result<Self, InvalidLimit> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if (1..=MAX_LIMIT).contains(&limit) { Ok(Self { limit, after }) } else { Err(InvalidLimit) }
    }

    /// How many rows to fetch: one more than the page holds tells whether another page follows.
    pub(crate) fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    pub(crate) fn after(&self) -> Option<Position> {
        self.after.map(|cursor| cursor.0)
    }

    /// Makes the page of the rows fetched.
    pub(crate) fn page<R, T>(
        &self,
        mut rows: Vec<R>,
        position: impl Fn(&R) -> Position,
        item: impl Fn(R) -> T,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(|row| Cursor(position(row))) } else { None };
        Page { items: rows.into_iter().map(item).collect(), next }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, after: None }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 24];
        let (time, id) = bytes.split_at_mut(8);
        time.copy_from_slice(&self.0.created_at.timestamp_micros().to_be_bytes());
        id.copy_from_slice(self.0.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let (time, id) = bytes.split_first_chunk::<8>().ok_or(InvalidCursor)?;
        let created_at: DateTime<Utc> =
            DateTime::from_timestamp_micros(i64::from_be_bytes(*time)).ok_or(InvalidCursor)?;
        let id = Uuid::from_slice(id).map_err(|_| InvalidCursor)?;
        Ok(Self(Position { created_at, id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursor_round_trips_to_the_microsecond(
            micros in 0i64..4_102_444_800_000_000,
            bytes in any::<[u8; 16]>(),
        ) {
            let created_at = DateTime::from_timestamp_micros(micros).unwrap();
            let cursor = Cursor(Position { created_at, id: Uuid::from_bytes(bytes) });
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn garbage_is_refused_without_panic(text in "\\PC{0,60}") {
            // 24 bytes of valid base64 are a cursor to somewhere: harmless. Anything else is refused.
            if URL_SAFE_NO_PAD.decode(&text).map_or(true, |bytes| bytes.len() != 24) {
                prop_assert!(text.parse::<Cursor>().is_err());
            }
        }

        #[test]
        fn a_page_never_exceeds_its_limit_and_names_the_next_only_when_there_is_one(
            rows in 0usize..30, limit in 1u32..20,
        ) {
            let request = PageRequest::new(Some(limit), None).unwrap();
            let fetched: Vec<u128> = (0..rows.min(usize::try_from(request.fetch()).unwrap()) as u128).collect();
            let at = |row: &u128| Position { created_at: DateTime::UNIX_EPOCH, id: Uuid::from_u128(*row) };
            let page = request.page(fetched, at, |row| row);
            prop_assert_eq!(page.items.len(), rows.min(limit as usize));
            prop_assert_eq!(page.next.is_some(), rows > limit as usize);
            if let Some(next) = page.next {
                prop_assert_eq!(next.0.id.as_u128(), *page.items.last().unwrap());
            }
        }
    }

    #[test]
    fn limits_are_bounded() {
        for bad in [0, MAX_LIMIT + 1, u32::MAX] {
            assert!(PageRequest::new(Some(bad), None).is_err(), "{bad}");
        }
        assert!(PageRequest::new(Some(MAX_LIMIT), None).is_ok());
    }
}
