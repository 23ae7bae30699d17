//! Names that people choose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Id;
use crate::id::{Secret, Volume};

/// The name of a template or snapshot: a letter or digit, then up to 63 letters, digits, dots, underscores or dashes.
///
/// It can be a file name and a path segment as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

/// Text that cannot name a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a valid template name: use 1 to 64 letters, digits, dots, underscores or dashes, the first a letter or digit"
)]
pub struct InvalidName;

impl TemplateName {
    /// The template, and the image that it is made of, that every platform has.
    #[must_use]
    pub fn base() -> Self {
        Self("base".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TemplateName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest_is_fine = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if starts_well && rest_is_fine && text.len() <= 64 { Ok(Self(text)) } else { Err(InvalidName) }
    }
}

impl FromStr for TemplateName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.to_owned().try_into()
    }
}

impl From<TemplateName> for String {
    fn from(name: TemplateName) -> Self {
        name.0
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What tells one build of a template from another: `tag` in `name:tag`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateTag(String);

/// Text that cannot be a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid tag: use 1 to 128 small letters, digits, dots, underscores or dashes")]
pub struct InvalidTag;

impl TemplateTag {
    /// What a name alone means.
    pub const DEFAULT: &str = "default";

    /// What a name alone means.
    #[must_use]
    pub fn default_tag() -> Self {
        Self(Self::DEFAULT.to_owned())
    }

    /// Whether it is what a name alone means.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == Self::DEFAULT
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateTag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let fits = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
        if fits && (1..=128).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err(InvalidTag) }
    }
}

impl fmt::Display for TemplateTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a team's secret: a small letter or digit, then up to 127 of those, dots, underscores or dashes. Capital letters are taken as
/// small ones. No name looks like an id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

/// Text that cannot name a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a valid name of a secret: use 1 to 128 letters, digits, dots, underscores or dashes, the first a letter or digit, and \"sec_\" not at \
     the beginning"
)]
pub struct InvalidSecretName;

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(text: &str) -> Result<Self, InvalidSecretName> {
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest_is_fine = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let name = text.to_ascii_lowercase();
        let is_id = name.starts_with(Id::<Secret>::E2B_PREFIX) || name.parse::<Id<Secret>>().is_ok();
        if starts_well && rest_is_fine && text.len() <= 128 && !is_id {
            Ok(Self(name))
        } else {
            Err(InvalidSecretName)
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a team's volume: up to 128 letters, digits, underscores or dashes, as E2B has it. No name looks like an id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// Text that cannot name a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid name of a volume: use 1 to 128 letters, digits, underscores or dashes")]
pub struct InvalidVolumeName;

impl VolumeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VolumeName {
    type Error = InvalidVolumeName;

    fn try_from(text: String) -> Result<Self, InvalidVolumeName> {
        let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let is_id = text.parse::<Id<Volume>>().is_ok();
        if fits && (1..=128).contains(&text.len()) && !is_id {
            Ok(Self(text))
        } else {
            Err(InvalidVolumeName)
        }
    }
}

impl FromStr for VolumeName {
    type Err = InvalidVolumeName;

    fn from_str(text: &str) -> Result<Self, InvalidVolumeName> {
        text.to_owned().try_into()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secrets_name_is_small_and_no_id() {
        for (good, name) in [
            ("openai-api-key", "openai-api-key"),
            ("A.b_C", "a.b_c"),
            ("9", "9"),
            ("sec", "sec"),
            ("sec-a", "sec-a"),
        ] {
            assert_eq!(good.parse::<SecretName>().unwrap().as_str(), name);
        }
        let id = Id::<Secret>::new();
        assert_eq!(Id::from_e2b(&id.e2b()), Some(id));
        assert_eq!(Id::<Secret>::from_e2b(&id.e2b().to_uppercase()), None);
        for bad in [
            "",
            ".a",
            "-a",
            "a b",
            "a/b",
            "{a}",
            "a\n",
            "é",
            "sec_a",
            "SEC_A",
            &id.to_string(),
            &id.e2b(),
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(128).parse::<SecretName>().is_ok());
    }

    #[test]
    fn a_volumes_name_is_a_word_and_no_id() {
        for good in ["data", "A", "9", "_a-B", "-", "vol-", "vol-x", &"x".repeat(128)] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        let id = Id::<Volume>::new().to_string();
        for bad in ["", "a b", "a/b", "a.b", "..", "é", "a\n", &id, &"x".repeat(129)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn takes_what_can_be_a_file_name_and_nothing_else() {
        for good in ["base", "a", "9", "node-20.1_x", &"x".repeat(64)] {
            assert!(good.parse::<TemplateName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\0", "é", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tag_is_short_and_small() {
        for good in ["default", "v1.0", "-", "a_b-c", &"x".repeat(128)] {
            assert!(good.parse::<TemplateTag>().is_ok(), "{good}");
        }
        for bad in ["", "V1", "a:b", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(bad.parse::<TemplateTag>().is_err(), "{bad:?}");
        }
    }
}
