//! Out, back, and the token.

use std::time::Duration;

use chrono::Utc;
use sandbar_store::StoreError;
use sandbar_store::audit::Outcome;
use sandbar_types::Id;
use sandbar_types::id::User;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::config::{Kind, Provider};
use super::http::{Http, ProviderError, with_query};
use super::oidc::Issuer;
use super::state::{Purpose, State};
use super::{OAuthConfig, OAuthError, ProvenIdentity, ProviderInfo, github};
use crate::people::{Counted, NewAccount, SignIn, check_email, default_team_name};
use crate::secrets::random_token;
use crate::{Client, Control, OpContext, audit};

/// How long the way out and back may take.
const STATE_LIFE: Duration = Duration::from_secs(600);
/// How long a page may take to exchange its code.
const CODE_LIFE: Duration = Duration::from_secs(60);

/// What somebody without an account that they are signed in to wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Intent {
    SignIn,
    SignUp,
}

/// The way out.
#[derive(Debug)]
pub struct Begun {
    /// Where the browser goes.
    pub location: String,
    /// What it keeps until it comes back.
    pub state: String,
    /// For how long.
    pub state_life: Duration,
}

/// The way back.
#[derive(Debug)]
pub struct Finished {
    /// The page, with what came of it in the fragment, which no server sees.
    pub location: String,
    /// What the browser keeps to exchange its one-time code with, if it got one.
    pub binding: Option<SecretString>,
    /// For how long.
    pub binding_life: Duration,
    /// Why it failed, where it did, for the log.
    pub failed: Option<OAuthError>,
}

/// What the provider sent along.
#[derive(Debug, Clone, Default)]
pub struct CallbackQuery {
    /// The code for the identity.
    pub code: Option<String>,
    /// What was sent out.
    pub state: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
}

impl Control {
    /// Where people may sign in.
    #[must_use]
    pub fn oauth_providers(&self) -> Vec<ProviderInfo> {
        let providers = self.config().oauth.iter().flat_map(|config| &config.providers);
        let info =
            |provider: &Provider| ProviderInfo { name: provider.name.clone(), label: provider.label.clone() };
        providers.map(info).collect()
    }

    fn provider(&self, name: &str) -> Result<(&OAuthConfig, &Provider), OAuthError> {
        let config = self.config().oauth.as_ref();
        let found = config.and_then(|config| {
            let provider = config.providers.iter().find(|provider| provider.name == name)?;
            Some((config, provider))
        });
        found.ok_or_else(|| OAuthError::UnknownProvider { name: name.to_owned() })
    }

    /// Begins to sign in or up.
    pub async fn oauth_begin(
        &self,
        name: &str,
        intent: Intent,
        client: &Client,
    ) -> Result<Begun, OAuthError> {
        self.provider(name)?;
        self.count_stranger(client).await?;
        let purpose = match intent {
            Intent::SignIn => Purpose::SignIn,
            Intent::SignUp => Purpose::SignUp,
        };
        self.begin(name, purpose).await
    }

    /// Begins to link an identity to the caller's account.
    pub async fn oauth_begin_link(&self, ctx: &OpContext, name: &str) -> Result<Begun, OAuthError> {
        let person = ctx.person()?;
        self.begin(name, Purpose::Link { user: person.id, session: person.session }).await
    }

    /// Whoever has no credential makes this process call the provider: as often as they may try to sign in.
    async fn count_stranger(&self, client: &Client) -> Result<(), OAuthError> {
        match client.address {
            Some(address) => Ok(self.throttle(Counted::Address(address)).await?),
            None => Ok(()),
        }
    }

    async fn begin(&self, name: &str, purpose: Purpose) -> Result<Begun, OAuthError> {
        let (config, provider) = self.provider(name)?;
        let state = State::new(name, purpose, (Utc::now() + STATE_LIFE).timestamp());
        let redirect_uri = config.redirect_uri(provider);
        let location = match &provider.kind {
            Kind::GitHub { web, .. } => github::way_out(provider, web, &state, &redirect_uri),
            Kind::Oidc { issuer } => {
                let failed = |source| failed(provider, source);
                let http = Http::new().map_err(failed)?;
                let issuer = Issuer::discover(provider, issuer, &http).await.map_err(failed)?;
                issuer.way_out(&state, &redirect_uri)
            }
        };
        let state = self.state_key().seal(&state).ok_or(OAuthError::State)?;
        Ok(Begun { location, state, state_life: STATE_LIFE })
    }

    /// Somebody came back. Whatever came of it, they are sent to the page.
    pub async fn oauth_finish(
        &self,
        ctx: &OpContext,
        name: &str,
        cookie: Option<&str>,
        query: &CallbackQuery,
        client: &Client,
    ) -> Result<Finished, OAuthError> {
        let (config, provider) = self.provider(name)?;
        self.count_stranger(client).await?;
        let came_back = self.come_back(ctx, config, provider, cookie, query).await;
        let (fragment, binding, failed) = match came_back {
            Ok(Back::SignedIn(user)) => {
                let (code, binding) = self.one_time_code(user).await?;
                (with_query("", &[("code", code.expose_secret())]), Some(binding), None)
            }
            Ok(Back::Linked) => (with_query("", &[("linked", name)]), None, None),
            Err(error) => (with_query("", &[("error", error.word()), ("provider", name)]), None, Some(error)),
        };
        let location = format!("{}#{}", config.page(), fragment.trim_start_matches('?'));
        Ok(Finished { location, binding, binding_life: CODE_LIFE, failed })
    }

