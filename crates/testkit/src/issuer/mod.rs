//! An identity provider on a port of this machine: OpenID Connect as an issuer speaks it (discovery, authorization code, PKCE,
//! signed id tokens, published keys), and what GitHub speaks. It holds its clients to the protocol, and can be told to break it.
//!
//! It shares no code with what it tests: tokens are put together and signed here, by hand.

mod keys;
mod routes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

pub use keys::Algorithm;
use keys::SigningKey;

/// The one client that the issuer knows.
pub const CLIENT_ID: &str = "sandbar-client";
/// That client's secret.
pub const CLIENT_SECRET: &str = "sandbar-secret";

/// Somebody with an account at the issuer.
#[derive(Debug, Clone)]
pub struct Account {
    /// The issuer's id of them. A number, since GitHub's are.
    pub subject: u64,
    /// Their address.
    pub email: String,
    /// Whether the issuer has seen that it is theirs.
    pub email_verified: bool,
    /// Their name.
    pub name: String,
}

/// A breach of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The token is of another sign-in.
    Nonce,
    /// The token is for another client.
    Audience,
    /// The token says that it is another issuer's.
    TokenIssuer,
    /// The discovery document says so.
    DiscoveryIssuer,
    /// The token has expired.
    Expired,
    /// The token is signed with a key that is not published.
    ForeignKey,
    /// The token is not signed, and says so.
    Unsigned,
    /// The token is signed with the published key as if it were a shared secret.
    SharedSecret,
    /// The token was changed after it was signed.
    Tampered,
    /// The token endpoint fails.
    TokenEndpoint,
}

/// See the module. Dropping it ends it.
pub struct Issuer {
    shared: Arc<Shared>,
    server: AbortHandle,
}

/// What the routes know.
struct Shared {
    url: String,
    state: Mutex<State>,
}

struct State {
    /// Who is signed in at the issuer, in the browser that comes next. None: whoever comes is refused.
    account: Option<Account>,
    fault: Option<Fault>,
    key: SigningKey,
    keys_made: u32,
    /// Codes that were given out and not used.
    codes: HashMap<String, Grant>,
    /// GitHub's tokens.
    tokens: HashMap<String, Account>,
}

/// What a code stands for.
struct Grant {
    account: Account,
    redirect_uri: String,
    challenge: String,
    nonce: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer {
    /// Starts one that signs by this algorithm.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start(algorithm: Algorithm) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the issuer");
        let address = listener.local_addr().expect("the issuer's address");
        let state = State {
            account: None,
            fault: None,
            key: SigningKey::new(algorithm, "key-0".to_owned()),
            keys_made: 1,
            codes: HashMap::new(),
            tokens: HashMap::new(),
        };
        let shared = Arc::new(Shared { url: format!("http://{address}"), state: Mutex::new(state) });
        let routes = routes::routes(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await }).abort_handle();
        Self { shared, server }
    }

    /// Its address, which is its name as well.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// The browser that comes next is this person's; none = whoever comes is refused.
    pub fn sign_in(&self, account: Option<Account>) {
        self.shared.state().account = account;
    }

    /// Breaks the protocol from now on, or keeps to it again.
    pub fn break_protocol(&self, fault: Option<Fault>) {
        self.shared.state().fault = fault;
    }

    /// Signs with another key from now on, and publishes that alone.
    pub fn replace_key(&self, algorithm: Algorithm) {
        let mut state = self.shared.state();
        state.key = SigningKey::new(algorithm, format!("key-{}", state.keys_made));
        state.keys_made += 1;
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
