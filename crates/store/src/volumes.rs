//! Volumes of teams. A sandbox has one from the transaction that makes its row ([`Tx::volume_claim`]) to the one that ends it: a trigger
//! frees it (`0020_volumes.sql`). Locks are taken after the sandbox's.

use chrono::{DateTime, Utc};
use sandbar_types::id::{Host, Sandbox, Team, User, Volume};
use sandbar_types::{Id, VolumeName, VolumeStatus};
use uuid::Uuid;

use crate::convert::{integer, unsigned, word};
use crate::{Position, Store, StoreError, Tx};

/// A volume, with the address of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct VolumeRow {
    pub id: Id<Volume>,
    pub team_id: Id<Team>,
    pub name: VolumeName,
    pub size_mb: u32,
    pub host_id: Id<Host>,
    pub host_address: Option<String>,
    pub status: VolumeStatus,
    pub sandbox_id: Option<Id<Sandbox>>,
    pub serving: bool,
    pub created_by: Option<Id<User>>,
    pub creator_email: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// A volume to be.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct NewVolumeRow<'a> {
    pub id: Id<Volume>,
    pub team_id: Id<Team>,
    pub name: &'a VolumeName,
    pub size_mb: u32,
    pub host_id: Id<Host>,
    pub created_by: Option<Id<User>>,
}

/// By what a volume is found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum VolumeRef {
    Id(Id<Volume>),
    Name(VolumeName),
}

impl VolumeRef {
    fn id(&self) -> Option<Uuid> {
        match self {
            Self::Id(id) => Some(id.uuid()),
            Self::Name(_) => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(name.as_str()),
        }
    }
}

/// A volume of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema says what each column is")]
pub struct HostVolume {
    pub id: Id<Volume>,
    pub team_id: Id<Team>,
    pub name: VolumeName,
}

struct Raw {
    id: Uuid,
    team_id: Uuid,
    name: String,
    size_mb: i32,
    host_id: Uuid,
    host_address: Option<String>,
    status: String,
    sandbox_id: Option<Uuid>,
    serving: bool,
    created_by: Option<Uuid>,
    creator_email: Option<String>,
    created_at: DateTime<Utc>,
}

impl TryFrom<Raw> for VolumeRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            id: Id::from_uuid(raw.id),
            team_id: Id::from_uuid(raw.team_id),
            name: word("volumes.name", &raw.name)?,
            size_mb: unsigned("volumes.size_mb", raw.size_mb)?,
            host_id: Id::from_uuid(raw.host_id),
            host_address: raw.host_address,
            status: word("volumes.status", &raw.status)?,
            sandbox_id: raw.sandbox_id.map(Id::from_uuid),
            serving: raw.serving,
            created_by: raw.created_by.map(Id::from_uuid),
            creator_email: raw.creator_email,
            created_at: raw.created_at,
        })
    }
}

/// A statement that yields the volumes that are not deleted.
macro_rules! volumes {
    ($rest:literal $(, $arg:expr)* $(,)?) => {
        sqlx::query_as!(
            Raw,
            r#"SELECT v.id, v.team_id, v.name, v.size_mb, v.host_id, h.address AS "host_address?", v.status, v.sandbox_id, v.serving,
                      v.created_by, u.email AS "creator_email?", v.created_at
               FROM volumes v JOIN hosts h ON h.id = v.host_id LEFT JOIN users u ON u.id = v.created_by
               WHERE v.status <> 'deleting' AND "#
                + $rest
            $(, $arg)*
        )
    };
}

