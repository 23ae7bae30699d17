//! Text that is taken and never told.

use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

/// The value of a secret in a request's body. In no answer, not even in the refusal of a body that has something else than text there.
pub(crate) struct WriteOnly(pub(crate) SecretString);

impl<'de> Deserialize<'de> for WriteOnly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text.into())),
            _ => Err(D::Error::custom("value: it must be text")),
        }
    }
}

/// As the document tells of it.
pub(crate) fn schema() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .min_length(Some(1))
        .max_length(Some(sandbar_types::limits::SECRET_BYTES))
        .write_only(true)
        .description(Some("1 to 4096 bytes, without NUL. No answer has it"))
        .into()
}
