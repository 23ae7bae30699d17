//! Snapshots and figures in a real database.

use sandbar_store::StoreError;
use sandbar_store::sandbox_metrics::MetricPoint;
use sandbar_store::snapshots::{Naming, NewSnapshotRow};
use sandbar_types::id::Template;
use sandbar_types::{Arch, Id, MetricsRange, TemplateKind, TemplateName, TemplateTag, VmmKind};
use serde_json::{Value, json};

use crate::support::{World, complete};

fn operation(action: &str) -> Value {
    json!({ "action": action })
}

impl World {
    pub(crate) async fn reserve(
        &self,
        name: &TemplateName,
        naming: Naming,
    ) -> Result<Id<Template>, StoreError> {
        let id = Id::new();
        let mut tx = self.store.begin().await?;
        tx.snapshot_reserve(&NewSnapshotRow {
            id,
            team_id: self.team,
            name,
            naming,
            kind: TemplateKind::Snapshot,
            vcpus: 1,
            memory_mb: 512,
            arch: Arch::X86_64,
            vmm: VmmKind::Qemu,
            host_id: self.host,
            source_id: Id::new(),
            defaults: None,
            operation: &operation("create"),
        })
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    async fn publish(&self, id: Id<Template>) -> Result<bool, StoreError> {
        self.publish_as(id, &[TemplateTag::default_tag()]).await
    }

    pub(crate) async fn publish_as(
        &self,
        id: Id<Template>,
        tags: &[TemplateTag],
    ) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let row = tx.snapshot_publish(id, self.host, &complete(), tags).await?;
        tx.commit().await?;
        Ok(row.is_some())
    }

    async fn named(&self, name: &TemplateName) -> Option<Id<Template>> {
        self.store.template_by_name(self.team, name).await.unwrap().map(|row| row.id)
    }
}

#[tokio::test]
async fn a_draft_takes_the_place_of_the_one_before_it_in_one() {
    let world = World::new().await;
    let name: TemplateName = "work".parse().unwrap();
    let first = world.reserve(&name, Naming::Fresh).await.unwrap();
    assert_eq!(world.named(&name).await, None, "it is not ready");
    let taken = world.reserve(&name, Naming::Fresh).await;
    assert!(matches!(taken, Err(StoreError::Taken { .. })), "{taken:?}");
    assert!(world.publish(first).await.unwrap());
    let (second, third) = (
        world.reserve(&name, Naming::Replace).await.unwrap(),
        world.reserve(&name, Naming::Replace).await.unwrap(),
    );
    assert_eq!(world.named(&name).await, Some(first));
    // Two that replace the same one, at the same time: both succeed, one after the other.
    let (one, other) = tokio::join!(world.publish(second), world.publish(third));
    assert!(one.unwrap() && other.unwrap());
    let now = world.named(&name).await.unwrap();
    assert!([second, third].contains(&now));
    let owed = world.store.deletions_owed(world.host, world.store.now().await.unwrap()).await.unwrap();
    assert_eq!(owed.len(), 2, "the first, and the one that was replaced right away");
    assert!(!owed.contains(&now));
    assert!(!world.publish(first).await.unwrap(), "what is done is done");
}

