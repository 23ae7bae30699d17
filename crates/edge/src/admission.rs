//! Who may reach a port.
//!
//! | port            | takes                                                                                           |
//! |-----------------|-------------------------------------------------------------------------------------------------|
//! | guest agent's   | what its own gate takes (the sandbox's access token, signatures), on the paths that are open      |
//! | a public one    | anybody                                                                                          |
//! | any other       | a key of the sandbox's team (`X-API-Key`), or its traffic token (`E2b-Traffic-Access-Token`)      |

use http::HeaderMap;
use sandbar_control::traffic::{Destination, is_api_key};
use sandbar_types::guest::AGENT_PORT;

use crate::headers::{API_KEY, TRAFFIC_TOKEN};
use crate::refusal::Refusal;
use crate::{Edge, agent_routes};

impl Edge {
    pub(crate) async fn admit(
        &self,
        to: &Destination,
        port: u16,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        if port == AGENT_PORT {
            return if agent_routes::is_open(path) { Ok(()) } else { Err(Refusal::NoSuchPath) };
        }
        if to.ingress.is_public(port) {
            return Ok(());
        }
        let tokens = headers.get_all(TRAFFIC_TOKEN).iter();
        if tokens.into_iter().any(|token| self.control.is_traffic_token(to.id, token.as_bytes())) {
            return Ok(());
        }
        for key in headers.get_all(API_KEY).iter().filter_map(|key| key.to_str().ok()).map(str::trim) {
            if is_api_key(key) && self.sandboxes.takes_key(to, key).await? {
                return Ok(());
            }
        }
        Err(Refusal::Forbidden)
    }
}
