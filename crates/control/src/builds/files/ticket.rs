//! Tickets: who may upload which archive for which team, until when, signed. Nothing is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sandbar_store::Store;
use sandbar_types::Id;
use sandbar_types::id::Team;
use sandbar_types::recipe::FilesName;
use secrecy::SecretString;
use sha2::Sha256;
use uuid::Uuid;

use crate::secrets::{MasterKey, SecretError, random};

/// How long a ticket can be used.
const LIFE: TimeDelta = TimeDelta::hours(1);

/// Signs tickets.
#[derive(Clone)]
pub(crate) struct TicketKey([u8; 32]);

impl TicketKey {
    const NAME: &str = "build-files-key";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let bytes = master.secret(store, Self::NAME, || random::<32>().to_vec()).await?;
        Ok(Self(bytes.try_into().map_err(|_| SecretError::Damaged { name: Self::NAME })?))
    }

    fn mac(&self, body: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(body.as_bytes());
        mac
    }

    pub(super) fn seal(&self, team: Id<Team>, name: &FilesName, now: DateTime<Utc>) -> SecretString {
        let until = (now + LIFE).timestamp();
        let body = URL_SAFE_NO_PAD.encode(format!("{} {until} {name}", team.uuid()));
        let tag = URL_SAFE_NO_PAD.encode(self.mac(&body).finalize().into_bytes());
        format!("{body}.{tag}").into()
    }

    /// What a ticket says, if it is ours and in time.
    pub(super) fn open(&self, ticket: &str, now: DateTime<Utc>) -> Option<(Id<Team>, FilesName)> {
        let (body, tag) = ticket.split_once('.')?;
        self.mac(body).verify_slice(&URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        let mut words = text.split(' ');
        let team: Uuid = words.next()?.parse().ok()?;
        let until: i64 = words.next()?.parse().ok()?;
        let name = words.next()?.parse().ok()?;
        (now.timestamp() < until).then_some((Id::from_uuid(team), name))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_ticket_opens_as_it_was_made_and_in_time_only() {
        let key = TicketKey(random());
        let (team, now) = (Id::new(), Utc::now());
        for name in [FilesName::Content([7; 32]), FilesName::Client([8; 32])] {
            let ticket = key.seal(team, &name, now);
            let ticket = ticket.expose_secret();
            assert_eq!(key.open(ticket, now), Some((team, name)));
            assert_eq!(key.open(ticket, now + LIFE), None);
            assert_eq!(TicketKey(random()).open(ticket, now), None);
            let (body, tag) = ticket.split_once('.').unwrap();
            for bad in ["", ".", body, &format!("{body}."), &format!("x{ticket}"), &format!(".{tag}")] {
                assert_eq!(key.open(bad, now), None, "{bad}");
            }
        }
    }
}
