//! Ids and names as E2B's clients write them.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use sandbar_control::templates::{DEFAULT_TAG, Template};
use sandbar_types::{ErrorCode, Id, id};
use uuid::Uuid;

use crate::error::ApiError;

/// The sandbox's id in the path: 32 hexadecimal digits. Other text names nothing: 404.
pub(super) struct PathSandbox(pub(super) Id<id::Sandbox>);

impl<S: Send + Sync> FromRequestParts<S> for PathSandbox {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::new(ErrorCode::NotFound, "there is no such sandbox"))?;
        sandbox_id(&text).map(Self).ok_or_else(|| no_sandbox(&text))
    }
}

/// Reads a sandbox's id. One id has one spelling.
pub(super) fn sandbox_id(text: &str) -> Option<Id<id::Sandbox>> {
    let id = Uuid::try_parse(text).map(Id::<id::Sandbox>::from_uuid).ok()?;
    (id.e2b() == text).then_some(id)
}

pub(super) fn no_sandbox(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no sandbox {id}"))
}

/// A template's id.
pub(super) fn template_id(id: Id<id::Template>) -> String {
    id.uuid().simple().to_string()
}

/// The name of a template of the team's with all that belongs to it: `slug/name:tag`.
pub(super) fn full_name(namespace: &str, template: &Template) -> String {
    format!("{namespace}/{}:{DEFAULT_TAG}", template.name)
}

/// The name alone of what a client wants a snapshot to be called: `name`, with the team's slug before it or not, and behind it the one tag
/// that there is, or none.
pub(super) fn bare_name(text: &str, namespace: &str) -> Result<String, ApiError> {
    let name = match text.split_once('/') {
        Some((given, name)) if given == namespace => name,
        Some((given, _)) => {
            return Err(ApiError::invalid(format!(
                "{given} is not this team's namespace: it is {namespace}"
            )));
        }
        None => text,
    };
    match name.split_once(':') {
        Some((name, DEFAULT_TAG)) => Ok(name.to_owned()),
        Some((_, tag)) => {
            Err(ApiError::invalid(format!("there are no tags but {DEFAULT_TAG} here: {tag} cannot be one")))
        }
        None => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = Id::<id::Sandbox>::new();
        assert_eq!(sandbox_id(&id.e2b()), Some(id));
        for other in [id.to_string(), id.uuid().to_string(), id.e2b().to_uppercase(), "metrics".to_owned()] {
            assert_eq!(sandbox_id(&other), None, "{other}");
        }
    }

    #[test]
    fn names_lose_their_namespace_and_tag_or_are_refused() {
        for (text, name) in [("a", "a"), ("t/a", "a"), ("t/a:default", "a"), ("a:default", "a")] {
            assert_eq!(bare_name(text, "t").unwrap(), name);
        }
        for text in ["other/a", "a:v2", "t/a:", "a:"] {
            assert!(bare_name(text, "t").is_err(), "{text}");
        }
    }
}
