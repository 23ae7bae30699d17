//! Who may reach a port.
//!
//! | port            | takes                                                                                           |
//! |-----------------|-------------------------------------------------------------------------------------------------|
//! | guest agent's   | what its own gate takes (the sandbox's access token, signatures), on the paths that are open;     |
//! |                 | while the sandbox is paused there is no gate, and only that token (`X-Access-Token`), or what     |
//! |                 | opens its other ports, resumes it                                                                 |
//! | a public one    | anybody                                                                                          |
//! | any other       | a key of the sandbox's team (`X-API-Key`), or its traffic token (`E2b-Traffic-Access-Token`)      |

use sandbar_control::traffic::{Destination, is_api_key};
use sandbar_types::guest::AGENT_PORT;

use crate::headers::{ACCESS_TOKEN, API_KEY, TRAFFIC_TOKEN};
use crate::refusal::Refusal;
use crate::sandboxes::Wake;
use crate::toll::Toll;
use crate::{Edge, agent_routes};

impl Edge {
    /// Whether a request may pass, and resume the sandbox for that.
    pub(crate) async fn admit(
        &self,
        to: &Destination,
        port: u16,
        path: &str,
        toll: &Toll<'_>,
    ) -> Result<Wake, Refusal> {
        let is_agents = port == AGENT_PORT;
        if is_agents && !agent_routes::is_open(path) {
            return Err(Refusal::NoSuchPath);
        }
        let mut access_tokens = toll.headers.get_all(ACCESS_TOKEN).iter();
        let is_known = to.ingress.is_public(port)
            || is_agents && access_tokens.any(|token| self.control.is_access_token(to.id, token.as_bytes()))
            || self.opens_ports(to, toll).await?;
        match is_known {
            true => Ok(Wake::Allowed),
            false if is_agents => Ok(Wake::Denied),
            false => Err(Refusal::Forbidden),
        }
    }

    /// Whether the caller has what opens every port.
    async fn opens_ports(&self, to: &Destination, toll: &Toll<'_>) -> Result<bool, Refusal> {
        let mut tokens = toll.headers.get_all(TRAFFIC_TOKEN).iter();
        if tokens.any(|token| self.control.is_traffic_token(to.id, token.as_bytes())) {
            return Ok(true);
        }
        for key in toll.headers.get_all(API_KEY).iter().filter_map(|key| key.to_str().ok()).map(str::trim) {
            if is_api_key(key) && self.sandboxes.takes_key(to, key, toll).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
