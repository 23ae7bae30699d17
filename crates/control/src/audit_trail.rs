//! Reading the audit trail. What it is told is in `audit`.
//!
//! A walk through the pages sees what was there when its first page was asked for, each event once: the cursor carries the snapshot
//! of that page along with the place of the last event.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use sandbar_store::audit::{AuditFilter, AuditRow, Horizon};
use sandbar_store::{Position, StoreError};
use sandbar_types::{ErrorCode, Id, id};
use uuid::Uuid;

use crate::access::{AccessError, Role, store_code};
use crate::context::NoTeam;
use crate::page::InvalidCursor;
use crate::{Control, OpContext};

/// Longest cursor that is read, in characters: a snapshot names the transactions that were under way, of which there are never many.
const CURSOR_CHARS: usize = 8192;

/// An event.
pub type AuditEvent = AuditRow;

/// Which events are asked for.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Of these kinds of resources; empty = all.
    pub resource_types: Vec<String>,
    /// Of these resources; empty = all.
    pub resource_ids: Vec<String>,
    /// Of these actions; empty = all.
    pub actions: Vec<String>,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
}

/// Whose events are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// All teams' and the platform's.
    All,
    /// One team's.
    Team(Id<id::Team>),
}

/// Where a page of the trail begins, in the walk that the page before belongs to. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCursor {
    after: Position,
    horizon: Horizon,
}

/// A page of the trail, newest first.
#[derive(Debug, Clone)]
pub struct AuditPage {
    /// The events.
    pub items: Vec<AuditEvent>,
    /// Where the next page begins; none on the last one.
    pub next: Option<AuditCursor>,
}

/// Why the trail cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl AuditError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Access(error) => error.code(),
            Self::Store(error) => store_code(error),
        }
    }
}

impl From<NoTeam> for AuditError {
    fn from(error: NoTeam) -> Self {
        Self::Access(error.into())
    }
}

impl Control {
    /// A page of the caller's team's trail: all of it for its admins and owner, what concerns everybody for the others.
    pub async fn audit_list(
        &self,
        ctx: &OpContext,
        query: &AuditQuery,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, AuditError> {
        ctx.person()?;
        let seen = self.team_seen(ctx, ctx.team()?).await?;
        let admin_scope = seen.at_least(Role::Admin).is_ok();
        self.audit_page(Some(seen.team.id), admin_scope, query, after, limit).await
    }

    /// A page of everybody's trail, for the platform's administrators.
    pub async fn admin_audit_list(
        &self,
        ctx: &OpContext,
        whose: Whose,
        query: &AuditQuery,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, AuditError> {
        ctx.platform_admin()?;
        let team = match whose {
            Whose::All => None,
            Whose::Team(team) => Some(team),
        };
        self.audit_page(team, true, query, after, limit).await
    }

    async fn audit_page(
        &self,
        team_id: Option<Id<id::Team>>,
        admin_scope: bool,
        query: &AuditQuery,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, AuditError> {
        let (after, horizon) = match after {
            Some(AuditCursor { after, horizon }) => (Some(after), horizon),
            None => (None, self.store().audit_horizon().await?),
        };
        let AuditQuery { resource_types, resource_ids, actions, from, to } = query;
        let filter = AuditFilter {
            team_id,
            admin_scope,
            resource_types,
            resource_ids,
            actions,
            from: *from,
            to: *to,
            after,
            // One more than the page holds tells whether another follows.
            limit: i64::from(limit) + 1,
        };
        let mut items = self.store().audit_list(&filter, &horizon).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next = last.map(|row| {
            let after = Position { created_at: row.created_at, id: row.id.uuid() };
            AuditCursor { after, horizon: horizon.clone() }
        });
        Ok(AuditPage { items, next })
    }
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(32 + self.horizon.snapshot.len());
        bytes.extend(self.after.created_at.timestamp_micros().to_be_bytes());
        bytes.extend(self.after.id.as_bytes());
        bytes.extend(self.horizon.taken_at.timestamp_micros().to_be_bytes());
        bytes.extend(self.horizon.snapshot.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for AuditCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > CURSOR_CHARS {
            return Err(InvalidCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let (created_at, rest) = bytes.split_first_chunk().ok_or(InvalidCursor)?;
        let (id, rest) = rest.split_first_chunk().ok_or(InvalidCursor)?;
        let (taken_at, snapshot) = rest.split_first_chunk().ok_or(InvalidCursor)?;
        let snapshot = str::from_utf8(snapshot).map_err(|_| InvalidCursor)?;
        check_snapshot(snapshot).ok_or(InvalidCursor)?;
        Ok(Self {
            after: Position { created_at: moment(created_at)?, id: Uuid::from_bytes(*id) },
            horizon: Horizon { snapshot: snapshot.to_owned(), taken_at: moment(taken_at)? },
        })
    }
}

/// A moment within what the database can tell.
fn moment(micros: &[u8; 8]) -> Result<DateTime<Utc>, InvalidCursor> {
    const YEAR_3000: i64 = 32_503_680_000_000_000;
    let micros = Some(i64::from_be_bytes(*micros)).filter(|micros| (0..YEAR_3000).contains(micros));
    micros.and_then(DateTime::from_timestamp_micros).ok_or(InvalidCursor)
}

/// That text is a snapshot as PostgreSQL writes and takes it: `xmin:xmax:xip,...`, in ascending order.
fn check_snapshot(text: &str) -> Option<()> {
    let mut parts = text.split(':');
    let number = |text: Option<&str>| text?.parse::<i64>().ok().filter(|number| *number > 0);
    let (low, high) = (number(parts.next())?, number(parts.next())?);
    let listed = parts.next()?;
    let mut least = low;
    if parts.next().is_some() || low > high {
        return None;
    }
    for text in listed.split(',').filter(|_| !listed.is_empty()) {
        let xip = number(Some(text)).filter(|xip| (least..high).contains(xip))?;
        least = xip + 1;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(snapshot: &str) -> AuditCursor {
        let at = DateTime::from_timestamp_micros(1_800_000_000_123_456).unwrap();
        let after = Position { created_at: at, id: Uuid::now_v7() };
        AuditCursor { after, horizon: Horizon { snapshot: snapshot.to_owned(), taken_at: at } }
    }

    #[test]
    fn a_cursor_round_trips_and_a_forged_snapshot_is_refused() {
        for good in ["746:746:", "746:752:746,750", "1:9223372036854775807:"] {
            let cursor = cursor(good);
            assert_eq!(cursor.to_string().parse(), Ok(cursor), "{good}");
        }
        for bad in [
            "", "7", "7:6:", "7:9:6", "7:9:9", "7:9:8,8", "7:9:8,7", "7:9:,", "0:1:", "7:9::", "a:b:",
            "-1:2:",
        ] {
            assert!(cursor(bad).to_string().parse::<AuditCursor>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(cursor) = URL_SAFE_NO_PAD.encode(&bytes).parse::<AuditCursor>() {
                prop_assert!(check_snapshot(&cursor.horizon.snapshot).is_some());
            }
        }
    }
}
