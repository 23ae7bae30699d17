//! The course of a build: claimed, renewed, given back, ended.

use std::time::Duration;

use sandbar_types::id::{Build, Sandbox, Team, Template};
use sandbar_types::{BuildStatus, Id};
use uuid::Uuid;

use super::{BuildRow, builds};
use crate::convert::integer;
use crate::{Store, StoreError, Tx};

/// One claim of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The build.
    pub build: Id<Build>,
    /// What no other claim has.
    pub worker: Uuid,
}

/// What renewing a lease came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It goes on.
    Held,
    /// It goes on, and somebody wants the build to end.
    CancelAsked,
    /// The build has ended, or another has it.
    Lost,
}

/// How a build ends.
#[derive(Debug, Clone, Copy)]
pub enum Ended<'a> {
    /// With a template.
    Success(Id<Template>),
    /// Without one, for this reason, which its owner reads.
    Failed(&'a str),
    /// As somebody asked.
    Cancelled,
}

impl Ended<'_> {
    const fn status(&self) -> BuildStatus {
        match self {
            Self::Success(_) => BuildStatus::Success,
            Self::Failed(_) => BuildStatus::Failed,
            Self::Cancelled => BuildStatus::Cancelled,
        }
    }
}

impl Store {
    /// Claims the build that has waited longest, of those that wait and those whose lease has run out: none that was begun
    /// `attempts` times already. Of many at once each gets another.
    pub async fn build_claim_next(
        &self,
        worker: Uuid,
        lease: Duration,
        attempts: u32,
    ) -> Result<Option<BuildRow>, StoreError> {
        self.claim(None, worker, lease, attempts).await
    }

    /// Claims this build, if it can be claimed.
    pub async fn build_claim(
        &self,
        claim: Claim,
        lease: Duration,
        attempts: u32,
    ) -> Result<Option<BuildRow>, StoreError> {
        self.claim(Some(claim.build), claim.worker, lease, attempts).await
    }

    async fn claim(
        &self,
        only: Option<Id<Build>>,
        worker: Uuid,
        lease: Duration,
        attempts: u32,
    ) -> Result<Option<BuildRow>, StoreError> {
        let mut tx = self.begin().await?;
        let claimed = builds!(
            "UPDATE template_builds SET status = 'running', worker = $1, leased_until = now() + make_interval(secs => $2),
                    attempts = attempts + 1, current_step = 0, sandbox_id = NULL,
                    started_at = coalesce(started_at, now()), generation = generation + 1
             WHERE id = (SELECT id FROM template_builds
                         WHERE (status = 'pending' OR (status = 'running' AND leased_until < now()))
                           AND attempts < $3 AND NOT cancel_asked AND ($4::uuid IS NULL OR id = $4)
                         ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING ",
            "",
            worker.to_string(),
            lease.as_secs_f64(),
            integer(attempts),
            only.map(Id::uuid),
        )
        .fetch_optional(tx.connection())
        .await?;
        let claimed = claimed.map(BuildRow::try_from).transpose()?;
        if let Some(build) = &claimed {
            // Of an attempt that was given back and did not count.
            sqlx::query!(
                "DELETE FROM template_build_logs WHERE build_id = $1 AND attempt >= $2",
                build.id.uuid(),
                integer(build.attempts),
            )
            .execute(tx.connection())
            .await?;
        }
        tx.commit().await?;
        Ok(claimed)
    }

    /// Keeps a claim for as long again. A team that is deleted wants none of its builds.
    pub async fn build_renew(&self, claim: Claim, lease: Duration) -> Result<Lease, StoreError> {
        let asked = sqlx::query_scalar!(
            r#"UPDATE template_builds b SET leased_until = now() + make_interval(secs => $3)
               FROM teams t WHERE b.id = $1 AND b.worker = $2 AND b.status = 'running' AND t.id = b.team_id
               RETURNING (b.cancel_asked OR t.deleted_at IS NOT NULL) AS "asked!""#,
            claim.build.uuid(),
            claim.worker.to_string(),
            lease.as_secs_f64(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match asked {
            None => Lease::Lost,
            Some(true) => Lease::CancelAsked,
            Some(false) => Lease::Held,
        })
    }

    /// The sealed credentials for the registry of a build's image, if there are any.
    pub async fn build_registry(&self, claim: Claim) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT registry FROM template_builds WHERE id = $1 AND worker = $2",
            claim.build.uuid(),
            claim.worker.to_string(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(sealed.flatten())
    }

    /// Gives a claim back: the build waits again, and the attempt does not count. Says whether the claim was still held.
    pub async fn build_release(&self, claim: Claim) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE template_builds SET status = 'pending', worker = NULL, leased_until = NULL,
                    attempts = attempts - 1, sandbox_id = NULL, generation = generation + 1
             WHERE id = $1 AND worker = $2 AND status = 'running'",
            claim.build.uuid(),
            claim.worker.to_string(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives a claim up: another attempt may begin after a while. Says whether the claim was still held.
    pub async fn build_give_up(&self, claim: Claim, after: Duration) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE template_builds SET worker = NULL, leased_until = now() + make_interval(secs => $3), sandbox_id = NULL,
                    generation = generation + 1
             WHERE id = $1 AND worker = $2 AND status = 'running'",
            claim.build.uuid(),
            claim.worker.to_string(),
            after.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Says which step a build is at, and in which sandbox. False where the claim is lost.
    pub async fn build_progress(
        &self,
        claim: Claim,
        step: u32,
        sandbox: Id<Sandbox>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE template_builds SET current_step = $3, sandbox_id = $4
             WHERE id = $1 AND worker = $2 AND status = 'running'",
            claim.build.uuid(),
            claim.worker.to_string(),
            integer(step),
            sandbox.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The builds that could be claimed, in the order in which they came.
    pub async fn builds_waiting(&self, attempts: u32) -> Result<Vec<Id<Build>>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM template_builds
             WHERE (status = 'pending' OR (status = 'running' AND leased_until < now()))
               AND attempts < $1 AND NOT cancel_asked
             ORDER BY created_at, id LIMIT 1000",
            integer(attempts),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(Id::from_uuid).collect())
    }

    /// The builds that nobody has and nobody may claim any more: begun too often, of deleted teams, or to be cancelled.
    pub async fn builds_over(&self, attempts: u32) -> Result<Vec<BuildRow>, StoreError> {
        builds!(
            "SELECT ",
            "FROM template_builds
             WHERE (status = 'pending' OR (status = 'running' AND leased_until < now()))
               AND (attempts >= $1 OR cancel_asked
                    OR EXISTS (SELECT 1 FROM teams t WHERE t.id = team_id AND t.deleted_at IS NOT NULL))
             ORDER BY created_at LIMIT 100",
            integer(attempts),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(BuildRow::try_from)
        .collect()
    }

    /// The sandboxes that bear a claim's name and have not ended.
    pub async fn sandboxes_of_claim(&self, claim: Claim) -> Result<Vec<Id<Sandbox>>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM sandboxes
             WHERE team_id = '00000000-0000-0000-0000-000000000000' AND metadata ? 'build'
               AND metadata ->> 'build' = $1 AND metadata ->> 'worker' = $2
               AND status NOT IN ('stopping', 'stopped', 'error')",
            claim.build.uuid().to_string(),
            claim.worker.to_string(),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(Id::from_uuid).collect())
    }

    /// Sandboxes of builds that nobody needs any more: their build has ended, or is at another attempt, or there is none.
    pub async fn sandboxes_left_by_builds(&self) -> Result<Vec<Id<Sandbox>>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT s.id FROM sandboxes s
             WHERE s.team_id = '00000000-0000-0000-0000-000000000000' AND s.metadata ? 'build'
               AND s.status NOT IN ('stopping', 'stopped', 'error')
               AND NOT EXISTS (SELECT 1 FROM template_builds b
                               WHERE b.id::text = s.metadata ->> 'build' AND b.status = 'running'
                                 AND b.worker = s.metadata ->> 'worker' AND b.leased_until >= now())
             LIMIT 100",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(Id::from_uuid).collect())
    }
}

