//! Which providers there are: a file in TOML.
//!
//! ```toml
//! public_url = "https://sandbar.example.com"
//!
//! [[provider]]
//! name = "github"                       # in URLs: lower-case letters, digits and -
//! kind = "github"
//! client_id = "..."
//! client_secret_file = "/run/secrets/github"     # or client_secret = "..."
//!
//! [[provider]]
//! name = "company"
//! label = "Company account"             # what pages show
//! kind = "oidc"
//! issuer = "https://login.example.com"
//! client_id = "..."
//! client_secret_file = "/run/secrets/oidc"
//! ```

use std::path::{Path, PathBuf};
use std::{fs, io};

use secrecy::SecretString;
use serde::Deserialize;

/// Where a page is sent back to, under the public URL.
const PAGE: &str = "/login";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not what is expected.
    #[error("not a configuration of sign-in providers")]
    Syntax(#[source] toml::de::Error),
    /// A value makes no sense.
    #[error("{0}")]
    Value(String),
}

/// The providers, and where this platform is for browsers.
#[derive(Debug, Clone)]
pub struct OAuthConfig {
    pub(super) public_url: String,
    pub(super) providers: Vec<Provider>,
}

/// A provider.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) client_id: String,
    pub(super) client_secret: SecretString,
    pub(super) kind: Kind,
}

/// What a provider speaks.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// GitHub, or one that an enterprise runs.
    GitHub { web: String, api: String },
    /// OpenID Connect.
    Oidc { issuer: String },
}

/// What pages may know of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderInfo {
    /// For URLs.
    pub name: String,
    /// For people.
    pub label: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    public_url: String,
    #[serde(default)]
    provider: Vec<FileProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProvider {
    name: String,
    label: Option<String>,
    kind: FileKind,
    issuer: Option<String>,
    url: Option<String>,
    client_id: String,
    client_secret: Option<SecretString>,
    client_secret_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileKind {
    GitHub,
    Oidc,
}

impl OAuthConfig {
    /// Reads the file, and the secrets that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?)
    }

    /// The same from the file's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let File { public_url, provider } = toml::from_str(text).map_err(ConfigError::Syntax)?;
        let public_url = base_url("public_url", &public_url)?;
        let providers = provider.into_iter().map(Provider::try_from).collect::<Result<Vec<_>, _>>()?;
        for (at, provider) in providers.iter().enumerate() {
            if providers.iter().skip(at + 1).any(|other| other.name == provider.name) {
                return Err(ConfigError::Value(format!("the provider {:?} is there twice", provider.name)));
            }
        }
        Ok(Self { public_url, providers })
    }

    /// Where a provider sends people back to.
    pub(super) fn redirect_uri(&self, provider: &Provider) -> String {
        format!("{}/v1/auth/oauth/{}/callback", self.public_url, provider.name)
    }

    /// The page that a sign-in ends at.
    pub(super) fn page(&self) -> String {
        format!("{}{PAGE}", self.public_url)
    }
}

impl TryFrom<FileProvider> for Provider {
    type Error = ConfigError;

    fn try_from(file: FileProvider) -> Result<Self, ConfigError> {
        let FileProvider { name, label, kind, issuer, url, client_id, client_secret, client_secret_file } =
            file;
        let wrong = |what: &str| ConfigError::Value(format!("provider {name:?}: {what}"));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
            return Err(wrong("a name is of 1 to 32 lower-case letters, digits and -"));
        }
        let client_secret = match (client_secret, client_secret_file) {
            (Some(secret), None) => secret,
            (None, Some(path)) => read(&path)?.trim().into(),
            _ => return Err(wrong("give either client_secret or client_secret_file")),
        };
        let kind = match (kind, issuer, url) {
            (FileKind::Oidc, Some(issuer), None) => Kind::Oidc { issuer: base_url("issuer", &issuer)? },
            (FileKind::GitHub, None, None) => Kind::GitHub {
                web: "https://github.com".to_owned(),
                api: "https://api.github.com".to_owned(),
            },
            (FileKind::GitHub, None, Some(url)) => {
                let web = base_url("url", &url)?;
                Kind::GitHub { api: format!("{web}/api/v3"), web }
            }
            (FileKind::Oidc, _, _) => return Err(wrong("kind oidc takes issuer")),
            (FileKind::GitHub, _, _) => return Err(wrong("kind github takes url, or nothing")),
        };
        let label = label.unwrap_or_else(|| name.clone());
        Ok(Self { name, label, client_id, client_secret, kind })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// An address without a slash at its end. Secrets travel to it: in the clear only on this machine.
fn base_url(field: &str, url: &str) -> Result<String, ConfigError> {
    let parsed: Option<::http::Uri> = url.parse().ok();
    let good = parsed.is_some_and(|uri| match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => uri.query().is_none(),
        (Some("http"), Some("127.0.0.1" | "[::1]" | "localhost")) => uri.query().is_none(),
        _ => false,
    });
    if !good {
        return Err(ConfigError::Value(format!(
            "{field}: {url:?} must be an https:// URL (http:// on this machine only), without a query"
        )));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn a_file_names_providers_and_their_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "s3cret\n").unwrap();
        let text = format!(
            r#"
            public_url = "https://sandbar.example.com/"
            [[provider]]
            name = "github"
            kind = "github"
            client_id = "a"
            client_secret = "b"
            [[provider]]
            name = "company"
            label = "Company"
            kind = "oidc"
            issuer = "https://login.example.com/realms/x"
            client_id = "c"
            client_secret_file = {secret:?}
            "#
        );
        let config = OAuthConfig::parse(&text).unwrap();
        let [github, company] = config.providers.as_slice() else { panic!("{config:?}") };
        assert_eq!(config.redirect_uri(github), "https://sandbar.example.com/v1/auth/oauth/github/callback");
        assert_eq!((company.label.as_str(), company.client_secret.expose_secret()), ("Company", "s3cret"));
        assert!(!format!("{config:?}").contains("s3cret"), "secrets are not shown");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let provider =
            |more: &str| format!("public_url = \"https://x\"\n[[provider]]\nclient_id = \"a\"\n{more}");
        for bad in [
            "public_url = \"http://example.com\"".to_owned(),
            "public_url = \"https://x/?a\"".to_owned(),
            "public_url = \"x\"".to_owned(),
            provider("name=\"A\"\nkind=\"github\"\nclient_secret=\"b\""),
            provider("name=\"a\"\nkind=\"github\""),
            provider("name=\"a\"\nkind=\"oidc\"\nclient_secret=\"b\""),
            provider("name=\"a\"\nkind=\"github\"\nissuer=\"https://y\"\nclient_secret=\"b\""),
            provider("name=\"a\"\nkind=\"saml\"\nclient_secret=\"b\""),
            provider("name=\"a\"\nkind=\"oidc\"\nissuer=\"http://y\"\nclient_secret=\"b\""),
            provider("name=\"a\"\nkind=\"github\"\nclient_secret=\"b\"\nclient_secret_file=\"/c\""),
        ] {
            assert!(OAuthConfig::parse(&bad).is_err(), "{bad}");
        }
    }
}
