//! How often signing in may be tried: by account, which stops guessing at one, and by address, which stops guessing at many.
//! Counted in the database, so that all replicas count together.

use std::net::{IpAddr, Ipv6Addr};

use sandbar_store::sign_in::Allowance;
use sandbar_types::Id;
use sandbar_types::id::User;
use sha2::{Digest as _, Sha256};

use super::PeopleError;
use crate::Control;

/// What attempts are counted by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counted<'a> {
    /// The address that is signed in with, whether it has an account or not.
    Account(&'a str),
    /// Somebody who is signed in.
    Person(Id<User>),
    /// Where the attempt comes from.
    Address(IpAddr),
}

impl Counted<'_> {
    /// One size for all, and nothing in it to read.
    pub(crate) fn bucket(self) -> [u8; 32] {
        match self {
            Self::Account(email) => Sha256::digest(format!("account:{}", email.to_lowercase())),
            Self::Person(id) => Sha256::digest(format!("person:{id}")),
            // Whoever has one address of an IPv6 network has all of them.
            Self::Address(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => {
                let network = Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
                Sha256::digest(format!("address:{network}"))
            }
            Self::Address(address) => Sha256::digest(format!("address:{}", address.to_canonical())),
        }
        .into()
    }
}

impl Control {
    /// Counts an attempt before it is made, so that many at once count, too.
    pub(crate) async fn throttle(&self, counted: Counted<'_>) -> Result<(), PeopleError> {
        let allowance: Allowance = match counted {
            Counted::Account(_) | Counted::Person(_) => self.config().sign_ins_by_account,
            Counted::Address(_) => self.config().sign_ins_by_address,
        };
        match self.store().attempt(&counted.bucket(), allowance).await? {
            None => Ok(()),
            Some(retry_after) => Err(PeopleError::TooOften { retry_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_and_neighbours_share_a_bucket_and_strangers_do_not() {
        let address = |text: &str| Counted::Address(text.parse().unwrap()).bucket();
        assert_eq!(Counted::Account("A@x").bucket(), Counted::Account("a@X").bucket());
        assert_ne!(Counted::Account("a@x").bucket(), Counted::Account("b@x").bucket());
        assert_eq!(address("2001:db8::1"), address("2001:db8::2:3"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }
}
