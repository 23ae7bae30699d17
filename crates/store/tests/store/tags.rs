//! Tags in a real database: who holds which, and what goes when nothing holds it any more.

use sandbar_store::snapshots::Naming;
use sandbar_types::id::Template;
use sandbar_types::{Id, TemplateName, TemplateTag};

use crate::support::World;

fn tag(text: &str) -> TemplateTag {
    text.parse().unwrap()
}

impl World {
    /// A template of the name, made by nobody in particular, with these tags.
    async fn tagged(&self, name: &TemplateName, tags: &[&str]) -> Id<Template> {
        let id = self.reserve(name, Naming::Replace).await.unwrap();
        assert!(self.publish_as(id, &tags.iter().copied().map(tag).collect::<Vec<_>>()).await.unwrap());
        id
    }

    async fn means(&self, name: &TemplateName, text: &str) -> Option<Id<Template>> {
        self.store.template_by_tag(self.team, name, &tag(text)).await.unwrap().map(|row| row.id)
    }

    async fn owed(&self) -> Vec<Id<Template>> {
        let mut owed = self.store.deletions_owed(self.host, self.store.now().await.unwrap()).await.unwrap();
        owed.sort();
        owed
    }
}

#[tokio::test]
async fn a_template_lives_as_long_as_something_names_it() {
    let world = World::new().await;
    let name: TemplateName = "work".parse().unwrap();
    let first = world.tagged(&name, &["v1", "default"]).await;
    let second = world.tagged(&name, &["default"]).await;
    assert_eq!(
        (world.means(&name, "v1").await, world.means(&name, "default").await),
        (Some(first), Some(second))
    );
    assert_eq!(world.owed().await, []);
    // By its tag alone it is in no list of names, and has no id.
    assert_eq!(world.store.template_find(world.team, first).await.unwrap(), None);
    let held = world.store.tags_of(&[first, second]).await.unwrap();
    assert_eq!(held, [(second, tag("default")), (first, tag("v1"))]);

    let third = world.tagged(&name, &["v1", "v2"]).await;
    assert_eq!(world.owed().await, [first], "nothing names it any more");
    assert_eq!(world.means(&name, "default").await, Some(second));

    let mut tx = world.store.begin().await.unwrap();
    let displaced = tx.tags_displace(world.team, &name, &[tag("v1")]).await.unwrap();
    assert!(!displaced, "the third has another");
    assert!(tx.tags_displace(world.team, &name, &[tag("v1"), tag("v2")]).await.unwrap());
    assert!(tx.tags_displace(world.team, &name, &[tag("default")]).await.unwrap());
    let owing = tx.tags_assign(world.team, third, &[tag("default"), tag("v3")]).await.unwrap();
    assert_eq!(owing, Some(vec![world.host]));
    tx.commit().await.unwrap();
    let mut gone = vec![first, second];
    gone.sort();
    assert_eq!(world.owed().await, gone);
    assert_eq!(world.store.tags(world.team, &name).await.unwrap().len(), 4);

    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.tags_assign(world.team, first, &[tag("v4")]).await.unwrap(), None, "it is gone");
    let (removed, owing) = tx.tags_remove(world.team, &name, &[tag("default"), tag("none")]).await.unwrap();
    assert_eq!((removed, owing), (1, vec![]));
    let (removed, owing) = tx.tags_forget(world.team, &name).await.unwrap();
    assert_eq!((removed, owing), (3, vec![world.host]));
    tx.commit().await.unwrap();
    assert_eq!(world.store.tags(world.team, &name).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_deleted_has_no_tags_whoever_deletes_it() {
    let world = World::new().await;
    let name: TemplateName = "work".parse().unwrap();
    let id = world.tagged(&name, &["default", "v1"]).await;
    let mut tx = world.store.begin().await.unwrap();
    tx.snapshots_delete_of_team(world.team, &serde_json::json!({"action": "delete"})).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.means(&name, "v1").await, None);
    assert_eq!(world.store.tags_of(&[id]).await.unwrap(), [(id, tag("default"))]);
    let again = world.tagged(&name, &["v1"]).await;
    assert_eq!(world.means(&name, "v1").await, Some(again));
}
