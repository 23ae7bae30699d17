//! Signing in by password, acting for another team, signing out.

use chrono::{DateTime, Utc};
use sandbar_store::Tx;
use sandbar_store::audit::Outcome;
use sandbar_store::sessions::NewSessionRow;
use sandbar_types::Id;
use sandbar_types::id::{Session, Team, User};
use secrecy::SecretString;

use super::throttle::Counted;
use super::tokens::TokenFor;
use super::{Client, PeopleError, SignIn};
use crate::access::Role;
use crate::{Control, OpContext, audit};

/// Longest user agent that is kept, in characters.
const USER_AGENT_CHARS: usize = 200;

/// A session that was just opened: once its transaction is committed, it can have a token.
pub(crate) struct OpenedSession {
    session: Id<Session>,
    user: Id<User>,
    expires_at: DateTime<Utc>,
}

impl Control {
    /// Signs a person in. Whatever is wrong, the answer is one, and takes one time.
    pub async fn log_in(
        &self,
        ctx: &OpContext,
        email: &str,
        password: &SecretString,
        client: &Client,
    ) -> Result<SignIn, PeopleError> {
        if let Some(address) = client.address {
            self.throttle(Counted::Address(address)).await?;
        }
        self.throttle(Counted::Account(email)).await?;
        // Text that cannot be in the database cannot be an address there.
        let found = match email.contains('\0') {
            true => None,
            false => self.store().user_credentials(email).await?,
        };
        let hash = found.as_ref().and_then(|person| person.password_hash.clone());
        let matches = self.passwords().verify(password.clone(), hash.clone()).await?;
        let mut tx = self.store().begin().await?;
        // Whoever replaces a password ends the sign-ins that there are: the one that was checked must still be it.
        let matches = match &found {
            Some(person) if matches => tx.user_password_hash_held(person.id).await? == hash,
            _ => false,
        };
        let person = match found {
            Some(person) if matches => person,
            found => {
                let whose = found.map(|person| (person.id, person.team_id));
                tx.audit(&audit::login_failed(ctx, whose, client.address)).await?;
                tx.commit().await?;
                return Err(PeopleError::WrongCredentials);
            }
        };
        tx.attempts_forget(&Counted::Account(email).bucket()).await?;
        let opened = self.open_session(&mut tx, person.id, client).await?;
        tx.commit().await?;
        self.signed_in(opened).await
    }

    /// Opens a session.
    pub(crate) async fn open_session(
        &self,
        tx: &mut Tx,
        user: Id<User>,
        client: &Client,
    ) -> Result<OpenedSession, PeopleError> {
        let user_agent: String =
            client.user_agent.chars().filter(|c| !c.is_control()).take(USER_AGENT_CHARS).collect();
        let session = Id::new();
        let expires_at = Utc::now() + self.config().session_life;
        let row = NewSessionRow {
            id: session,
            user_id: user,
            user_agent: &user_agent,
            address: client.address,
            expires_at,
        };
        tx.session_insert(&row).await?;
        Ok(OpenedSession { session, user, expires_at })
    }

    /// The token of a session that was opened, for the person's default team, or the first that is left.
    pub(crate) async fn signed_in(&self, opened: OpenedSession) -> Result<SignIn, PeopleError> {
        let OpenedSession { session, user, expires_at } = opened;
        let team = self.store().team_default(user).await?;
        self.token(user, session, team, expires_at).await
    }

    async fn token(
        &self,
        user: Id<User>,
        session: Id<Session>,
        team: Option<(Id<Team>, Role)>,
        expires_at: DateTime<Utc>,
    ) -> Result<SignIn, PeopleError> {
        let person = self.store().user_find(user).await?.ok_or(PeopleError::NoSuchUser)?;
        let (name, is_admin) = (person.name.as_str(), person.is_admin);
        let token = TokenFor { user, session, team, name, is_admin, expires_at };
        Ok(SignIn {
            token: self.user_tokens().issue(&token).map_err(PeopleError::Token)?,
            user_id: user,
            team_id: team.map(|(team, _)| team),
            email: person.email,
            name: person.name,
        })
    }

    /// A new token for the same sign-in, to act for another team.
    pub async fn switch_team(&self, ctx: &OpContext, team: Id<Team>) -> Result<SignIn, PeopleError> {
        let person = ctx.person()?;
        let signed_in = self.store().session_find(person.session, person.id, Some(team)).await?;
        let signed_in = signed_in.ok_or(PeopleError::NoSuchSession { id: person.session })?;
        let role = signed_in.role.ok_or(PeopleError::NotAMember { id: team })?;
        self.token(person.id, person.session, Some((team, role)), signed_in.expires_at).await
    }

    /// Ends the sign-in that asks.
    pub async fn log_out(&self, ctx: &OpContext) -> Result<(), PeopleError> {
        let person = ctx.person()?;
        let mut tx = self.store().begin().await?;
        tx.session_revoke(person.id, person.session).await?;
        tx.audit(&audit::user(ctx, None, person.id, "logout", Outcome::Success)).await?;
        Ok(tx.commit().await?)
    }
}
