//! What a build starts from: what its recipe says, and what that came to.

use std::fmt;
use std::str::FromStr;

use super::FilesName;
use crate::TemplateName;

/// The longest name of an image.
pub(super) const IMAGE_BYTES: usize = 512;
/// Before the digits of an archive. No image can be called so: of two colons the first would be a port's, and a slash behind it.
const ARCHIVE: &str = "archive:sha256:";

/// What `FROM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `template:NAME`: a template.
    Template(TemplateName),
    /// `NAME`: the template of that name; where there is none, the registry's image.
    Named(TemplateName),
    /// What can only be an image of a registry.
    Image(String),
    /// An image in an archive of the author's, by its path, which begins with `/`, `./` or `../`.
    Archive(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(name) => write!(f, "template:{name}"),
            Self::Named(name) => name.fmt(f),
            Self::Image(text) | Self::Archive(text) => f.write_str(text),
        }
    }
}

impl Origin {
    /// Whether a text says where a file of the author's is: no template and no image can be called so.
    pub(super) fn is_path(text: &str) -> bool {
        ["/", "./", "../"].iter().any(|beginning| text.starts_with(beginning))
    }
}

/// What a build starts from. As a text it is a template's name, which has neither slash nor colon nor at sign, an image's, which has
/// one of them, or `archive:sha256:` and 64 digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A template.
    Template(TemplateName),
    /// An image of a registry.
    Image(String),
    /// An image in an archive that was brought under its own SHA-256.
    Archive([u8; 32]),
}

/// A text that names neither a template nor an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a template's name nor an image's")]
pub struct UnknownBase;

impl Base {
    /// The image that a client calls so, which means no template by it; none where no image can be called so.
    #[must_use]
    pub fn image(text: &str) -> Option<Self> {
        if text.len() > IMAGE_BYTES || text.contains(char::is_whitespace) {
            return None;
        }
        match text.parse().ok()? {
            Self::Template(name) => Self::image_named(&name),
            image @ Self::Image(_) => Some(image),
            Self::Archive(_) => None,
        }
    }

    /// The image of a name that no template has, as registries have it; none where no image can have it.
    #[must_use]
    pub fn image_named(name: &TemplateName) -> Option<Self> {
        let is_possible = !name.as_str().bytes().any(|byte| byte.is_ascii_uppercase());
        is_possible.then(|| Self::Image(format!("{name}:latest")))
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(name) => name.fmt(f),
            Self::Image(reference) => f.write_str(reference),
            Self::Archive(hash) => write!(f, "{ARCHIVE}{}", FilesName::Content(*hash)),
        }
    }
}

impl FromStr for Base {
    type Err = UnknownBase;

    fn from_str(text: &str) -> Result<Self, UnknownBase> {
        if let Some(digits) = text.strip_prefix(ARCHIVE) {
            return match FilesName::content(digits) {
                Ok(FilesName::Content(hash)) => Ok(Self::Archive(hash)),
                Ok(FilesName::Client(_)) | Err(_) => Err(UnknownBase),
            };
        }
        match text.parse() {
            Ok(name) => Ok(Self::Template(name)),
            Err(_) if text.contains(['/', ':', '@']) => Ok(Self::Image(text.to_owned())),
            Err(_) => Err(UnknownBase),
        }
    }
}
