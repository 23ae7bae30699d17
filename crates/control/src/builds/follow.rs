//! A build's progress as it comes: what each step wrote since the last time, and how the build stands.

use sandbar_store::listen::Topic;
use sandbar_types::Id;
use sandbar_types::id;

use super::{Build, BuildError, BuildLog, BuildScope};
use crate::news::Reader;
use crate::{Control, OpContext};

/// Follows one build from its first step on.
pub struct BuildFollower {
    control: Control,
    news: Reader,
    /// As it was told last.
    told: Option<Build>,
    /// The last step that was told, and what of it: lengths of its two streams, and whether its end.
    attempt: u32,
    step: Option<u32>,
    seen: (usize, usize),
    ended: bool,
    id: Id<id::Build>,
    over: bool,
}

/// What has come.
#[derive(Debug, Clone)]
pub struct BuildProgress {
    /// How the build stands.
    pub build: Build,
    /// What its steps wrote since the last time. A step is there when it begins, when it writes and when it ends.
    pub logs: Vec<BuildLog>,
}

impl Control {
    /// Follows a build until it ends.
    pub async fn build_follow(
        &self,
        ctx: &OpContext,
        scope: BuildScope,
        id: Id<id::Build>,
    ) -> Result<BuildFollower, BuildError> {
        // Before the first look: what changes after it is heard.
        let news = self.news().subscribe(self.store());
        self.build_row(ctx, scope, id).await?;
        Ok(BuildFollower {
            control: self.clone(),
            news,
            told: None,
            attempt: 0,
            step: None,
            seen: (0, 0),
            ended: false,
            id,
            over: false,
        })
    }
}

impl BuildFollower {
    /// What comes next; none after the build's end was told.
    pub async fn next(&mut self) -> Result<Option<BuildProgress>, BuildError> {
        loop {
            if self.over {
                return Ok(None);
            }
            let store = self.control.store();
            // The build before its logs: what a build that has ended wrote is there.
            let row = store.build_find(None, self.id).await?;
            let Some(build) = row.map(Build::from) else { return Ok(None) };
            if build.attempts != self.attempt {
                (self.attempt, self.step, self.seen, self.ended) = (build.attempts, None, (0, 0), false);
            }
            let logs = store.build_logs(self.id, self.attempt, self.step.unwrap_or(0)).await?;
            let logs: Vec<BuildLog> = logs.into_iter().filter_map(|log| self.news_of(log)).collect();
            self.over = build.status.is_end();
            if !logs.is_empty() || self.told.as_ref() != Some(&build) {
                self.told = Some(build.clone());
                return Ok(Some(BuildProgress { build, logs }));
            }
            let id = self.id;
            self.news.wait(|told| told.is_of(Topic::Builds, id)).await;
        }
    }

    /// What of a step's log was not told.
    fn news_of(&mut self, mut log: BuildLog) -> Option<BuildLog> {
        let known = self.step == Some(log.step);
        if !known {
            (self.step, self.seen, self.ended) = (Some(log.step), (0, 0), false);
        }
        let whole = (log.stdout.len(), log.stderr.len());
        let ended = log.duration_ms.is_some();
        if known && whole == self.seen && ended == self.ended {
            return None;
        }
        log.stdout = log.stdout.get(self.seen.0..).unwrap_or_default().to_owned();
        log.stderr = log.stderr.get(self.seen.1..).unwrap_or_default().to_owned();
        (self.seen, self.ended) = (whole, ended);
        Some(log)
    }
}
