//! The `metadata` of a list's query, which clients encode three times: each key and value, the pairs as a query of their own, and that as
//! a parameter.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::error::ApiError;
use crate::extract::QueryPairs;

/// The entries that all listed sandboxes must have.
pub(super) fn filter(query: &QueryPairs) -> Result<BTreeMap<String, String>, ApiError> {
    query.one("metadata")?.map_or_else(|| Ok(BTreeMap::new()), entries)
}

/// Of the parameter, the first decoding done.
fn entries(parameter: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let text = |encoded: &str| {
        percent_decode_str(encoded)
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| ApiError::invalid("metadata: the entries must be UTF-8"))
    };
    form_urlencoded::parse(parameter.as_bytes())
        .map(|(key, value)| Ok((text(&key)?, text(&value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_the_client_meant() {
        let of = |parameter| entries(parameter).unwrap().into_iter().collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(of("a%2520b=c%2526d"), [pair("a b", "c&d")]);
        assert_eq!(of("x=1&y=2"), [pair("x", "1"), pair("y", "2")]);
        assert_eq!(of("plus=%2B&flag="), [pair("flag", ""), pair("plus", "+")]);
        assert_eq!(of(""), []);
        assert!(entries("a=%25FF").is_err());
    }
}
