//! Reading what a host reports.

use chrono::{DateTime, Utc};
use sandbar_proto::host;
use sandbar_store::sandbox_metrics::MetricPoint;
use sandbar_store::sandboxes::{Activity, Deadline, RunningOn};
use sandbar_types::{Id, MetricsRange, OnTimeout, PauseMode, TimeoutFrom, id};

/// What a host says of a sandbox that it runs.
pub(crate) fn running_on(sandbox: &host::Sandbox) -> RunningOn {
    RunningOn {
        guest_ip: address(&sandbox.guest_ip),
        host_ip: address(&sandbox.host_ip),
        last_active_at: time(sandbox.last_active_at_unix_ms),
        expires_at: time(sandbox.expires_at_unix_ms),
        deadline: deadline(sandbox),
    }
}

/// When a host saw a sandbox in use.
pub(crate) fn activity(id: Id<id::Sandbox>, generation: Option<i64>, sandbox: &host::Sandbox) -> Activity {
    Activity {
        id,
        last_active_at: time(sandbox.last_active_at_unix_ms),
        expires_at: time(sandbox.expires_at_unix_ms),
        deadline: deadline(sandbox),
        generation,
    }
}

/// What a host says that it keeps of a paused sandbox. One that does not say knows of one way.
pub(crate) fn pause_mode(sandbox: &host::Sandbox) -> PauseMode {
    match sandbox.pause_mode.as_known() {
        Some(host::PauseMode::PAUSE_MODE_FILESYSTEM) => PauseMode::Filesystem,
        Some(host::PauseMode::PAUSE_MODE_FULL | host::PauseMode::PAUSE_MODE_UNSPECIFIED) | None => {
            PauseMode::Full
        }
    }
}

/// When a sandbox ends by itself, by its host's journal. None where the host does not say how.
fn deadline(sandbox: &host::Sandbox) -> Option<Deadline> {
    let on_timeout = match sandbox.on_timeout.as_known()? {
        host::OnTimeout::ON_TIMEOUT_UNSPECIFIED => return None,
        host::OnTimeout::ON_TIMEOUT_KILL => OnTimeout::Kill,
        host::OnTimeout::ON_TIMEOUT_PAUSE => OnTimeout::Pause,
        host::OnTimeout::ON_TIMEOUT_PAUSE_FILESYSTEM => OnTimeout::PauseFilesystem,
    };
    let timeout_from = match sandbox.timeout_from.as_known()? {
        // A host that knows of no other.
        host::TimeoutFrom::TIMEOUT_FROM_UNSPECIFIED | host::TimeoutFrom::TIMEOUT_FROM_ACTIVITY => {
            TimeoutFrom::Activity
        }
        host::TimeoutFrom::TIMEOUT_FROM_START => TimeoutFrom::Start,
    };
    Some(Deadline { timeout_sec: sandbox.timeout_sec, on_timeout, timeout_from })
}

/// The points of one range. What has no time is left out.
pub(crate) fn points(points: &[host::MetricsPoint]) -> Vec<MetricPoint> {
    let read = |point: &host::MetricsPoint| {
        Some(MetricPoint {
            at: time(point.timestamp_unix_ms)?,
            cpu_pct: point.cpu_pct,
            mem_bytes: point.mem_bytes,
            disk_bytes: point.disk_bytes,
        })
    };
    points.iter().filter_map(read).collect()
}

/// The points of every range that the host sent.
pub(crate) fn tiers(tiers: &[host::MetricsTier]) -> Vec<(MetricsRange, Vec<MetricPoint>)> {
    let read = |tier: &host::MetricsTier| {
        let range = match tier.range.as_known()? {
            host::MetricsRange::METRICS_RANGE_UNSPECIFIED => return None,
            host::MetricsRange::METRICS_RANGE_10M => MetricsRange::TenMinutes,
            host::MetricsRange::METRICS_RANGE_2H => MetricsRange::TwoHours,
            host::MetricsRange::METRICS_RANGE_24H => MetricsRange::Day,
        };
        Some((range, points(&tier.points)))
    };
    tiers.iter().filter_map(read).collect()
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
