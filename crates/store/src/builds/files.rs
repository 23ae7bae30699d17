//! Archives that clients bring for their builds.
//!
//! ```text
//!   arriving ──► ready ──► leaving ──► (no row)
//!    │    ▲                 ▲
//!    ▼    │                 │
//!   interrupted ─────────► given up
//! ```
//!
//! Where their parts are is not known here. A row is there before the first part and goes after the last.

use chrono::{DateTime, Utc};
use sandbar_types::Id;
use sandbar_types::id::Team;
use sandbar_types::recipe::FilesName;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::convert::{bigint, unsigned};
use crate::{Store, StoreError, Tx};

/// An archive that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct BuildFilesRow {
    pub id: Uuid,
    pub size: u64,
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// A team's archive, if it is ready. Asking for it is a use of it.
    pub async fn build_files_use(
        &self,
        team: Id<Team>,
        name: &FilesName,
    ) -> Result<Option<BuildFilesRow>, StoreError> {
        touch(&self.pool, team, name).await
    }

    /// Says that an upload goes on, and how much of it is kept. False where it was given up.
    pub async fn build_files_renew(&self, id: Uuid, received: u64) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE build_files SET used_at = now(), received = $2 WHERE id = $1 AND state = 'arriving'",
            id,
            bigint(received),
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Says that an upload broke off, and that another may go on with it. False where nothing of it is kept.
    pub async fn build_files_interrupt(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE build_files SET state = 'interrupted', used_at = now()
             WHERE id = $1 AND state = 'arriving' AND received > 0",
            id,
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// How much is kept of an upload of this archive that broke off.
    pub async fn build_files_received(&self, team: Id<Team>, name: &FilesName) -> Result<u64, StoreError> {
        let received = sqlx::query_scalar!(
            r#"SELECT COALESCE(max(received), 0) AS "received!" FROM build_files
               WHERE team_id = $1 AND name = $2 AND state = 'interrupted'"#,
            team.uuid(),
            name.to_string(),
        )
        .fetch_one(&self.pool)
        .await?;
        unsigned("build_files.received", received)
    }

    /// Goes on with an upload that broke off, of an archive of this size: after what is kept of it, or (`from` = 0) from its beginning. Of many
    /// at once one does.
    pub async fn build_files_go_on(
        &self,
        team: Id<Team>,
        name: &FilesName,
        size: u64,
        from: u64,
    ) -> Result<Option<Uuid>, StoreError> {
        let id = sqlx::query_scalar!(
            "UPDATE build_files SET state = 'arriving', received = $4::bigint, used_at = now()
             WHERE id = (SELECT id FROM build_files
                         WHERE team_id = $1 AND name = $2 AND state = 'interrupted' AND size = $3
                           AND ($4::bigint = 0 OR received = $4)
                         ORDER BY received DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id",
            team.uuid(),
            name.to_string(),
            bigint(size),
            bigint(from),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(id)
    }

    /// Gives up what nobody uses, and tells what is owed to be deleted: uploads that were not heard of for an hour, archives that were replaced
    /// an hour ago, so that a step that reads one comes to its end, and those that were not used for a day unless a build
    /// that has not ended names them; and all of deleted teams.
    pub async fn build_files_over(&self) -> Result<Vec<Uuid>, StoreError> {
        // All of it in the UPDATE's own condition, which is held against the row anew when somebody used it meanwhile.
        let ids = sqlx::query_scalar!(
            "UPDATE build_files f SET state = 'leaving'
             WHERE (f.state <> 'ready' AND f.used_at < now() - interval '1 hour')
                OR (f.state = 'ready' AND f.used_at < now() - interval '1 day'
                    AND NOT EXISTS (SELECT 1 FROM template_builds b
                                    WHERE b.team_id = f.team_id AND b.status IN ('pending', 'running')
                                      AND f.name = ANY (b.files)))
                OR EXISTS (SELECT 1 FROM teams t WHERE t.id = f.team_id AND t.deleted_at IS NOT NULL)
             RETURNING f.id",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }

    /// Forgets an archive whose parts are gone.
    pub async fn build_files_forget(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM build_files WHERE id = $1 AND state <> 'ready'", id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

impl Tx {
    /// What a team's archives take, with what is reserved for those that arrive. The team's row must be held.
    pub async fn build_files_bytes(&mut self, team: Id<Team>) -> Result<u64, StoreError> {
        let bytes = sqlx::query_scalar!(
            r#"SELECT COALESCE(sum(size), 0)::bigint AS "bytes!" FROM build_files WHERE team_id = $1"#,
            team.uuid()
        )
        .fetch_one(self.connection())
        .await?;
        unsigned("sum of build_files.size", bytes)
    }

    /// Reserves room for an archive that is about to arrive.
    pub async fn build_files_begin(
        &mut self,
        id: Uuid,
        team: Id<Team>,
        name: &FilesName,
        size: u64,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO build_files (id, team_id, name, size) VALUES ($1, $2, $3, $4)",
            id,
            team.uuid(),
            name.to_string(),
            bigint(size),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Says that an archive is whole; it takes the place of one of the name. False where the upload was given up. The team's row must be held.
    pub async fn build_files_complete(
        &mut self,
        id: Uuid,
        team: Id<Team>,
        name: &FilesName,
        size: u64,
    ) -> Result<bool, StoreError> {
        sqlx::query!(
            "UPDATE build_files SET state = 'leaving', used_at = now()
             WHERE team_id = $1 AND name = $2 AND state = 'ready'",
            team.uuid(),
            name.to_string(),
        )
        .execute(self.connection())
        .await?;
        let done = sqlx::query!(
            "UPDATE build_files SET state = 'ready', size = $2, used_at = now() WHERE id = $1 AND state = 'arriving'",
            id,
            bigint(size),
        )
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// As [`Store::build_files_use`]: who names it in a build in the same transaction keeps it from being given up.
    pub async fn build_files_use(
        &mut self,
        team: Id<Team>,
        name: &FilesName,
    ) -> Result<Option<BuildFilesRow>, StoreError> {
        touch(self.connection(), team, name).await
    }
}

async fn touch(
    executor: impl PgExecutor<'_>,
    team: Id<Team>,
    name: &FilesName,
) -> Result<Option<BuildFilesRow>, StoreError> {
    let row = sqlx::query!(
        "UPDATE build_files SET used_at = now() WHERE team_id = $1 AND name = $2 AND state = 'ready'
         RETURNING id, size, created_at",
        team.uuid(),
        name.to_string(),
    )
    .fetch_optional(executor)
    .await?;
    row.map(|row| {
        let size = unsigned("build_files.size", row.size)?;
        Ok(BuildFilesRow { id: row.id, size, created_at: row.created_at })
    })
    .transpose()
}