#[tokio::test]
async fn what_is_given_up_or_deleted_is_owed_until_the_host_has_done_it() {
    let world = World::new().await;
    let name: TemplateName = "work".parse().unwrap();
    let later = world.store.now().await.unwrap() + chrono::Duration::hours(1);
    let early = later - chrono::Duration::hours(2);
    let given_up = world.reserve(&name, Naming::Fresh).await.unwrap();
    assert_eq!(world.store.snapshots_overdue(world.host, early).await.unwrap(), []);
    assert_eq!(world.store.snapshots_overdue(world.host, later).await.unwrap(), [given_up]);
    let mut tx = world.store.begin().await.unwrap();
    let ended = tx.snapshot_abandon(given_up).await.unwrap().unwrap();
    assert_eq!((ended.name, ended.operation), (name.clone(), Some(operation("create"))));
    assert_eq!(tx.snapshot_abandon(given_up).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(world.store.deletions_owed(world.host, early).await.unwrap(), [given_up]);
    world.store.snapshot_deleted_on(given_up, world.host).await.unwrap();
    assert_eq!(world.store.deletions_owed(world.host, later).await.unwrap(), []);
    assert_eq!(world.store.templates_deleted(&[given_up, world.template]).await.unwrap(), [given_up]);

    let deleted = world.reserve(&name, Naming::Fresh).await.unwrap();
    world.publish(deleted).await.unwrap();
    let begin = async || {
        let mut tx = world.store.begin().await.unwrap();
        let debts = tx.snapshot_begin_delete(deleted, &operation("delete")).await.unwrap();
        tx.commit().await.unwrap();
        debts.map(|debts| debts.len())
    };
    assert_eq!(begin().await, Some(1));
    assert_eq!(world.store.template_hosts(deleted).await.unwrap(), [], "nobody starts from it");
    assert_eq!(world.store.deletions_owed(world.host, early).await.unwrap(), [], "somebody is at it");
    let mut tx = world.store.begin().await.unwrap();
    tx.snapshot_keep(deleted).await.unwrap();
    assert_eq!(tx.snapshot_delete(deleted).await.unwrap(), None, "it was not to be deleted after all");
    tx.commit().await.unwrap();
    assert_eq!(world.store.template_hosts(deleted).await.unwrap().len(), 1);
    assert_eq!(begin().await, Some(1));
    let mut tx = world.store.begin().await.unwrap();
    assert!(tx.snapshot_delete(deleted).await.unwrap().is_some());
    tx.commit().await.unwrap();
    assert_eq!(world.named(&name).await, None);
    assert_eq!(world.store.deletions_owed(world.host, early).await.unwrap(), [deleted]);
    assert_eq!(begin().await, None);
}

#[tokio::test]
async fn figures_are_replaced_range_by_range() {
    let world = World::new().await;
    let id = world.running().await;
    let point = |second: i64, cpu_pct: f64| MetricPoint {
        at: chrono::DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap(),
        cpu_pct,
        mem_bytes: 1 << 40,
        disk_bytes: 7,
    };
    let old = [point(1, 12.3), point(0, 199.9), point(1, 12.3)];
    // Statements, not rows.
    world.execute("CREATE SEQUENCE inserts").await;
    world
        .execute(
            "CREATE FUNCTION count_inserts() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('inserts'); RETURN NULL; END; $$",
        )
        .await;
    world
        .execute(
            "CREATE TRIGGER counted AFTER INSERT ON sandbox_metric_points
             FOR EACH STATEMENT EXECUTE FUNCTION count_inserts()",
        )
        .await;
    let mut tx = world.store.begin().await.unwrap();
    for range in MetricsRange::ALL {
        tx.metrics_replace(id, range, &old).await.unwrap();
    }
    let inserts = sqlx::query_scalar("SELECT last_value FROM inserts");
    let inserts: i64 = inserts.fetch_one(world.database.pool()).await.unwrap();
    assert_eq!(inserts, 3, "however many points, a range is one statement");
    tx.metrics_replace(id, MetricsRange::Day, &[point(9, 1.0)]).await.unwrap();
    tx.metrics_forget(id, &[MetricsRange::TwoHours]).await.unwrap();
    tx.commit().await.unwrap();
    let kept = async |range| world.store.metrics(id, range).await.unwrap();
    assert_eq!(
        kept(MetricsRange::TenMinutes).await,
        [point(0, 199.9), point(1, 12.3)],
        "oldest first, each once"
    );
    assert_eq!(kept(MetricsRange::TwoHours).await, []);
    assert_eq!(kept(MetricsRange::Day).await, [point(9, 1.0)]);
}
