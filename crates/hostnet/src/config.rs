//! What a pool is told: names and addresses.

use std::{fmt, net::Ipv4Addr, num::NonZeroU64, path::PathBuf, str::FromStr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::NetError;

/// Tells one platform's devices from another's on the same machine: four hexadecimal digits, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// Number of a slot. It decides the slot's names and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotIndex(pub u16);

/// The device through which sandboxes reach the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uplink {
    /// The device of the default route when the pool opens. Without a default route sandboxes reach nothing outside.
    Detect,
    /// This one.
    Device(String),
}

/// What a pool is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConfig {
    /// Marks everything that this pool makes.
    pub tag: Tag,
    /// Addresses of the links between host and slots, two for each slot. Nothing else on the host may use them.
    pub network: Ipv4Net,
    /// How many free slots to keep ready.
    pub pool_size: usize,
    /// Where guests' packets leave the host.
    pub uplink: Uplink,
    /// Private networks that a sandbox may reach if its policy allows them. The host, other sandboxes and metadata services are never
    /// among them, whatever it says here.
    pub private_egress: Vec<Ipv4Net>,
    /// Where the resolvers are listed that answer for sandboxes whose policy names domains (`resolv.conf`).
    pub resolvers: PathBuf,
    /// Bytes that pass a slot in a second, each way. None: no bound.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl NetConfig {
    /// The network that slots use where nothing else is said.
    pub const DEFAULT_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 16);

    /// No slots ahead, the default route's device, no private network opened, the host's own resolvers, no bound.
    #[must_use]
    pub fn new(tag: Tag, network: Ipv4Net) -> Self {
        Self {
            tag,
            network,
            pool_size: 0,
            uplink: Uplink::Detect,
            private_egress: Vec::new(),
            resolvers: PathBuf::from("/etc/resolv.conf"),
            bytes_per_second: None,
        }
    }
}

impl Tag {
    /// First bytes of the hardware addresses of this platform's links: locally administered, then the tag.
    pub(crate) fn hardware_prefix(&self) -> [u8; 3] {
        let byte = |digits| u8::from_str_radix(digits, 16).unwrap_or(0);
        [0x02, byte(&self.0[..2]), byte(&self.0[2..])]
    }

    /// The tag as it appears in names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Tag {
    type Error = NetError;

    fn try_from(text: String) -> Result<Self, NetError> {
        if text.len() == 4 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text))
        } else {
            Err(NetError::BadTag { text })
        }
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_four_hexadecimal_digits() {
        assert_eq!("0a1f".parse::<Tag>().unwrap().as_str(), "0a1f");
        for bad in ["", "0a1", "0a1f0", "0A1F", "0a1g", "../x", "äb"] {
            assert!(matches!(bad.parse::<Tag>(), Err(NetError::BadTag { .. })), "{bad}");
            assert!(serde_json::from_value::<Tag>(bad.into()).is_err(), "{bad}");
        }
    }
}
