//! References: `debian`, `ghcr.io/team/app:1.2`, `127.0.0.1:5000/app@sha256:...`, read as Docker reads them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::digest::Digest;

/// The registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that one answers.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
const DEFAULT_TAG: &str = "latest";

/// The longest repository and the longest tag that registries know.
const REPOSITORY_BYTES: usize = 255;
const TAG_BYTES: usize = 128;

/// Which image of which repository of which registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The registry's part.
    #[error("{0:?} is no registry's name")]
    Registry(String),
    /// The repository's part.
    #[error("{0:?} is no repository's name: lower-case letters, digits, and . _ - / between them")]
    Repository(String),
    /// The tag.
    #[error("{0:?} is no tag")]
    Tag(String),
    /// The digest.
    #[error("{0}")]
    Digest(String),
}

impl Reference {
    /// The registry as it is called: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where the registry answers: host, and port if it is not the usual one.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { &self.registry }
    }

    /// The repository, without the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What the registry is to be asked for: the digest if there is one, else the tag.
    #[must_use]
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// What the image's manifest must be, where that is said.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(ReferenceError::Digest)?)),
            None => (text, None),
        };
        // A registry is told from a repository's first part by what only a host's name has.
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_host(registry) {
            return Err(ReferenceError::Registry(registry.to_owned()));
        }
        let registry = match registry {
            "index.docker.io" | DEFAULT_REGISTRY_HOST => DEFAULT_REGISTRY,
            registry => registry,
        };
        let repository = match (registry, repository.contains('/')) {
            (DEFAULT_REGISTRY, false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        if repository.len() > REPOSITORY_BYTES || !repository.split('/').all(is_path_component) {
            return Err(ReferenceError::Repository(repository));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        // What has neither is the latest, and says so.
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => {
                ("v6", port.strip_prefix(':').or((!port.is_empty()).then_some("")))
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    host.len() <= 253 && host.split('.').all(label) && port.is_none_or(is_port)
}

/// Letters and digits with single separators between them: `.`, `_`, `__`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let words: Vec<&str> = text
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|gap| !gap.is_empty())
        .collect();
    let separators =
        words.iter().all(|gap| matches!(*gap, "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'));
    let bytes = text.as_bytes();
    separators && bytes.first().copied().is_some_and(plain) && bytes.last().copied().is_some_and(plain)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_BYTES).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_read_as_docker_reads_them() {
        for (text, canonical, host) in [
            ("debian", "docker.io/library/debian:latest", "registry-1.docker.io"),
            ("debian:12-slim", "docker.io/library/debian:12-slim", "registry-1.docker.io"),
            ("team/app", "docker.io/team/app:latest", "registry-1.docker.io"),
            ("index.docker.io/team/app", "docker.io/team/app:latest", "registry-1.docker.io"),
            ("ghcr.io/a/b__c/d-e.f:V1", "ghcr.io/a/b__c/d-e.f:V1", "ghcr.io"),
            ("localhost/x", "localhost/x:latest", "localhost"),
            ("127.0.0.1:5000/x:y", "127.0.0.1:5000/x:y", "127.0.0.1:5000"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.registry_host()),
                (canonical, host),
                "{text}"
            );
        }
        let pinned: Reference = format!("a.b/c:1@{DIGEST}").parse().unwrap();
        assert_eq!((pinned.wanted().as_str(), pinned.to_string()), (DIGEST, format!("a.b/c:1@{DIGEST}")));
        let by_digest: Reference = format!("debian@{DIGEST}").parse().unwrap();
        assert_eq!(by_digest.to_string(), format!("docker.io/library/debian@{DIGEST}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "/",
            "a//b",
            "A",
            "a/B",
            "a:",
            "a:.x",
            "a:x y",
            "a@",
            "a@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a/../b",
            "../a",
            "a.b:0/c",
            "a.b:99999/c",
            "a.b:/c",
            "a.b:+1/c",
            "[::1/c",
            "[::g]:1/c",
            "[::1]x/c",
            "a.b/c?d",
            "a.b/c#d",
            "u@a.b/c",
            "http://a.b/c",
            "a b/c",
            "-a.b/c",
            "a..b/c",
            "ä.de/c",
            "a.b/c%2f",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!(format!("a:{}", "x".repeat(129)).parse::<Reference>().is_err());
        assert!("x".repeat(256).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_is_read_the_same_again(text in "[a-zA-Z0-9./:@_\\[\\] -]{0,60}|\\PC{0,30}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(&again, &reference);
                let url = reqwest::Url::parse(&format!("https://{}/v2/{}/", reference.registry_host(), reference.repository())).unwrap();
                prop_assert_eq!(url.path(), format!("/v2/{}/", reference.repository()));
                prop_assert!(url.username().is_empty());
            }
        }
    }
}
