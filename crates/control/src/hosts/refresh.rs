//! New credentials for old ones.
//!
//! A refresh token works once: it is replaced by another, and with it come a new host token and a new certificate. The new one is stored
//! before the old one is void, in one transaction; so a crash in between leaves the old one as it was. Because the reply may be lost, the
//! old one works once more for [`GRACE`], and what nobody got is void then. Any other use of an old one means that two have it: all that
//! descends from that registration ends, and the trail is told.

use std::time::Duration;

use chrono::Utc;
use sandbar_store::Tx;
use sandbar_store::audit::Outcome;
use sandbar_store::hosts::{NewRefreshToken, ShownRefreshToken};
use sandbar_types::Id;
use sandbar_types::id::{Host, HostRefreshToken};
use secrecy::SecretString;
use uuid::Uuid;

use super::{HostCredentials, HostError, HostTokens, InvalidHost, TokenHost};
use crate::pki::PkiError;
use crate::secrets::{random_token, token_hash};
use crate::{Control, OpContext, audit};

/// How long a refresh token lasts.
const REFRESH_LIFE: Duration = Duration::from_secs(60 * 24 * 3600);
/// For how long a reply may have been lost.
const GRACE: Duration = Duration::from_secs(5 * 60);

/// What an agent shows for new credentials.
#[derive(Debug)]
pub struct Refresh {
    /// Its refresh token.
    pub refresh_token: SecretString,
    /// A certificate signing request in PEM, of the key that the agent will serve with from now on.
    pub csr: String,
}

/// What it gets.
#[derive(Debug)]
pub struct Refreshed {
    /// Who it is.
    pub host_id: Id<Host>,
    /// What it goes on with.
    pub credentials: HostCredentials,
}

/// What a refresh token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// New credentials.
    Renew,
    /// The same: the reply was lost.
    RenewAgain,
    /// Nothing.
    Refuse,
    /// Nothing, and two have it.
    Stolen,
}

fn judge(shown: &ShownRefreshToken) -> Verdict {
    let ShownRefreshToken { is_void, is_replaced, in_grace, successor_used, .. } = shown;
    match (is_void, is_replaced, in_grace, successor_used) {
        // By an earlier theft or by its age: what is to be told of it was told.
        (true, _, _, _) => Verdict::Refuse,
        (false, false, _, _) => Verdict::Renew,
        (false, true, true, false) => Verdict::RenewAgain,
        (false, true, _, _) => Verdict::Stolen,
    }
}

impl Control {
    /// Renews a host's credentials.
    pub async fn host_refresh(&self, _ctx: &OpContext, refresh: &Refresh) -> Result<Refreshed, HostError> {
        let Refresh { refresh_token, csr } = refresh;
        let mut tx = self.store().begin().await?;
        let shown = tx.host_refresh_token_lock(&token_hash(refresh_token), GRACE).await?;
        let shown = shown.ok_or(HostError::InvalidToken)?;
        let verdict = judge(&shown);
        match verdict {
            Verdict::Renew | Verdict::RenewAgain => {}
            Verdict::Refuse => return Err(HostError::InvalidToken),
            Verdict::Stolen => {
                let team = tx.host_family_revoke(&shown).await?;
                let system = OpContext::system();
                let whose = (shown.host_id, team);
                tx.audit(&audit::host(&system, whose, "credentials_revoked", Outcome::Warning)).await?;
                tx.commit().await?;
                tracing::warn!(host = %shown.host_id, "a refresh token was used twice: the host's credentials are void");
                return Err(HostError::InvalidToken);
            }
        }
        let host = TokenHost { id: shown.host_id, epoch: shown.credential_epoch };
        let (successor, credentials) = self.credentials(&mut tx, host, shown.family_id, csr).await?;
        tx.host_refresh_token_replace(&shown, successor).await?;
        tx.commit().await?;
        Ok(Refreshed { host_id: shown.host_id, credentials })
    }

    /// New credentials of a family, of which the refresh token is kept.
    pub(super) async fn credentials(
        &self,
        tx: &mut Tx,
        host: TokenHost,
        family_id: Uuid,
        csr: &str,
    ) -> Result<(Id<HostRefreshToken>, HostCredentials), HostError> {
        let cert = self.certificate(host.id, csr)?;
        let refresh_token = random_token::<32>("hrt_");
        let id = Id::new();
        tx.host_refresh_token_insert(&NewRefreshToken {
            id,
            host_id: host.id,
            family_id,
            token_hash: &token_hash(&refresh_token),
            expires_at: Utc::now() + REFRESH_LIFE,
        })
        .await?;
        let credentials = HostCredentials {
            token: self.host_tokens().issue(host).map_err(HostError::Token)?,
            token_life: HostTokens::LIFE,
            refresh_token,
            refresh_life: REFRESH_LIFE,
            cert,
            ca: self.authority().cert_pem().to_owned(),
        };
        Ok((id, credentials))
    }

    fn certificate(&self, id: Id<Host>, csr: &str) -> Result<String, HostError> {
        self.authority().sign_host(id, csr).map_err(|error| match error {
            PkiError::Request(_) => HostError::Invalid(InvalidHost::Csr),
            other => HostError::Pki(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown([is_void, is_replaced, in_grace, successor_used]: [bool; 4]) -> ShownRefreshToken {
        ShownRefreshToken {
            id: Id::new(),
            host_id: Id::new(),
            family_id: Uuid::nil(),
            credential_epoch: 1,
            successor: is_replaced.then(Id::new),
            is_void,
            is_replaced,
            in_grace,
            successor_used,
        }
    }

    #[test]
    fn a_token_renews_once_and_once_more_while_its_reply_may_have_been_lost() {
        assert_eq!(judge(&shown([false, false, false, false])), Verdict::Renew);
        assert_eq!(judge(&shown([false, true, true, false])), Verdict::RenewAgain);
        assert_eq!(judge(&shown([false, true, false, false])), Verdict::Stolen);
        // The reply was not lost: somebody used what was in it.
        assert_eq!(judge(&shown([false, true, true, true])), Verdict::Stolen);
    }

    proptest! {
        #[test]
        fn what_is_void_renews_nothing_and_tells_nothing(rest in any::<[bool; 3]>()) {
            let [is_replaced, in_grace, successor_used] = rest;
            prop_assert_eq!(judge(&shown([true, is_replaced, in_grace, successor_used])), Verdict::Refuse);
        }
    }
}
