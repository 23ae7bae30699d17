//! `Accept-Encoding`: what a download may be encoded as (RFC 9110, 12.5.3).
//!
//! Several codings are what HTTP libraries offer by themselves: such a caller can read gzip, but did not ask for it. Between a
//! guest and its host to compress costs far more time than it saves, so gzip is for the caller that names it alone, as
//! E2B's clients do when they are told to, or takes nothing else.

/// What the agent can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// Which encodings of one resource can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Any.
    All,
    /// Bytes as they lie in the file: a range of anything else would mean something else.
    IdentityAlone,
}

/// The encoding to send, if there is one that the header accepts.
pub(super) fn choose(header: Option<&str>, offer: Offer) -> Option<Encoding> {
    let Some(header) = header else { return Some(Encoding::Identity) };
    let (mut gzip, mut identity, mut rest) = (None, None, None);
    let mut names_others = false;
    for part in header.split(',') {
        let (coding, parameters) = part.split_once(';').unwrap_or((part, ""));
        let weight = weight(parameters);
        match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "identity" => identity = Some(weight),
            "*" => rest = Some(weight),
            other => names_others |= !other.is_empty() && weight > 0,
        }
    }
    let may_gzip = offer == Offer::All && gzip.or(rest).unwrap_or(0) > 0;
    let may_identity = identity.or(rest) != Some(0);
    let asks_for_gzip = gzip.is_some() && gzip >= identity && !names_others;
    match (may_gzip, may_identity) {
        (true, true) if asks_for_gzip => Some(Encoding::Gzip),
        (_, true) => Some(Encoding::Identity),
        (true, false) => Some(Encoding::Gzip),
        (false, false) => None,
    }
}

/// `q=...` in thousandths. Without one, or with one that is no number, it is 1.
fn weight(parameters: &str) -> u16 {
    let q = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(q) = q else { return 1000 };
    let (whole, fraction) = q.split_once('.').unwrap_or((q, ""));
    match whole {
        "0" => {
            let digits = format!("{fraction:0<3}");
            digits.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(1000)
        }
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_the_standard() {
        use Encoding::{Gzip, Identity};
        for (header, all, identity_alone) in [
            ("", Some(Identity), Some(Identity)),
            ("identity", Some(Identity), Some(Identity)),
            ("gzip", Some(Gzip), Some(Identity)),
            ("GZIP", Some(Gzip), Some(Identity)),
            ("x-gzip", Some(Gzip), Some(Identity)),
            ("gzip, deflate", Some(Identity), Some(Identity)),
            ("zstd, gzip, br", Some(Identity), Some(Identity)),
            ("gzip, br;q=0", Some(Gzip), Some(Identity)),
            ("gzip, deflate, identity;q=0", Some(Gzip), None),
            ("br", Some(Identity), Some(Identity)),
            ("gzip;q=0", Some(Identity), Some(Identity)),
            ("gzip;q=0.000, br", Some(Identity), Some(Identity)),
            ("gzip;q=0.5, identity", Some(Identity), Some(Identity)),
            ("gzip;q=0.5, identity;q=0.4", Some(Gzip), Some(Identity)),
            ("*", Some(Identity), Some(Identity)),
            ("*;q=0", None, None),
            ("gzip, *;q=0", Some(Gzip), None),
            ("identity, *;q=0", Some(Identity), Some(Identity)),
            ("identity;q=0", None, None),
            ("br, identity;q=0", None, None),
            ("gzip, identity;q=0", Some(Gzip), None),
            ("gzip ; q=0.001 , identity; Q=0", Some(Gzip), None),
            ("*;q=0.5, identity;q=0", Some(Gzip), None),
        ] {
            assert_eq!(choose(Some(header), Offer::All), all, "{header}");
            assert_eq!(choose(Some(header), Offer::IdentityAlone), identity_alone, "{header}");
        }
        assert_eq!(choose(None, Offer::All), Some(Identity));
    }

    proptest! {
        #[test]
        fn what_excludes_nothing_is_always_served(header in "[a-z*;=.,1-9 é-]{0,60}") {
            prop_assert!(choose(Some(&header), Offer::All).is_some());
        }
    }
}
