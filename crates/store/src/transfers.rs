//! Templates that are fetched to hosts that lack them.
//!
//! A fetch is a location in the state `fetching` that names its fetcher, and is that one's until a point in time that it moves on while it
//! is at it. One whose fetcher died is anybody's after that. Every step asks for the fetcher's own row, so that a deletion, which takes the
//! location into `deleting`, ends the fetch.

use std::time::Duration;

use sandbar_types::Id;
use sandbar_types::id::{Host, Template};
use uuid::Uuid;

use crate::{Store, StoreError};

/// One fetch, by whoever is at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Fetch {
    pub template: Id<Template>,
    pub host: Id<Host>,
    pub fetcher: Uuid,
}

/// What asking for a fetch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is the asker's.
    Ours,
    /// Somebody else is at it, or the host is making the files itself.
    Theirs,
    /// The host has the files.
    Ready,
    /// The template is deleted, or about to be.
    Gone,
}

impl Store {
    /// Asks to fetch a template to a host, and holds the claim for `lease`.
    pub async fn fetch_claim(&self, fetch: Fetch, lease: Duration) -> Result<Claim, StoreError> {
        // The template's row is held: a deletion that begins now waits, and then sees the location.
        let claimed = sqlx::query_scalar!(
            "WITH wanted AS (
                 SELECT id FROM templates
                 WHERE id = $1 AND deleted_at IS NULL AND ready_at IS NOT NULL
                   AND operation ->> 'action' IS DISTINCT FROM 'delete' FOR SHARE)
             INSERT INTO template_locations (template_id, host_id, state, fetcher, fetcher_until)
             SELECT id, $2, 'fetching', $3, now() + make_interval(secs => $4) FROM wanted
             ON CONFLICT (template_id, host_id) DO UPDATE
             SET fetcher = EXCLUDED.fetcher, fetcher_until = EXCLUDED.fetcher_until, updated_at = now()
             WHERE template_locations.state = 'fetching' AND template_locations.fetcher_until < now()
             RETURNING template_id",
            fetch.template.uuid(),
            fetch.host.uuid(),
            fetch.fetcher,
            lease.as_secs_f64(),
        )
        .fetch_optional(&self.pool)
        .await?;
        if claimed.is_some() {
            return Ok(Claim::Ours);
        }
        let state = sqlx::query_scalar!(
            "SELECT l.state FROM template_locations l JOIN templates t ON t.id = l.template_id
             WHERE l.template_id = $1 AND l.host_id = $2 AND t.deleted_at IS NULL",
            fetch.template.uuid(),
            fetch.host.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match state.as_deref() {
            Some("ready") => Claim::Ready,
            Some("fetching") => Claim::Theirs,
            _ => Claim::Gone,
        })
    }

    /// Holds a claim for `lease` from now. Whether it is still ours.
    pub async fn fetch_renew(&self, fetch: Fetch, lease: Duration) -> Result<bool, StoreError> {
        let renewed = sqlx::query!(
            "UPDATE template_locations SET fetcher_until = now() + make_interval(secs => $4), updated_at = now()
             WHERE template_id = $1 AND host_id = $2 AND fetcher = $3",
            fetch.template.uuid(),
            fetch.host.uuid(),
            fetch.fetcher,
            lease.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Says that the files are complete on the host. Whether the claim was still ours: else nobody waits for them there.
    pub async fn fetch_complete(&self, fetch: Fetch) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE template_locations SET state = 'ready', fetcher = NULL, fetcher_until = NULL, updated_at = now()
             WHERE template_id = $1 AND host_id = $2 AND fetcher = $3",
            fetch.template.uuid(),
            fetch.host.uuid(),
            fetch.fetcher,
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives a claim back that came to nothing.
    pub async fn fetch_end(&self, fetch: Fetch) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM template_locations WHERE template_id = $1 AND host_id = $2 AND fetcher = $3",
            fetch.template.uuid(),
            fetch.host.uuid(),
            fetch.fetcher,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets the fetches to a host that nobody is at any more; what there may be of templates that are deleted is owed to be
    /// deleted. How many they were.
    pub async fn fetches_forget(&self, host: Id<Host>) -> Result<u64, StoreError> {
        let owed = sqlx::query!(
            "UPDATE template_locations l SET state = 'deleting', fetcher = NULL, fetcher_until = NULL, updated_at = now()
             FROM templates t WHERE t.id = l.template_id AND l.host_id = $1 AND l.fetcher_until < now()
               AND t.deleted_at IS NOT NULL",
            host.uuid(),
        )
        .execute(&self.pool)
        .await?;
        let forgotten = sqlx::query!(
            "DELETE FROM template_locations WHERE host_id = $1 AND fetcher_until < now()",
            host.uuid(),
        )
        .execute(&self.pool)
        .await?;
        Ok(owed.rows_affected() + forgotten.rows_affected())
    }

    /// From which other hosts a host may get a template's files, with their addresses, in any order. What a team's own host says is its
    /// template goes to that team's hosts alone: its files are not trusted elsewhere.
    pub async fn fetch_sources(
        &self,
        template: Id<Template>,
        host: Id<Host>,
    ) -> Result<Vec<(Id<Host>, String)>, StoreError> {
        Ok(sqlx::query!(
            r#"SELECT s.id, s.address AS "address!" FROM template_locations l
               JOIN hosts s ON s.id = l.host_id JOIN hosts h ON h.id = $2
               WHERE l.template_id = $1 AND l.state = 'ready' AND s.id <> h.id AND s.address IS NOT NULL
                 AND s.status IN ('online', 'draining') AND s.deleted_at IS NULL
                 AND (s.kind = 'regular' OR (h.kind = 'byoc' AND s.team_id = h.team_id))
               ORDER BY random()"#,
            template.uuid(),
            host.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| (Id::from_uuid(row.id), row.address))
        .collect())
    }
}
