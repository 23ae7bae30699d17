//! Who began a change that takes time. Its row keeps it until the change comes to rest, so that whoever finishes the change, this control plane or the one after it,
//! tells the audit trail on their behalf: once, and in the transaction that finishes it.

use sandbar_store::audit::{Event, Outcome, Scope};
use sandbar_store::sandboxes::SandboxRow;
use sandbar_types::id::Team;
use sandbar_types::{Id, TemplateName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{OpContext, audit};

/// What was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// A sandbox is paused.
    Pause,
    /// A sandbox goes on.
    Resume,
    /// A sandbox is copied.
    Fork,
    /// A sandbox is kept as a template: the trail hears of the template, not of the sandbox.
    Snapshot,
    /// A template is made of a sandbox.
    Create,
    /// A template is deleted.
    Delete,
    /// A template is made of a recipe.
    Build,
    /// A template is given tags.
    Tag,
    /// Tags are taken from a template.
    Untag,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Fork => "fork",
            Self::Snapshot => "snapshot",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Build => "build",
            Self::Tag => "tag",
            Self::Untag => "untag",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    actor_type: String,
    actor_id: String,
    actor_name: String,
    request_id: Uuid,
}

impl Operation {
    /// Begun by the caller.
    pub(crate) fn begun(ctx: &OpContext, action: Action) -> Self {
        let (actor_type, actor_id, actor_name) = audit::actor(ctx);
        Self {
            action,
            actor_type: actor_type.to_owned(),
            actor_id,
            actor_name: actor_name.to_owned(),
            request_id: ctx.request_id,
        }
    }

    /// As its row keeps it.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_else(|_| json!({}))
    }

    /// From a row. None where there is none, or one of a later version.
    pub(crate) fn read(kept: Option<&Value>) -> Option<Self> {
        kept.and_then(|kept| Self::deserialize(kept).ok())
    }

    /// It came to its end on a sandbox.
    pub(crate) fn sandbox_event(&self, row: &SandboxRow, outcome: Outcome) -> Event<'_> {
        let mut metadata = json!({ "template": row.template_name });
        if let (Some(reason), Value::Object(map)) = (&row.status_reason, &mut metadata) {
            map.insert("reason".to_owned(), Value::from(reason.as_str()));
        }
        self.event(row.team_id, ("sandbox", row.id.to_string()), outcome, metadata)
    }

    /// It came to its end on a snapshot.
    pub(crate) fn snapshot_event(&self, team: Id<Team>, name: &TemplateName, outcome: Outcome) -> Event<'_> {
        self.event(team, ("snapshot", name.to_string()), outcome, json!({}))
    }

    /// It deleted a snapshot of a team's, or a template of the platform's.
    pub(crate) fn deleted_event(&self, team: Id<Team>, name: &TemplateName) -> Event<'_> {
        if team == Id::PLATFORM {
            return self.template_event(team, name, Outcome::Success, json!({}));
        }
        self.snapshot_event(team, name, Outcome::Success)
    }

    /// It came to its end on a template.
    pub(crate) fn template_event(
        &self,
        team: Id<Team>,
        name: &TemplateName,
        outcome: Outcome,
        metadata: Value,
    ) -> Event<'_> {
        self.event(team, ("template", name.to_string()), outcome, metadata)
    }

    fn event(
        &self,
        team: Id<Team>,
        (resource_type, resource_id): (&'static str, String),
        outcome: Outcome,
        metadata: Value,
    ) -> Event<'_> {
        Event {
            team_id: Some(team),
            actor_type: &self.actor_type,
            actor_id: self.actor_id.clone(),
            actor_name: &self.actor_name,
            resource_type,
            resource_id,
            action: self.action.as_str(),
            scope: Scope::Team,
            outcome,
            metadata,
            request_id: Some(self.request_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Actor;

    #[test]
    fn it_is_read_back_as_it_was_kept_and_garbage_is_none() {
        let actor = Actor::ApiKey { id: Id::new(), name: "ci".to_owned(), team: Id::new() };
        let operation = Operation::begun(&OpContext::new(Uuid::now_v7(), actor), Action::Pause);
        assert_eq!(Operation::read(Some(&operation.to_value())), Some(operation));
        assert_eq!(Operation::read(None), None);
        assert_eq!(Operation::read(Some(&json!({"action": "teleport"}))), None);
    }

    #[test]
    fn its_word_in_the_row_is_its_word_in_the_trail() {
        for action in [
            Action::Pause,
            Action::Resume,
            Action::Fork,
            Action::Snapshot,
            Action::Create,
            Action::Delete,
            Action::Build,
        ] {
            assert_eq!(serde_json::to_value(action).unwrap(), json!(action.as_str()));
        }
    }
}
