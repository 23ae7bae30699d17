//! What is asked of the database for a request is charged to where the request comes from. What is remembered costs nothing.

use std::net::IpAddr;

use http::HeaderMap;

use crate::Charge;
use crate::refusal::Refusal;

/// Whom to charge for one request.
pub(crate) struct Toll<'a> {
    pub(crate) charge: &'a Charge,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) headers: &'a HeaderMap,
}

impl Toll<'_> {
    /// Before each question.
    pub(crate) fn pay(&self) -> Result<(), Refusal> {
        (self.charge)(self.peer, self.headers).map_err(Refusal::RateLimited)
    }
}
