//! Where a process tells its figures to Prometheus.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use sandbar_api::Limits;
use sandbar_api::figures::{Figures, install, internal_router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// An address with a port, or a port of this machine's own address: who else is to see figures is to be said.
pub(crate) fn address(text: &str) -> anyhow::Result<SocketAddr> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text.parse().context("expected a port, or an address and a port like 127.0.0.1:9090"),
    }
}

/// Collects the figures of a process that has nothing to bring up to date for them, and tells them until `stop`.
pub(crate) async fn serve(address: SocketAddr, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let figures = Figures::new(install()?, || std::future::ready(()));
    let router = internal_router(figures);
    tokio::spawn(sandbar_api::serve(listener, router, Limits::default(), stop, Duration::ZERO));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_for_this_machine() {
        assert_eq!(address("9090").unwrap().to_string(), "127.0.0.1:9090");
        assert_eq!(address("0.0.0.0:9090").unwrap().to_string(), "0.0.0.0:9090");
        assert_eq!(address("[::1]:9090").unwrap().to_string(), "[::1]:9090");
        for wrong in ["", "localhost:9090", "70000", "127.0.0.1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
