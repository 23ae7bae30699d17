//! What teams have running: now, and how that was.
//!
//! - here: the answer to who asks.
//! - `sampler`: the samples that it is made from, in the background.

mod sampler;

use chrono::{DateTime, Utc};
use sandbar_store::StoreError;
use sandbar_types::{ErrorCode, Reserved, StatsRange};

use crate::access::store_code;
use crate::context::NoTeam;
use crate::{Control, OpContext};

/// Why a team's figures cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The days that were asked for are none.
    #[error("{0}")]
    Days(&'static str),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StatsError {
    /// How the API tells it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::Days(_) => ErrorCode::InvalidRequest,
            Self::Store(error) => store_code(error),
        }
    }
}

/// A team's figures over a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamStats {
    /// How far back they go.
    pub range: StatsRange,
    /// At this moment.
    pub current: Reserved,
    /// The most of each that there was in the range.
    pub peaks: Reserved,
    /// Oldest first: the start of the time that each stands for, and the most of each in it; none where it is not known, since the
    /// platform was not there to look.
    pub series: Vec<(DateTime<Utc>, Option<Reserved>)>,
}

impl Control {
    /// What the caller's team has running, and how that was.
    pub async fn team_stats(&self, ctx: &OpContext, range: StatsRange) -> Result<TeamStats, StatsError> {
        let team = ctx.team()?;
        let current = self.store().stats_now(team).await?;
        let points = self.store().stats_series(team, range).await?;
        let mut series: Vec<_> = points.into_iter().map(|point| (point.at, point.most)).collect();
        // The last point's time has only begun: this moment is the latest that is known of it.
        if let Some((_, last)) = series.last_mut() {
            *last = Some(last.unwrap_or_default().max(current));
        }
        let peaks = series.iter().filter_map(|(_, most)| *most).fold(current, Reserved::max);
        Ok(TeamStats { range, current, peaks, series })
    }
}
