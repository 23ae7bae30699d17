//! Who a request acts as, and what its paths mean: `Authorization: Basic base64("user:")`, else the sandbox's default user.
//!
//! This says as whom, not whether: that the caller may act at all was decided by the token.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::paths::{self, PathError};
use crate::state::Sandbox;
use crate::users::{User, UserError};

/// A user at work in a folder.
pub(crate) struct Caller {
    pub(crate) user: User,
    /// Where relative paths begin: the sandbox's working folder, else the user's home.
    base: PathBuf,
}

impl Caller {
    /// The user that a request names, or the default one.
    pub(crate) fn of(headers: &HeaderMap, sandbox: &Sandbox) -> Result<Self, UserError> {
        match headers.get(AUTHORIZATION) {
            None => Self::named(sandbox.default_user(), sandbox),
            Some(value) => {
                let text = String::from_utf8_lossy(value.as_bytes());
                let name = basic_user(&text).ok_or_else(|| UserError::Unknown(text.into_owned()))?;
                Self::named(&name, sandbox)
            }
        }
    }

    /// The user of that name.
    pub(crate) fn named(name: &str, sandbox: &Sandbox) -> Result<Self, UserError> {
        let user = User::by_name(name)?;
        let workdir =
            sandbox.default_workdir.as_deref().and_then(|folder| paths::resolve(folder, &user.home).ok());
        let base = workdir.unwrap_or_else(|| user.home.clone());
        Ok(Self { user, base })
    }

    /// What a path means to this user.
    pub(crate) fn resolve(&self, path: &str) -> Result<PathBuf, PathError> {
        paths::resolve_from(path, &self.user.home, &self.base)
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
        assert_eq!(Caller::of(&HeaderMap::new(), &sandbox).unwrap().user.uid, 0);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Basic bm8tc3VjaDo=".parse().unwrap());
        assert_eq!(Caller::of(&headers, &sandbox).err().unwrap().to_string(), "invalid username: 'no-such'");
    }

    #[test]
    fn relative_paths_begin_in_the_working_folder_and_home_stays_home() {
        let in_folder = |workdir: Option<&str>| {
            let sandbox = Sandbox { default_workdir: workdir.map(str::to_owned), ..Sandbox::default() };
            let caller = Caller::named("root", &sandbox).unwrap();
            let text = |path: &str| caller.resolve(path).unwrap().to_str().unwrap().to_owned();
            (text("a"), text("~/a"), text("/a"))
        };
        let all = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(in_folder(None), all("/root/a", "/root/a", "/a"));
        assert_eq!(in_folder(Some("/srv")), all("/srv/a", "/root/a", "/a"));
        assert_eq!(in_folder(Some("work")), all("/root/work/a", "/root/a", "/a"));
        assert_eq!(in_folder(Some("~/work")), all("/root/work/a", "/root/a", "/a"));
    }
}
