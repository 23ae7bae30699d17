//! Secrets of the team's that a build's `RUN` steps are given as environment: by name in its row, by value in the memory of the worker and of those
//! steps, and nowhere else.
//!
//! The processes of a step have them in their memory, and so has the guest's agent. A template that is to have memory is therefore kept of a sandbox
//! that was booted anew, from its disk, once the last `RUN` has ended ([`boots_after`]): what runs from then on was never told.

use std::collections::BTreeMap;

use sandbar_types::id::Team;
use sandbar_types::recipe::{Recipe, Step};
use sandbar_types::{Id, PauseMode, TemplateKind};
use secrecy::{ExposeSecret as _, SecretString};

use super::course::Broken;
use super::mask::Mask;
use super::{BuildError, told};
use crate::sandboxes::{Resume, Sandbox, SandboxError, check_secret_names};
use crate::{Control, OpContext};

/// What an attempt's steps are given.
#[derive(Default)]
pub(super) struct Given {
    values: BTreeMap<String, SecretString>,
}

impl Given {
    /// Adds the variables to a step's environment.
    pub(super) fn add_to(&self, env: &mut BTreeMap<String, String>) {
        env.extend(
            self.values.iter().map(|(variable, value)| (variable.clone(), value.expose_secret().to_owned())),
        );
    }

    /// What keeps the values out of a step's log.
    pub(super) fn mask(&self) -> Mask {
        Mask::new(self.values.values().map(|value| value.expose_secret().as_bytes()))
    }
}

/// After which step, counted from 1, the sandbox is booted anew; none = never.
pub(super) fn boots_after(
    recipe: &Recipe,
    secrets: &BTreeMap<String, String>,
    kind: TemplateKind,
) -> Option<usize> {
    if secrets.is_empty() || kind == TemplateKind::Base {
        return None;
    }
    let last = recipe.steps.iter().rposition(|step| matches!(step, Step::Run { .. }))?;
    Some(last + 1)
}

impl Control {
    /// Refuses secrets that there are not, and recipes that could not keep them out of the template.
    pub(super) async fn check_secrets(
        &self,
        team: Id<Team>,
        recipe: &Recipe,
        secrets: &BTreeMap<String, String>,
    ) -> Result<(), BuildError> {
        if secrets.is_empty() {
            return Ok(());
        }
        check_secret_names(secrets).map_err(|fault| BuildError::Secrets(fault.into()))?;
        let last = recipe.steps.iter().rposition(|step| matches!(step, Step::Run { .. }));
        for (index, step) in recipe.steps.iter().enumerate() {
            match step {
                Step::Start { .. } if last.is_some_and(|last| index < last) => {
                    return Err(BuildError::StartBeforeSecrets { step: index + 1 });
                }
                Step::Env { variables } => {
                    if let Some((variable, _)) = variables.iter().find(|(name, _)| secrets.contains_key(name))
                    {
                        return Err(BuildError::SecretSaidTwice {
                            step: index + 1,
                            variable: variable.clone(),
                        });
                    }
                }
                _ => {}
            }
        }
        self.secrets_for(team, secrets).await.map(drop).map_err(BuildError::Secrets)
    }

    /// The values, as they are now.
    pub(super) async fn given_to(
        &self,
        team: Id<Team>,
        secrets: &BTreeMap<String, String>,
    ) -> Result<Given, Broken> {
        match self.secrets_for(team, secrets).await {
            Ok(values) => Ok(Given { values }),
            // Deleted since it was asked for, or not to be opened: another attempt would come to the same.
            Err(error @ (SandboxError::SecretNotFound { .. } | SandboxError::SecretLost(_))) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a build cannot be given its secrets"
                );
                Err(Broken::Failed(told(&error)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Boots a build's sandbox from its disk: of its memory nothing is left.
    pub(super) async fn boot_anew(
        &self,
        ctx: &OpContext,
        sandbox: &Sandbox,
    ) -> Result<Sandbox, SandboxError> {
        let paused = self.sandbox_pause_keeping(ctx, sandbox, PauseMode::Filesystem).await?;
        self.sandbox_resume(ctx, &paused, Resume::default()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_keep_them_boots_and_after_the_last_that_had_them() {
        let recipe: Recipe = "RUN a\nENV B=1\nRUN c\nSTART d".parse().unwrap();
        let some = BTreeMap::from([("TOKEN".to_owned(), "token".to_owned())]);
        assert_eq!(boots_after(&recipe, &some, TemplateKind::Snapshot), Some(3));
        assert_eq!(boots_after(&recipe, &some, TemplateKind::Base), None);
        assert_eq!(boots_after(&recipe, &BTreeMap::new(), TemplateKind::Snapshot), None);
        let recipe: Recipe = "START d".parse().unwrap();
        assert_eq!(boots_after(&recipe, &some, TemplateKind::Snapshot), None);
    }
}
