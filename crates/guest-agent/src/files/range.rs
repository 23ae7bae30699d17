//! `Range: bytes=...`, the single-range part of RFC 9110. Anything else is not for us to serve, and is ignored as it allows.

/// What a `Range` header asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes, both ends included.
    Part { first: u64, last: u64 },
    /// Nothing that there is.
    Unsatisfiable,
}

/// Reads the header against the file's size.
pub(super) fn parse(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.strip_prefix("bytes=")) else { return Wanted::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Wanted::Whole };
    let (first, last) = (first.trim(), last.trim());
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Wanted::Whole,
            Some(0) => Wanted::Unsatisfiable,
            Some(_) if size == 0 => Wanted::Unsatisfiable,
            Some(length) => Wanted::Part { first: size.saturating_sub(length), last: size - 1 },
        },
        (first, "") => match number(first) {
            None => Wanted::Whole,
            Some(first) if first >= size => Wanted::Unsatisfiable,
            Some(first) => Wanted::Part { first, last: size - 1 },
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Wanted::Whole,
            (Some(first), Some(_)) if first >= size => Wanted::Unsatisfiable,
            (Some(first), Some(last)) => Wanted::Part { first, last: last.min(size - 1) },
            _ => Wanted::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(first: u64, last: u64) -> Wanted {
        Wanted::Part { first, last }
    }

    #[test]
    fn the_forms_of_the_standard() {
        for (header, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-4", part(2, 4)),
            ("bytes=2-", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=5-100", part(5, 9)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-12", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(parse(Some(header), 10), expected, "{header}");
        }
        assert_eq!(parse(None, 10), Wanted::Whole);
        assert_eq!(parse(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(parse(Some("bytes=-5"), 0), Wanted::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_always_lies_within_the_file(header in "bytes=[0-9]{0,4}-[0-9]{0,4}", size in 0_u64..5000) {
            if let Wanted::Part { first, last } = parse(Some(&header), size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
