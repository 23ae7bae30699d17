//! Signed URLs: `v1_` and the unpadded base64 of SHA-256 over `path:operation:user:token[:expiration]`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::place::FilesQuery;
use crate::state::AccessToken;

/// What a URL was signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why a signature does not open the door. The texts are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("missing signature query parameter")]
    Missing,
    #[error("invalid signature")]
    Invalid,
    #[error("signature is already expired")]
    Expired,
}

/// Checks the signature first and its expiration second: only somebody with a real signature learns that it expired.
pub(super) fn verify(
    query: &FilesQuery,
    operation: Operation,
    token: &AccessToken,
    now_unix: i64,
) -> Result<(), SignatureError> {
    let given = query.signature.as_deref().ok_or(SignatureError::Missing)?;
    let expected = sign(query, operation, token);
    if !bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
        return Err(SignatureError::Invalid);
    }
    match query.signature_expiration {
        Some(expiration) if expiration < now_unix => Err(SignatureError::Expired),
        _ => Ok(()),
    }
}

fn sign(query: &FilesQuery, operation: Operation, token: &AccessToken) -> String {
    let path = query.path.as_deref().unwrap_or_default();
    let user = query.username.as_deref().unwrap_or_default();
    let mut signed = format!("{path}:{}:{user}:{}", operation.as_str(), token.expose());
    if let Some(expiration) = query.signature_expiration {
        signed.push_str(&format!(":{expiration}"));
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(signed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    const SIGNATURE: &str = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";

    fn query(path: &str, user: &str, expiration: Option<i64>) -> FilesQuery {
        FilesQuery {
            path: Some(path.into()),
            username: Some(user.into()),
            signature: None,
            signature_expiration: expiration,
        }
    }

    fn token() -> AccessToken {
        AccessToken::new(TOKEN.into()).unwrap()
    }

    #[test]
    fn agrees_with_e2b() {
        let mut query = query("hello.txt", "user", None);
        assert_eq!(sign(&query, Operation::Read, &token()), SIGNATURE);
        query.signature = Some(SIGNATURE.into());
        assert_eq!(verify(&query, Operation::Read, &token(), 0), Ok(()));
    }

    #[test]
    fn opens_only_what_it_was_made_for() {
        let other = AccessToken::new("other".into()).unwrap();
        for (path, user, operation, token, expiration) in [
            ("other.txt", "user", Operation::Read, token(), None),
            ("hello.txt", "root", Operation::Read, token(), None),
            ("hello.txt", "user", Operation::Write, token(), None),
            ("hello.txt", "user", Operation::Read, other, None),
            ("hello.txt", "user", Operation::Read, token(), Some(5)),
        ] {
            let query = FilesQuery { signature: Some(SIGNATURE.into()), ..query(path, user, expiration) };
            assert_eq!(verify(&query, operation, &token, 0), Err(SignatureError::Invalid));
        }
        assert_eq!(
            verify(&query("hello.txt", "user", None), Operation::Read, &token(), 0),
            Err(SignatureError::Missing)
        );
    }

    #[test]
    fn expires() {
        let mut query = query("hello.txt", "user", Some(100));
        query.signature = Some(sign(&query, Operation::Read, &token()));
        assert_eq!(verify(&query, Operation::Read, &token(), 100), Ok(()));
        assert_eq!(verify(&query, Operation::Read, &token(), 101), Err(SignatureError::Expired));
    }
}
