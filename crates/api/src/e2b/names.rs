//! Ids and names as E2B's clients write them.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use sandbar_control::templates::Reference;
use sandbar_types::{ErrorCode, Id, TemplateName, TemplateTag, id};
use sha2::{Digest as _, Sha256};
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

/// The id of one build's files, which a sandbox tells of what it was made from.
pub(super) fn files_id(id: Id<id::Template>) -> String {
    id.uuid().simple().to_string()
}

/// What all builds of a name are together known by, from before the first of them on: as `template_name_id` in the database.
pub(super) fn template_id(team: Id<id::Team>, name: &TemplateName) -> String {
    name_id(team, name).simple().to_string()
}

/// The same, as a number.
pub(super) fn name_id(team: Id<id::Team>, name: &TemplateName) -> Uuid {
    let digest: [u8; 32] = Sha256::digest(format!("{}/{name}", team.uuid())).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(bytes)
}

/// A name of the team's with all that belongs to it: `slug/name:tag`.
pub(super) fn full_name(namespace: &str, name: &TemplateName, tag: &TemplateTag) -> String {
    format!("{namespace}/{name}:{tag}")
}

/// Name and tag of what a client wants a snapshot to be called: `name`, with the team's slug before it or not, and behind it a tag or none.
pub(super) fn own_name(text: &str, namespace: &str) -> Result<(String, Option<TemplateTag>), ApiError> {
    let Reference { namespace: given, name, tag } = Reference::read(text);
    match given {
        Some(given) if given != namespace => {
            Err(ApiError::invalid(format!("{given} is not this team's namespace: it is {namespace}")))
        }
        _ => {
            let tag =
                tag.map(|tag| tag.parse().map_err(|error| ApiError::invalid(format!("{tag:?}: {error}"))));
            Ok((name.to_owned(), tag.transpose()?))
        }
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
        for (text, tag) in
            [("a", None), ("t/a", None), ("t/a:v1", Some("v1")), ("a:default", Some("default"))]
        {
            let (name, told) = own_name(text, "t").unwrap();
            assert_eq!((name.as_str(), told.as_ref().map(TemplateTag::as_str)), ("a", tag), "{text}");
        }
        for text in ["other/a", "t/a:", "a:", "a:b:c", "a:B"] {
            assert!(own_name(text, "t").is_err(), "{text}");
        }
    }
}
