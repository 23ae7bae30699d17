//! A person's sign-ins: seeing them and ending them.

use sandbar_store::Position;
use sandbar_store::audit::Outcome;
use sandbar_store::sessions::SessionRow;
use sandbar_types::Id;
use sandbar_types::id;

use super::{PeopleError, Session};
use crate::{Control, OpContext, Page, PageRequest, audit};

impl Control {
    /// The caller's sign-ins that count, newest first.
    pub async fn session_list(
        &self,
        ctx: &OpContext,
        page: &PageRequest,
    ) -> Result<Page<Session>, PeopleError> {
        let person = ctx.person()?;
        let rows = self.store().session_list(person.id, page.after(), page.fetch()).await?;
        let position = |row: &SessionRow| Position { created_at: row.created_at, id: row.id.uuid() };
        let current = person.session;
        Ok(page.page(rows, position, |row| {
            let SessionRow { id, user_agent, address, created_at, last_used_at, expires_at } = row;
            let is_current = id == current;
            Session { id, is_current, user_agent, address, created_at, last_used_at, expires_at }
        }))
    }

    /// Ends one of the caller's sign-ins, from the next request on.
    pub async fn session_end(&self, ctx: &OpContext, id: Id<id::Session>) -> Result<(), PeopleError> {
        let person = ctx.person()?;
        let mut tx = self.store().begin().await?;
        if !tx.session_revoke(person.id, id).await? {
            return Err(PeopleError::NoSuchSession { id });
        }
        tx.audit(&audit::user(ctx, None, person.id, "session_end", Outcome::Success)).await?;
        Ok(tx.commit().await?)
    }
}
