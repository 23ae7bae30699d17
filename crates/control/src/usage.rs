//! What teams used, by days of UTC.

use chrono::{Days, NaiveDate};

use crate::stats::StatsError;
use crate::{Control, OpContext};

pub use sandbar_store::usage::UsageRow as DayUsage;

/// The most days of one answer.
pub const MOST_DAYS: u64 = 366;
/// How many days there are in an answer where the caller does not say.
const DAYS: u64 = 30;

/// What a team used.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// The first day that was asked for.
    pub from: NaiveDate,
    /// The last one.
    pub to: NaiveDate,
    /// The days that there is an account of, oldest first.
    pub days: Vec<DayUsage>,
}

impl Control {
    /// What the caller's team used, from one day to another, both included: by default the last thirty, today included.
    pub async fn usage(
        &self,
        ctx: &OpContext,
        from: Option<NaiveDate>,
        to: Option<NaiveDate>,
    ) -> Result<Usage, StatsError> {
        let team = ctx.team()?;
        let out_of_range = StatsError::Days("these days are out of range");
        let (from, to) = match (from, to) {
            (Some(from), Some(to)) => (from, to),
            (Some(from), None) => (from, from.max(self.store().now().await?.date_naive())),
            (None, to) => {
                let to = match to {
                    Some(to) => to,
                    None => self.store().now().await?.date_naive(),
                };
                (to.checked_sub_days(Days::new(DAYS - 1)).ok_or(out_of_range)?, to)
            }
        };
        if to < from {
            return Err(StatsError::Days("`to` is before `from`"));
        }
        if to.signed_duration_since(from).num_days().unsigned_abs() >= MOST_DAYS {
            return Err(StatsError::Days("at most 366 days can be asked for at a time"));
        }
        Ok(Usage { from, to, days: self.store().usage(team, from, to).await? })
    }
}
