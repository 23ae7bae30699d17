//! Letting a host in.

use sandbar_store::hosts::RegistrationRow;
use sandbar_types::{Arch, Id, VmmKind};
use uuid::Uuid;

use super::{HostError, InvalidHost, Registered, Registration, TokenHost};
use crate::bootstrap::BASE;
use crate::secrets::token_hash;
use crate::{Control, OpContext};

/// Longest address, in bytes: a DNS name, a colon and a port.
const ADDRESS_BYTES: usize = 260;

impl Control {
    /// Lets a host in: uses up its token, and gives it a certificate and tokens of its own. All in one transaction: when anything
    /// fails, the token can be used again.
    pub async fn host_register(
        &self,
        _ctx: &OpContext,
        registration: &Registration,
    ) -> Result<Registered, HostError> {
        let Registration { token, arch, cpu_cores, memory_mb, disk_gb, address, vmm, csr } = registration;
        for (field, size) in [("cpu_cores", cpu_cores), ("memory_mb", memory_mb), ("disk_gb", disk_gb)] {
            if *size == 0 || i32::try_from(*size).is_err() {
                return Err(InvalidHost::Size(field).into());
            }
        }
        check_address(address)?;
        self.warn_of_base(*arch, *vmm, address).await?;

        let mut tx = self.store().begin().await?;
        let id = tx.host_token_use(&token_hash(token)).await?.ok_or(HostError::InvalidToken)?;
        let row = RegistrationRow {
            arch: *arch,
            vmm: *vmm,
            cpu_cores: *cpu_cores,
            memory_mb: *memory_mb,
            disk_gb: *disk_gb,
            address,
        };
        let host = tx.host_register(id, &row).await?;
        let named = TokenHost { id, epoch: host.credential_epoch };
        let (_, credentials) = self.credentials(&mut tx, named, Uuid::now_v7(), csr).await?;
        tx.commit().await?;
        // A host that registered anew has a new certificate, perhaps at the same address.
        self.host_clients().evict(id);
        Ok(Registered { host: host.try_into()?, credentials })
    }

    /// Each host makes the platform's template by itself, where it is of the kind of the host that made the first one.
    async fn warn_of_base(&self, arch: Arch, vmm: VmmKind, address: &str) -> Result<(), HostError> {
        let Ok(name) = BASE.parse() else { return Ok(()) };
        let base = self.store().template_by_name(Id::PLATFORM, &name).await?;
        if let Some(base) = base.filter(|base| (base.arch, base.vmm) != (arch, vmm)) {
            tracing::warn!(address, %arch, %vmm, "the platform's template is one of {} and {}: this host gets none",
                base.arch, base.vmm);
        }
        Ok(())
    }
}

fn check_address(address: &str) -> Result<(), InvalidHost> {
    let (host, port) = address.rsplit_once(':').ok_or(InvalidHost::Address)?;
    let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_is_fine = match name {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        }
    };
    let port_is_fine = port.parse::<u16>().is_ok_and(|port| port > 0);
    if host_is_fine && port_is_fine && address.len() <= ADDRESS_BYTES {
        Ok(())
    } else {
        Err(InvalidHost::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_called() {
        for good in ["127.0.0.1:8443", "host-1.example:1", "[::1]:65535"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":1",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "::1:80",
            "a/b:80",
            "a b:80",
            "[x]:1",
            "http://a:1",
        ] {
            assert_eq!(check_address(bad), Err(InvalidHost::Address), "{bad}");
        }
    }
}
