//! Which trace a request is part of, as its header says it (W3C Trace Context).

use std::fmt;

/// What the header [`TraceParent::HEADER`] says: a trace, the span that sent the request, and whether the sender keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
    /// Whether it goes to a collector.
    pub sampled: bool,
}

/// The version that is written, whose length is fixed.
const VERSION: &[u8] = b"00";
/// `VERSION-TRACE-SPAN-FLAGS` in hexadecimal digits. Later versions may say more, after a dash.
const LENGTH: usize = 55;

impl TraceParent {
    /// The header's name.
    pub const HEADER: &'static str = "traceparent";

    /// Reads the header's value, to the letter: what is malformed means nothing.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let version = known.get(..2)?;
        let ends = more.is_empty() || version != VERSION && more.starts_with(b"-");
        let dashes = [2, 35, 52].into_iter().all(|at| known.get(at) == Some(&b'-'));
        if !ends || !dashes || number(version)? == 0xff {
            return None;
        }
        let (trace, span) = (number(known.get(3..35)?)?, number(known.get(36..52)?)?);
        let sampled = number(known.get(53..)?)? & 1 == 1;
        let span = u64::try_from(span).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower case alone, and no sign: as the specification has it, not as numbers are read otherwise.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn what_the_specification_allows_is_read() {
        let known = |sampled| TraceParent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            sampled,
        };
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("cc-{TRACE}-{SPAN}-03"), true),
            (format!("cc-{TRACE}-{SPAN}-03-what-else"), true),
        ] {
            assert_eq!(TraceParent::read(value.as_bytes()), Some(known(sampled)), "{value}");
        }
    }

    #[test]
    fn what_is_malformed_means_nothing() {
        for value in [
            String::new(),
            "-".repeat(LENGTH),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("cc-{TRACE}-{SPAN}-01more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!(" 0-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(TraceParent::read(value.as_bytes()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let parent = TraceParent { trace, span, sampled };
            prop_assert_eq!(TraceParent::read(parent.to_string().as_bytes()), Some(parent));
        }

        #[test]
        fn nothing_breaks_it(value: Vec<u8>) {
            if let Some(parent) = TraceParent::read(&value) {
                prop_assert_ne!(parent.trace, 0);
            }
        }
    }
}
