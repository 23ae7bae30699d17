//! Why an image cannot be had.

use std::io;

use sandbar_types::Arch;

/// Why an image cannot be had. What it says is for the person who named the image, but for [`Self::Io`].
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry has no such image.
    #[error("{image} is not in its registry")]
    Unknown {
        /// The image.
        image: String,
    },
    /// The registry does not show it to whoever asks.
    #[error("the registry of {image} does not let it be read: it needs other credentials, or does not exist")]
    NotAuthorised {
        /// The image.
        image: String,
    },
    /// There is an image, but none for this host's processor.
    #[error("the image is not made for linux on {wanted}, but for: {available}")]
    NoPlatform {
        /// The processor that it would have to be for.
        wanted: Arch,
        /// What there is.
        available: String,
    },
    /// It is larger than may be.
    #[error("the image is too large: {0}")]
    TooLarge(String),
    /// It is not what an image has to be.
    #[error("the image is broken: {0}")]
    Broken(String),
    /// The registry cannot be reached, or fails.
    #[error("the registry {registry} failed: {reason}")]
    Registry {
        /// The registry.
        registry: String,
        /// What it did.
        reason: String,
    },
    /// The registry is where only the host's operator may let images come from.
    #[error(
        "the registry {registry} is at a private address, and this host's operator has not named it as one to be used"
    )]
    Private {
        /// The registry.
        registry: String,
    },
    /// Whoever watches the work has ended it.
    #[error("{0}")]
    Stopped(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This host's own files failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// Wraps the failure of a file operation of this host: `.map_err(ImageError::io("open the folder"))`.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, source: source.into() }
    }

    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(reason.into())
    }
}
