//! Reading what a host reports.

use chrono::{DateTime, Utc};
use sandbar_proto::host;
use sandbar_store::sandboxes::RunningOn;

/// What a host says of a sandbox that it runs.
pub(crate) fn running_on(sandbox: &host::Sandbox) -> RunningOn {
    RunningOn {
        guest_ip: address(&sandbox.guest_ip),
        host_ip: address(&sandbox.host_ip),
        last_active_at: time(sandbox.last_active_at_unix_ms),
        expires_at: time(sandbox.expires_at_unix_ms),
    }
}

/// A time in milliseconds; 0 = none.
pub(crate) fn time(unix_ms: i64) -> Option<DateTime<Utc>> {
    if unix_ms == 0 { None } else { DateTime::from_timestamp_millis(unix_ms) }
}

/// An address that will be read back as one: what is none must not get into the database, where it would make the row unreadable.
fn address(text: &str) -> Option<String> {
    text.parse::<std::net::Ipv4Addr>().ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_or_time_is_not_kept() {
        let on = running_on(&host::Sandbox {
            guest_ip: "172.30.0.2".to_owned(),
            host_ip: "; DROP TABLE".to_owned(),
            last_active_at_unix_ms: 1_700_000_000_000,
            expires_at_unix_ms: 0,
            ..Default::default()
        });
        assert_eq!(on.guest_ip.as_deref(), Some("172.30.0.2"));
        assert_eq!((on.host_ip, on.expires_at), (None, None));
        assert_eq!(on.last_active_at.unwrap().timestamp(), 1_700_000_000);
        assert_eq!(time(i64::MAX), None);
    }
}
