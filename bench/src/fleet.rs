//! What a thousand hosts and a hundred thousand sandboxes cost the database: placing one more, looking after a host, reading one and
//! listing some. On a database of its own, through the store, against the server's own read of one row in the same run.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use sandbar_store::Store;
use sandbar_store::hosts::{Demand, Limits, Purpose, Room};
use sandbar_store::locks::Lock;
use sandbar_store::sandboxes::{ListFilter, NewSandboxRow};
use sandbar_types::id::{Host, Sandbox, Team, Template};
use sandbar_types::{Id, Ingress, NetworkPolicy, OnTimeout, TimeoutFrom};
use sqlx::postgres::PgPoolOptions;
use sqlx::types::Uuid;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::database::with_scratch;
use crate::report::{Row, Samples};

/// A thousand hosts that have the one template, a hundred teams, and for each host a hundred sandboxes that run and as many that ended.
const FLEET: [&str; 5] = [
    "INSERT INTO teams (id, name, slug)
     SELECT gen_random_uuid(), 'team ' || n, lpad(to_hex(n), 6, '0') || '-000000' FROM generate_series(1, 100) n
     WHERE $1::uuid IS NOT NULL",
    "INSERT INTO hosts (id, kind, team_id, arch, vmm, cpu_cores, memory_mb, disk_gb, address, status, last_heartbeat_at)
     SELECT gen_random_uuid(), 'regular', $1, 'x86_64', 'qemu', 64, 262144, 4000, '10.0.0.1:7443', 'online', now()
     FROM generate_series(1, 1000)",
    "INSERT INTO templates (id, team_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, arch, vmm, ready_at)
     VALUES (gen_random_uuid(), $1, 'fleet', 'snapshot', 1, 512, 1024, 1, 'x86_64', 'qemu', now())",
    "INSERT INTO template_locations (template_id, host_id, state) SELECT t.id, h.id, 'ready' FROM templates t, hosts h
     WHERE t.team_id = $1",
    "INSERT INTO sandboxes (id, team_id, template_id, host_id, status, vcpus, memory_mb, disk_mb, created_at, started_at)
     SELECT gen_random_uuid(), t.id, p.id, h.id, CASE WHEN n % 2 = 0 THEN 'running' ELSE 'stopped' END, 1, 512, 1024,
            now() - n * interval '1 minute', now() - n * interval '1 minute'
     FROM (SELECT id, row_number() OVER () AS at FROM hosts) h
     CROSS JOIN generate_series(1, 200) n
     JOIN (SELECT id, row_number() OVER () AS at FROM teams WHERE id <> $1) t ON t.at = (h.at * 7 + n / 2) % 100 + 1
     CROSS JOIN (SELECT id FROM templates WHERE team_id = $1 AND name = 'fleet') p",
];

/// Placements that are asked for at the same time.
const AT_ONCE: usize = 8;
const BASELINE: &str = "the database's own read of one row";
const LIMITS: Limits = Limits { memory: 100, vcpus: 400, disk: 100 };

/// All rows.
pub(crate) async fn rows(rounds: u32) -> Result<Vec<Row>> {
    with_scratch(async |url| {
        let store = Store::connect(url).await?;
        store.migrate().await?;
        let mut connection = PgConnection::connect(url).await?;
        // Without the rules that triggers keep: these teams have no people.
        sqlx::raw_sql("SET session_replication_role = replica").execute(&mut connection).await?;
        for statement in FLEET {
            sqlx::query(statement).bind(Id::<Team>::PLATFORM.uuid()).execute(&mut connection).await?;
        }
        sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await?;
        connection.close().await?;
        let bare = PgPoolOptions::new().max_connections(u32::try_from(AT_ONCE)?).connect(url).await?;
        let fleet = Fleet::read(&bare).await?;
        let rows = fleet.measure(&store, &bare, rounds).await;
        bare.close().await;
        store.close().await;
        rows
    })
    .await
}

/// Some of what is there, to ask for.
struct Fleet {
    teams: Vec<Id<Team>>,
    hosts: Vec<Id<Host>>,
    sandboxes: Vec<(Id<Sandbox>, Id<Team>)>,
    template: Id<Template>,
}

