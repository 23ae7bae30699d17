//! What the host and the guest must agree on.

use std::net::Ipv4Addr;

/// The guest agent's port (E2B's SDKs expect this number).
pub const AGENT_PORT: u16 = 49_983;
/// The port on the TAP's address where the host listens for the guest's ready push.
pub const READY_PORT: u16 = 49_982;

/// The guest's address: the same in every sandbox, since each has a network namespace of its own.
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// The TAP's address: the guest's gateway, and the only peer from which its agent takes `/init` before it has a token.
pub const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Prefix length of the guest's network.
pub const PREFIX_LEN: u8 = 30;
/// The guest's MAC address: fixed, so that a restored guest's view of its network stays true.
pub const GUEST_MAC: [u8; 6] = [0x06, 0x00, 0xac, 0x1e, 0x00, 0x02];
/// The TAP's MAC address: fixed for the same reason (a restored guest keeps its gateway's MAC).
pub const TAP_MAC: [u8; 6] = [0x06, 0x00, 0xac, 0x1e, 0x00, 0x01];

/// The user that commands run as unless they say otherwise.
pub const DEFAULT_USER: &str = "user";

/// The version of E2B's guest protocol that the agent speaks, as reported to E2B clients.
pub const ENVD_VERSION: &str = "0.6.13";

/// Where the guest's init puts the agent's executable, whatever the image has.
pub const AGENT_PATH: &str = "/run/sandbar/guest-agent";
