//! What a log has in place of secrets: output goes through here as it comes, before anything of it is kept.
//!
//! A value that is cut between two pieces is found: what may be a value's beginning is held back until the next piece, or the end, says what it is.
//! Of a value of several lines each line is one, too, unless it is short. What a program makes of a value (an encoding, a part of it) is not known here.

/// In place of a value.
const MASK: &[u8] = b"***";
/// Lines of a longer value that are shorter stand for themselves.
const LINE_BYTES: usize = 8;

/// The values.
#[derive(Clone, Default)]
pub(super) struct Mask {
    /// The longest first: one may begin with another.
    values: Vec<Vec<u8>>,
}

/// One stream's output on its way.
#[derive(Default)]
pub(super) struct Masked {
    held: Vec<u8>,
}

impl Mask {
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut all = Vec::new();
        for value in values {
            all.extend([value, value.trim_ascii()].map(<[u8]>::to_vec));
            let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            all.extend(lines.filter(|line| line.len() >= LINE_BYTES).map(<[u8]>::to_vec));
        }
        all.retain(|value| !value.is_empty());
        all.sort_by_key(|value| std::cmp::Reverse(value.len()));
        all.dedup();
        Self { values: all }
    }

    /// What of a stream's output is known to be no value, with a mark for each that is one.
    pub(super) fn take(&self, stream: &mut Masked, bytes: &[u8]) -> Vec<u8> {
        self.pass(stream, bytes, false)
    }

    /// What was held back, at the stream's end.
    pub(super) fn finish(&self, stream: &mut Masked) -> Vec<u8> {
        self.pass(stream, b"", true)
    }

    fn pass(&self, stream: &mut Masked, bytes: &[u8], is_end: bool) -> Vec<u8> {
        let mut all = std::mem::take(&mut stream.held);
        all.extend_from_slice(bytes);
        if self.values.is_empty() {
            return all;
        }
        let (mut passed, mut at) = (Vec::with_capacity(all.len()), 0);
        while let Some(rest) = all.get(at..).filter(|rest| !rest.is_empty()) {
            // A longer value that may still come to be goes before a shorter one that is there.
            let begins = |value: &&Vec<u8>| rest.starts_with(value) || (!is_end && value.starts_with(rest));
            match self.values.iter().find(begins) {
                Some(value) if rest.starts_with(value) => {
                    passed.extend_from_slice(MASK);
                    at += value.len();
                }
                Some(_) => {
                    stream.held = rest.to_vec();
                    return passed;
                }
                None => {
                    passed.extend(rest.first());
                    at += 1;
                }
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn masked(values: &[&str], pieces: &[&[u8]]) -> String {
        let mask = Mask::new(values.iter().map(|value| value.as_bytes()));
        let mut stream = Masked::default();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| mask.take(&mut stream, piece)).collect();
        out.extend(mask.finish(&mut stream));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_masked_however_they_come_and_nothing_else_is() {
        assert_eq!(masked(&[], &[b"as it is"]), "as it is");
        assert_eq!(
            masked(&["hunter2"], &[b"is hun", b"ter", b"2, hunter", b"3 hunt"]),
            "is ***, hunter3 hunt"
        );
        assert_eq!(masked(&["ab", "abcd"], &[b"abc", b"d ab", b"c"]), "*** ***c");
        assert_eq!(masked(&["aab"], &[b"aa", b"ab"]), "a***");
        assert_eq!(masked(&["ab\n"], &[b"ab ab\n"]), "*** ***");
        let key = "-----BEGIN-----\nc2VjcmV0\nshort\n";
        assert_eq!(masked(&[key], &[key.as_bytes(), b"c2VjcmV0\nshort"]), "******\nshort");
    }

    proptest! {
        #[test]
        fn it_is_the_same_however_it_is_cut_and_no_value_is_left(
            value in "[ab]{3,6}", text in "[abc]{0,60}", cuts in vec(0_usize..60, 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let out = masked(&[&value], &pieces);
            prop_assert_eq!(&out, &text.replace(&value, "***"));
            prop_assert!(!out.contains(&value));
        }
    }
}