impl Fleet {
    async fn read(bare: &PgPool) -> Result<Self> {
        let teams: Vec<Uuid> =
            sqlx::query_scalar("SELECT DISTINCT team_id FROM sandboxes").fetch_all(bare).await?;
        let hosts: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM hosts").fetch_all(bare).await?;
        let sandboxes: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT id, team_id FROM sandboxes WHERE status = 'running' ORDER BY random() LIMIT 1000",
        )
        .fetch_all(bare)
        .await?;
        let template: Uuid =
            sqlx::query_scalar("SELECT id FROM templates WHERE name = 'fleet'").fetch_one(bare).await?;
        Ok(Self {
            teams: teams.into_iter().map(Id::from_uuid).collect(),
            hosts: hosts.into_iter().map(Id::from_uuid).collect(),
            sandboxes: sandboxes
                .into_iter()
                .map(|(id, team)| (Id::from_uuid(id), Id::from_uuid(team)))
                .collect(),
            template: Id::from_uuid(template),
        })
    }

    async fn measure(&self, store: &Store, bare: &PgPool, rounds: u32) -> Result<Vec<Row>> {
        let [mut get, mut list, mut monitor, mut one] = [const { Samples::new() }; 4];
        let [mut placed, mut read] = [const { Samples::new() }; 2];
        for round in 0..=rounds {
            let at = usize::try_from(round)?;
            let (sandbox, team) = self.sandboxes[at % self.sandboxes.len()];
            let host = self.hosts[at % self.hosts.len()];
            let took = [
                timed(async || Ok(store.sandbox_find(team, sandbox).await?.is_some())).await?,
                timed(async || Ok(store.sandbox_list(&page_of(team)).await?.len() == 100)).await?,
                timed(async || look_after(store, host).await).await?,
                timed(async || one_row(bare, sandbox).await).await?,
                timed(async || self.place_some(store, at).await).await? / ratio(AT_ONCE),
                timed(async || {
                    let reads = (0..AT_ONCE).map(|_| one_row(bare, sandbox));
                    Ok(try_join_all(reads).await?.into_iter().all(|there| there))
                })
                .await?
                    / ratio(AT_ONCE),
            ];
            // The first round brings the tables and the plans into memory.
            if round > 0 {
                let samples = [&mut get, &mut list, &mut monitor, &mut one, &mut placed, &mut read];
                for (samples, took) in samples.into_iter().zip(took) {
                    samples.push(took);
                }
            }
        }
        let [per_second, reads_per_second] = [placed, read].map(|samples| samples.map(|ms| 1000.0 / ms));
        Ok(vec![
            Row::new("fleet_place", "/s", &per_second, BASELINE, &reads_per_second),
            Row::new("fleet_monitor", "ms", &monitor, BASELINE, &one),
            Row::new("fleet_get", "ms", &get, BASELINE, &one),
            Row::new("fleet_list", "ms", &list, BASELINE, &one),
        ])
    }

    /// As many sandboxes as are asked for at once, each with a host chosen for it and its room taken.
    async fn place_some(&self, store: &Store, round: usize) -> Result<bool> {
        let placements =
            (0..AT_ONCE).map(|at| self.place(store, self.teams[(round * AT_ONCE + at) % self.teams.len()]));
        try_join_all(placements).await?;
        Ok(true)
    }

    /// What a create asks of the database until a host has been chosen.
    async fn place(&self, store: &Store, team: Id<Team>) -> Result<()> {
        let demand = Demand { memory_mb: 512, vcpus: 1, disk_mb: 1024 };
        let candidates = store.host_candidates(team, self.template, Some(32)).await?;
        let least =
            candidates.iter().filter(|host| host.is_for_team).min_by_key(|host| host.promised_memory_mb);
        let host = least.context("no host can take it")?.host_id;
        let mut tx = store.begin().await?;
        tx.relax_durability().await?;
        let id = Id::new();
        tx.sandbox_insert(&NewSandboxRow {
            id,
            team_id: team,
            template_id: self.template,
            vcpus: demand.vcpus,
            memory_mb: demand.memory_mb,
            disk_mb: demand.disk_mb,
            timeout_sec: 300,
            on_timeout: OnTimeout::Kill,
            timeout_from: TimeoutFrom::Activity,
            metadata: &BTreeMap::new(),
            network: &NetworkPolicy::default(),
            ingress: &Ingress::default(),
            created_by: "bench",
            parent_id: None,
            volumes: &[],
        })
        .await?;
        ensure!(tx.host_room(host, demand, LIMITS, Purpose::New).await? == Room::Enough, "the host is full");
        tx.sandbox_place(id, host).await?.context("the sandbox was not pending")?;
        Ok(tx.commit().await?)
    }
}

/// What a round of the monitor asks of the database for a host whose inventory says what its rows say.
async fn look_after(store: &Store, host: Id<Host>) -> Result<bool> {
    let lock = store.try_lock(Lock::Reconcile(host)).await?.context("somebody else looks after the host")?;
    let known = store.host_find(host).await?.is_some();
    let rows = store.sandboxes_living_on(host).await?;
    store.sandbox_statuses(&[]).await?;
    lock.release().await?;
    Ok(known && rows.len() >= 100)
}

async fn one_row(bare: &PgPool, id: Id<Sandbox>) -> Result<bool> {
    let found: Option<Uuid> = sqlx::query_scalar("SELECT team_id FROM sandboxes WHERE id = $1")
        .bind(id.uuid())
        .fetch_optional(bare)
        .await?;
    Ok(found.is_some())
}

fn page_of<'a>(team: Id<Team>) -> ListFilter<'a> {
    static NO_METADATA: BTreeMap<String, String> = BTreeMap::new();
    ListFilter { team_id: team, status: &[], template: None, metadata: &NO_METADATA, after: None, limit: 100 }
}

/// Milliseconds until it is done, which must be as expected.
async fn timed(work: impl AsyncFnOnce() -> Result<bool>) -> Result<f64> {
    let begun = Instant::now();
    ensure!(work().await?, "the database did not answer what it holds");
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

fn ratio(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}
