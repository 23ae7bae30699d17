//! Finding somebody to add to a team, by the beginning of their address. What is asked for must hold an `@`: nobody can be listed.

use super::{InvalidPerson, PeopleError, User};
use crate::{Control, OpContext};

/// Most people that are found.
const MOST: i64 = 10;
/// Fewest characters to search by.
const FEWEST_CHARS: usize = 3;

impl Control {
    /// People whose address begins with this text.
    pub async fn user_search(&self, ctx: &OpContext, prefix: &str) -> Result<Vec<User>, PeopleError> {
        ctx.person()?;
        if prefix.chars().count() < FEWEST_CHARS || !prefix.contains('@') || prefix.contains('\0') {
            return Err(InvalidPerson::SearchText.into());
        }
        let found = self.store().users_by_email_prefix(prefix, MOST).await?;
        Ok(found.into_iter().map(User::from).collect())
    }
}
