//! How fast a slot's devices send: a token bucket (the kernel's `tbf`) on the TAP for what the guest is sent, and on the way out for
//! what it sends. What comes faster waits for up to a twentieth of a second and is dropped then, as on any slow line.

use std::num::NonZeroU64;

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

/// A bound of the bytes that pass in a second, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    rate: NonZeroU64,
}

/// Attributes of the bucket's options, and the one kind of link that needs no table of sizes (`linux/pkt_sched.h`).
const PARAMETERS: u16 = 1;
const RATE: u16 = 4;
const BURST: u16 = 6;
const ETHERNET: u8 = 1;

/// What passes at once after a rest. No less than two packets as large as hosts and guests hand them over.
const LEAST_BURST: u64 = 128 << 10;

impl Bucket {
    pub(crate) fn new(rate: NonZeroU64) -> Self {
        Self { rate }
    }

    /// A hundredth of a second's worth.
    fn burst(self) -> u32 {
        saturated((self.rate.get() / 100).max(LEAST_BURST))
    }

    /// The request that gives a device this bucket.
    pub(crate) fn on(self, device: u32) -> Result<TcMessage, std::num::TryFromIntError> {
        let mut message = TcMessage::with_index(i32::try_from(device)?);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![
            TcAttribute::Kind("tbf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Other(DefaultNla::new(PARAMETERS, self.parameters())),
                TcOption::Other(DefaultNla::new(RATE, self.rate.get().to_ne_bytes().to_vec())),
                TcOption::Other(DefaultNla::new(BURST, self.burst().to_ne_bytes().to_vec())),
            ]),
        ];
        Ok(message)
    }

    /// `struct tc_tbf_qopt`: two `tc_ratespec`s (the second, of peaks, is not used), then limit, buffer and mtu.
    fn parameters(self) -> Vec<u8> {
        let waiting = saturated(self.rate.get() / 20).saturating_add(self.burst());
        let mut bytes = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
        bytes.extend(saturated(self.rate.get()).to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(waiting.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structure_is_laid_out_as_it_reads_it() {
        let bucket = Bucket::new(NonZeroU64::new(1_000_000).unwrap());
        let bytes = bucket.parameters();
        assert_eq!(bytes.len(), 36);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(24)), (1_000_000, 50_000 + (128 << 10)));
        let fast = Bucket::new(NonZeroU64::new(125_000_000_000).unwrap());
        assert_eq!(u32::from_ne_bytes(fast.parameters()[8..12].try_into().unwrap()), u32::MAX);
        assert_eq!(fast.burst(), 1_250_000_000);
    }
}