    async fn come_back(
        &self,
        ctx: &OpContext,
        config: &OAuthConfig,
        provider: &Provider,
        cookie: Option<&str>,
        query: &CallbackQuery,
    ) -> Result<Back, OAuthError> {
        let state = cookie.and_then(|cookie| self.state_key().open(cookie, Utc::now().timestamp()));
        let state = state.filter(|state| {
            let given = query.state.as_deref().unwrap_or_default();
            state.provider == provider.name && bool::from(state.state.as_bytes().ct_eq(given.as_bytes()))
        });
        let state = state.ok_or(OAuthError::State)?;
        if let Some(reason) = &query.error {
            return Err(OAuthError::Refused { reason: reason.clone() });
        }
        let code = query.code.as_deref().ok_or(OAuthError::State)?;
        let identity = identify(config, provider, &state, code).await?;
        let known = self.store().identity_find(&provider.name, &identity.subject).await?;
        match (&state.purpose, known) {
            (Purpose::SignIn, Some(user)) => Ok(Back::SignedIn(user)),
            (Purpose::SignIn, None) => Err(OAuthError::NoAccount),
            (Purpose::SignUp, Some(_)) => Err(OAuthError::AccountExists),
            (Purpose::SignUp, None) => self.sign_up_as(ctx, provider, &identity).await.map(Back::SignedIn),
            (Purpose::Link { user, session }, _) => {
                // Who has signed out meanwhile does not get another way in.
                let signed_in = self.store().session_find(*session, *user, None).await?;
                signed_in.ok_or(OAuthError::State)?;
                self.link(ctx, provider, *user, &identity).await.map(|()| Back::Linked)
            }
        }
    }

    async fn sign_up_as(
        &self,
        ctx: &OpContext,
        provider: &Provider,
        identity: &ProvenIdentity,
    ) -> Result<Id<User>, OAuthError> {
        let email = identity.verified_email.as_deref().ok_or(OAuthError::EmailNotVerified)?;
        check_email(email).map_err(|_| OAuthError::EmailNotVerified)?;
        let given = identity.name.as_deref().unwrap_or_default();
        let local = email.split('@').next().unwrap_or(email);
        let name: String = if given.trim().is_empty() { local } else { given.trim() }
            .chars()
            .filter(|c| !c.is_control())
            .take(100)
            .collect();
        let team_name = default_team_name(&name);
        let account = NewAccount { email, name: &name, password_hash: None, team_name: &team_name };
        let nobody_yet = !self.store().users_exist().await?;
        let mut tx = self.store().begin().await?;
        let is_first = nobody_yet && !tx.users_exist_locked().await?;
        let (user, _) = self.account_insert(&mut tx, ctx, &account, is_first).await?;
        tx.identity_insert(&provider.name, &identity.subject, user, email).await.map_err(linked_already)?;
        tx.commit().await?;
        Ok(user)
    }

    async fn link(
        &self,
        ctx: &OpContext,
        provider: &Provider,
        user: Id<User>,
        identity: &ProvenIdentity,
    ) -> Result<(), OAuthError> {
        let mut tx = self.store().begin().await?;
        tx.user_lock(user).await?;
        let email = identity.verified_email.as_deref().unwrap_or_default();
        tx.identity_insert(&provider.name, &identity.subject, user, email).await.map_err(linked_already)?;
        tx.audit(&audit::user(ctx, None, user, "identity_link", Outcome::Success)).await?;
        Ok(tx.commit().await?)
    }

    /// A code for a page, and the half of it that stays in the browser: who has only the one cannot use it.
    async fn one_time_code(&self, user: Id<User>) -> Result<(SecretString, SecretString), OAuthError> {
        let (code, binding) = (random_token::<32>(""), random_token::<32>(""));
        let mut tx = self.store().begin().await?;
        tx.sign_in_code_insert(&code_hash(&code, &binding), user, Utc::now() + CODE_LIFE).await?;
        tx.commit().await?;
        Ok((code, binding))
    }

    /// The token for a one-time code.
    pub async fn oauth_exchange(
        &self,
        code: &SecretString,
        binding: Option<&SecretString>,
        client: &Client,
    ) -> Result<SignIn, OAuthError> {
        let binding = binding.ok_or(OAuthError::Code)?;
        let mut tx = self.store().begin().await?;
        let user = tx.sign_in_code_take(&code_hash(code, binding)).await?.ok_or(OAuthError::Code)?;
        let opened = self.open_session(&mut tx, user, client).await?;
        tx.commit().await?;
        Ok(self.signed_in(opened).await?)
    }
}

enum Back {
    SignedIn(Id<User>),
    Linked,
}

async fn identify(
    config: &OAuthConfig,
    provider: &Provider,
    state: &State,
    code: &str,
) -> Result<ProvenIdentity, OAuthError> {
    let redirect_uri = config.redirect_uri(provider);
    let identity = async {
        let http = Http::new()?;
        match &provider.kind {
            Kind::GitHub { web, api } => {
                github::identity(provider, (web, api), &http, state, code, &redirect_uri).await
            }
            Kind::Oidc { issuer } => {
                let issuer = Issuer::discover(provider, issuer, &http).await?;
                issuer.identity(state, code, &redirect_uri).await
            }
        }
    };
    identity.await.map_err(|source| failed(provider, source))
}

fn failed(provider: &Provider, source: ProviderError) -> OAuthError {
    OAuthError::Provider { name: provider.name.clone(), source }
}

fn linked_already(error: StoreError) -> OAuthError {
    match error {
        StoreError::Taken { .. } => OAuthError::AlreadyLinked,
        other => other.into(),
    }
}

fn code_hash(code: &SecretString, binding: &SecretString) -> [u8; 32] {
    Sha256::digest(format!("{}.{}", code.expose_secret(), binding.expose_secret())).into()
}
