//! Who a request acts as: `Authorization: Basic base64("user:")`, else the sandbox's default user.
//!
//! This says as whom, not whether: that the caller may act at all was decided by the token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::state::Sandbox;
use crate::users::{User, UserError};

/// The user that a request names, or the default one.
pub(crate) fn user(headers: &HeaderMap, sandbox: &Sandbox) -> Result<User, UserError> {
    match headers.get(AUTHORIZATION) {
        None => User::by_name(sandbox.default_user()),
        Some(value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            let name = basic_user(&text).ok_or_else(|| UserError::Unknown(text.into_owned()))?;
            User::by_name(&name)
        }
    }
}

fn basic_user(authorization: &str) -> Option<String> {
    let (scheme, credentials) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    Some(decoded.split_once(':').map_or(decoded.as_str(), |(name, _)| name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_name_before_the_colon() {
        let with = |credentials: &str| basic_user(&format!("Basic {}", STANDARD.encode(credentials)));
        assert_eq!(with("root:").as_deref(), Some("root"));
        assert_eq!(with("root:secret").as_deref(), Some("root"));
        assert_eq!(with("root").as_deref(), Some("root"));
        assert_eq!(basic_user("basic cm9vdDo=").as_deref(), Some("root"));
        assert_eq!(basic_user("Bearer cm9vdDo="), None);
        assert_eq!(basic_user("Basic ???"), None);
        assert_eq!(basic_user(""), None);
    }

    #[test]
    fn nobody_named_means_the_default_user() {
        let sandbox = Sandbox { default_user: Some("root".into()), ..Sandbox::default() };
        assert_eq!(user(&HeaderMap::new(), &sandbox).unwrap().uid, 0);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Basic bm8tc3VjaDo=".parse().unwrap());
        assert_eq!(user(&headers, &sandbox).unwrap_err().to_string(), "invalid username: 'no-such'");
    }
}
