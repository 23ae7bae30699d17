//! Getting an account: person, team, ownership and default in one transaction.

use sandbar_store::teams::Role;
use sandbar_store::users::NewUserRow;
use sandbar_store::{StoreError, Tx};
use sandbar_types::Id;
use sandbar_types::id::{Team, User};

use super::throttle::Counted;
use super::{Client, InvalidPerson, NewUser, PeopleError, SignIn, passwords};
use crate::secrets::random;
use crate::{Control, OpContext, audit};

/// Longest name, in characters.
const NAME_CHARS: usize = 100;
/// Longest address, in bytes.
const EMAIL_BYTES: usize = 254;

/// Somebody who may have an account: checked, and hashed.
pub(crate) struct NewAccount<'a> {
    pub(crate) email: &'a str,
    pub(crate) name: &'a str,
    /// None: they sign in by an identity elsewhere.
    pub(crate) password_hash: Option<&'a str>,
    pub(crate) team_name: &'a str,
}

/// That text may be an address to sign in with. Whether mail arrives there is not asked.
pub(crate) fn check_email(email: &str) -> Result<(), InvalidPerson> {
    let plain = !email.contains(|c: char| c.is_whitespace() || c.is_control());
    let parts = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && local.len() <= 64 && !domain.is_empty() && !domain.contains('@')
    });
    if plain && parts && email.len() <= EMAIL_BYTES { Ok(()) } else { Err(InvalidPerson::Email) }
}

/// A name without the white space around it.
pub(super) fn check_name(name: &str) -> Result<&str, InvalidPerson> {
    let name = name.trim();
    let good = !name.is_empty() && name.chars().count() <= NAME_CHARS && !name.contains(char::is_control);
    if good { Ok(name) } else { Err(InvalidPerson::Name) }
}

/// What a person's first team is called.
pub(crate) fn default_team_name(name: &str) -> String {
    format!("{name}'s Team")
}

/// A slug that no team has or had: 48 random bits, held to be unique by the database.
pub(crate) fn new_slug() -> String {
    let digits = hex::encode(random::<6>());
    let (left, right) = digits.split_at(6);
    format!("{left}-{right}")
}

impl Control {
    /// Makes an account and signs its person in. The first one of an installation administers the platform.
    pub async fn sign_up(
        &self,
        ctx: &OpContext,
        new: &NewUser,
        client: &Client,
    ) -> Result<SignIn, PeopleError> {
        let NewUser { email, password, name } = new;
        check_email(email)?;
        let name = check_name(name)?;
        passwords::check(password)?;
        if let Some(address) = client.address {
            self.throttle(Counted::Address(address)).await?;
        }
        let password_hash = self.passwords().hash(password.clone()).await?;
        let account = NewAccount {
            email,
            name,
            password_hash: Some(&password_hash),
            team_name: &default_team_name(name),
        };
        let nobody_yet = !self.store().users_exist().await?;
        let mut tx = self.store().begin().await?;
        let is_first = nobody_yet && !tx.users_exist_locked().await?;
        let (user, _) = self.account_insert(&mut tx, ctx, &account, is_first).await?;
        let signed_in = self.open_session(&mut tx, user, client).await?;
        tx.commit().await?;
        self.signed_in(signed_in).await
    }

    /// The rows of an account, and the event.
    pub(crate) async fn account_insert(
        &self,
        tx: &mut Tx,
        ctx: &OpContext,
        account: &NewAccount<'_>,
        is_admin: bool,
    ) -> Result<(Id<User>, Id<Team>), PeopleError> {
        let NewAccount { email, name, password_hash, team_name } = *account;
        let (user, team) = (Id::new(), Id::new());
        let row = NewUserRow { id: user, email, name, password_hash, is_admin };
        tx.user_insert(&row).await.map_err(email_taken)?;
        tx.team_insert(team, team_name, &new_slug()).await?;
        tx.membership_insert(team, user, Role::Owner, true).await?;
        tx.audit(&audit::signup(ctx, team, user, name)).await?;
        Ok((user, team))
    }
}

fn email_taken(error: StoreError) -> PeopleError {
    match error {
        StoreError::Taken { constraint } if constraint == "users_email" => PeopleError::EmailTaken,
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_bounded() {
        for good in ["a@b", "Ann.B+c@example.org", "ü@example.org"] {
            assert!(check_email(good).is_ok(), "{good}");
        }
        let long = format!("{}@x", "a".repeat(65));
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a\u{0}@c", "a@c\n", &long] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_name("  Ann "), Ok("Ann"));
        assert!(check_name(&"ä".repeat(100)).is_ok());
        for bad in ["", "   ", "a\nb", &"a".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_slug_is_two_groups_of_six_digits() {
        let slug = new_slug();
        let (left, right) = slug.split_once('-').unwrap();
        assert!(
            [left, right].iter().all(|part| part.len() == 6 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        );
        assert_ne!(slug, new_slug());
    }
}