impl Tx {
    /// Ends a build that a claim has. None where the claim is lost.
    pub async fn build_end(
        &mut self,
        claim: Claim,
        ended: Ended<'_>,
    ) -> Result<Option<BuildRow>, StoreError> {
        let (error, template) = parts(ended);
        builds!(
            "UPDATE template_builds SET status = $3, error = $4, template_id = $5, worker = NULL, leased_until = NULL,
                    finished_at = now(), generation = generation + 1
             WHERE id = $1 AND worker = $2 AND status = 'running' RETURNING ",
            "",
            claim.build.uuid(),
            claim.worker.to_string(),
            ended.status().as_str(),
            error,
            template.map(Id::uuid),
        )
        .fetch_optional(self.connection())
        .await?
        .map(BuildRow::try_from)
        .transpose()
    }

    /// Ends a build that nobody has. None where somebody does, or it has ended.
    pub async fn build_end_unclaimed(
        &mut self,
        id: Id<Build>,
        ended: Ended<'_>,
    ) -> Result<Option<BuildRow>, StoreError> {
        let (error, template) = parts(ended);
        builds!(
            "UPDATE template_builds SET status = $2, error = $3, template_id = $4, worker = NULL, leased_until = NULL,
                    finished_at = now(), generation = generation + 1
             WHERE id = $1 AND (status = 'pending' OR (status = 'running' AND leased_until < now())) RETURNING ",
            "",
            id.uuid(),
            ended.status().as_str(),
            error,
            template.map(Id::uuid),
        )
        .fetch_optional(self.connection())
        .await?
        .map(BuildRow::try_from)
        .transpose()
    }

    /// Asks for a build's end. One that waits for a worker has then ended; who has the other reads it. None where there is nothing to
    /// end, which it says by the second call's finding it ended.
    pub async fn build_ask_cancel(
        &mut self,
        team: Option<Id<Team>>,
        id: Id<Build>,
    ) -> Result<Option<BuildRow>, StoreError> {
        builds!(
            "UPDATE template_builds SET cancel_asked = TRUE,
                    status = CASE WHEN status = 'pending' THEN 'cancelled' ELSE status END,
                    finished_at = CASE WHEN status = 'pending' THEN now() ELSE finished_at END,
                    generation = generation + 1
             WHERE id = $1 AND ($2::uuid IS NULL OR team_id = $2) AND status IN ('pending', 'running')
             RETURNING ",
            "",
            id.uuid(),
            team.map(Id::uuid),
        )
        .fetch_optional(self.connection())
        .await?
        .map(BuildRow::try_from)
        .transpose()
    }
}

fn parts(ended: Ended<'_>) -> (Option<&str>, Option<Id<Template>>) {
    match ended {
        Ended::Success(template) => (None, Some(template)),
        Ended::Failed(error) => (Some(error), None),
        Ended::Cancelled => (None, None),
    }
}