impl Store {
    /// A team's volumes, newest first.
    pub async fn volume_list(
        &self,
        team: Id<Team>,
        after: Option<Position>,
        limit: i64,
    ) -> Result<Vec<VolumeRow>, StoreError> {
        let rows = volumes!(
            "v.team_id = $1 AND ($2::timestamptz IS NULL OR (v.created_at, v.id) < ($2, $3))
             ORDER BY v.created_at DESC, v.id DESC LIMIT $4",
            team.uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.id),
            limit,
        );
        rows.fetch_all(&self.pool).await?.into_iter().map(VolumeRow::try_from).collect()
    }

    /// One of a team's volumes.
    pub async fn volume(&self, team: Id<Team>, volume: &VolumeRef) -> Result<Option<VolumeRow>, StoreError> {
        let row = volumes!(
            "v.team_id = $1 AND (v.id = $2 OR v.name = $3)",
            team.uuid(),
            volume.id(),
            volume.name(),
        );
        row.fetch_optional(&self.pool).await?.map(VolumeRow::try_from).transpose()
    }

    /// A volume, whosever it is.
    pub async fn volume_find(&self, id: Id<Volume>) -> Result<Option<VolumeRow>, StoreError> {
        let row = volumes!("v.id = $1", id.uuid());
        row.fetch_optional(&self.pool).await?.map(VolumeRow::try_from).transpose()
    }

    /// The volumes on a host, oldest first.
    pub async fn host_volumes(&self, host: Id<Host>) -> Result<Vec<HostVolume>, StoreError> {
        sqlx::query!(
            "SELECT id, team_id, name FROM volumes WHERE host_id = $1 AND status <> 'deleting' ORDER BY created_at, id",
            host.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(HostVolume {
                id: Id::from_uuid(row.id),
                team_id: Id::from_uuid(row.team_id),
                name: word("volumes.name", &row.name)?,
            })
        })
        .collect()
    }

    /// Gives up the volumes that nobody makes any more on a host, begun before `before`; then all whose deletion it owes.
    pub async fn volumes_owed(
        &self,
        host: Id<Host>,
        before: DateTime<Utc>,
    ) -> Result<Vec<Id<Volume>>, StoreError> {
        sqlx::query!(
            "UPDATE volumes SET status = 'deleting', transition_started_at = now()
             WHERE host_id = $1 AND status = 'creating' AND transition_started_at < $2",
            host.uuid(),
            before,
        )
        .execute(&self.pool)
        .await?;
        let owed = sqlx::query_scalar!(
            "SELECT id FROM volumes WHERE host_id = $1 AND status = 'deleting' ORDER BY id",
            host.uuid(),
        );
        Ok(owed.fetch_all(&self.pool).await?.into_iter().map(Id::from_uuid).collect())
    }

    /// Gives up a volume that could not be made. False where it is not in the making.
    pub async fn volume_abandon(&self, id: Id<Volume>) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE volumes SET status = 'deleting', transition_started_at = now() WHERE id = $1 AND status = 'creating'",
            id.uuid(),
        );
        Ok(done.execute(&self.pool).await?.rows_affected() > 0)
    }

    /// Forgets a volume that its host has deleted.
    pub async fn volume_deleted(&self, id: Id<Volume>) -> Result<(), StoreError> {
        let gone = sqlx::query!("DELETE FROM volumes WHERE id = $1 AND status = 'deleting'", id.uuid());
        gone.execute(&self.pool).await?;
        Ok(())
    }
}

impl Tx {
    /// Adds a volume in the making. One of its name is [`StoreError::Taken`].
    pub async fn volume_insert(&mut self, new: &NewVolumeRow<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO volumes (id, team_id, name, size_mb, host_id, created_by) VALUES ($1, $2, $3, $4, $5, $6)",
            new.id.uuid(),
            new.team_id.uuid(),
            new.name.as_str(),
            integer(new.size_mb),
            new.host_id.uuid(),
            new.created_by.map(Id::uuid),
        )
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// One of a team's volumes, held until the transaction ends.
    pub async fn volume_lock(
        &mut self,
        team: Id<Team>,
        volume: &VolumeRef,
    ) -> Result<Option<VolumeRow>, StoreError> {
        let row = volumes!(
            "v.team_id = $1 AND (v.id = $2 OR v.name = $3) FOR UPDATE OF v",
            team.uuid(),
            volume.id(),
            volume.name(),
        );
        row.fetch_optional(self.connection()).await?.map(VolumeRow::try_from).transpose()
    }

    /// Says that a volume's host has made it. False where it was given up, or its host was deleted.
    pub async fn volume_ready(&mut self, id: Id<Volume>) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE volumes SET status = 'ready', transition_started_at = now() WHERE id = $1 AND status = 'creating'",
            id.uuid(),
        );
        Ok(done.execute(self.connection()).await?.rows_affected() > 0)
    }

    /// Gives a volume to a sandbox, whose row is there. False where another has it, or it is not there to be had.
    pub async fn volume_claim(
        &mut self,
        id: Id<Volume>,
        sandbox: Id<Sandbox>,
        serving: bool,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE volumes SET sandbox_id = $2, serving = $3 WHERE id = $1 AND status = 'ready' AND sandbox_id IS NULL",
            id.uuid(),
            sandbox.uuid(),
            serving,
        );
        Ok(done.execute(self.connection()).await?.rows_affected() > 0)
    }

    /// Begins to delete a volume that is made and that no sandbox has. False where it is not that.
    pub async fn volume_begin_delete(&mut self, id: Id<Volume>) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE volumes SET status = 'deleting', transition_started_at = now()
             WHERE id = $1 AND status = 'ready' AND sandbox_id IS NULL",
            id.uuid(),
        );
        Ok(done.execute(self.connection()).await?.rows_affected() > 0)
    }

    /// Deletes all of a team's volumes, though its sandboxes are still at their end. The hosts that owe it.
    pub async fn volumes_delete_of_team(&mut self, team: Id<Team>) -> Result<Vec<Id<Host>>, StoreError> {
        let owing = sqlx::query_scalar!(
            "UPDATE volumes SET status = 'deleting', sandbox_id = NULL, serving = FALSE, transition_started_at = now()
             WHERE team_id = $1 AND status <> 'deleting' RETURNING host_id",
            team.uuid(),
        );
        Ok(owing.fetch_all(self.connection()).await?.into_iter().map(Id::from_uuid).collect())
    }

    /// Forgets all volumes of a host that is deleted, which the caller holds.
    pub async fn volumes_end_on_host(&mut self, host: Id<Host>) -> Result<(), StoreError> {
        let gone = sqlx::query!("DELETE FROM volumes WHERE host_id = $1", host.uuid());
        gone.execute(self.connection()).await?;
        Ok(())
    }
}
