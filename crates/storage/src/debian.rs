//! Where Debian's packages come from: for the guest's kernel and the base image, whatever release the host itself runs.

use std::fs;
use std::path::{Path, PathBuf};

use sandbar_types::Arch;

/// The release that guests are made of, unless said otherwise. Its 6.1 kernel starts in two thirds of the next one's time under emulation.
const SUITE: &str = "bookworm";
/// The keyring that Debian's archives are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What anybody can reach; also what a guest is to use, since a host's own mirror may well be out of its reach.
const PUBLIC_MIRROR: &str = "http://deb.debian.org/debian";
const PUBLIC_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// Where Debian's packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianSource {
    /// The archive, such as `http://deb.debian.org/debian`.
    pub mirror: String,
    /// The archive of security updates.
    pub security_mirror: String,
    /// The release's code name.
    pub suite: String,
    /// For which machines.
    pub arch: Arch,
    /// What the archives must be signed with.
    pub keyring: PathBuf,
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum DebianSourceError {
    /// The archive's signatures could not be checked.
    #[error("{} is missing (package debian-archive-keyring)", path.display())]
    NoKeyring {
        /// Where it should be.
        path: PathBuf,
    },
    /// Sandbar has no guests for this processor.
    #[error("no guests for {0} machines")]
    Architecture(&'static str),
}

impl DebianSource {
    /// The default release for this machine's architecture, from the archives that the machine itself uses if it runs Debian.
    pub fn detect() -> Result<Self, DebianSourceError> {
        let arch = std::env::consts::ARCH
            .parse()
            .map_err(|_| DebianSourceError::Architecture(std::env::consts::ARCH))?;
        let keyring = PathBuf::from(KEYRING);
        if !keyring.exists() {
            return Err(DebianSourceError::NoKeyring { path: keyring });
        }
        let mirrors = if runs_debian() { Mirrors::of_host() } else { Mirrors::default() };
        Ok(Self {
            mirror: mirrors.main.unwrap_or_else(|| PUBLIC_MIRROR.to_owned()),
            security_mirror: mirrors.security.unwrap_or_else(|| PUBLIC_SECURITY_MIRROR.to_owned()),
            suite: SUITE.to_owned(),
            arch,
            keyring,
        })
    }

    /// The architecture in Debian's word.
    pub(crate) const fn debian_arch(&self) -> &'static str {
        match self.arch {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }

    /// The lines of a `sources.list`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self { mirror, security_mirror, suite, keyring, .. } = self;
        let keyring = keyring.display();
        vec![
            format!("deb [signed-by={keyring}] {mirror} {suite} main"),
            format!("deb [signed-by={keyring}] {mirror} {suite}-updates main"),
            format!("deb [signed-by={keyring}] {security_mirror} {suite}-security main"),
        ]
    }

    /// The same release from the archives that anybody can reach.
    pub(crate) fn public(&self) -> Self {
        Self { mirror: PUBLIC_MIRROR.into(), security_mirror: PUBLIC_SECURITY_MIRROR.into(), ..self.clone() }
    }
}

fn runs_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|line| line == "ID=debian"))
}

/// The archives that a Debian machine uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mirrors {
    main: Option<String>,
    security: Option<String>,
}

impl Mirrors {
    fn of_host() -> Self {
        let mut mirrors = Self::default();
        let parts =
            fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut parts: Vec<_> = parts.collect();
        parts.sort();
        for path in std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts) {
            // A file that cannot be read says nothing, which is what the public mirror is for.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            mirrors.read(&path, &text);
        }
        mirrors
    }

    fn read(&mut self, path: &Path, text: &str) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => text.lines().for_each(|line| self.read_line(line)),
            Some("sources") => self.read_paragraphs(text),
            _ => {}
        }
    }

    /// `deb [options] URI SUITE COMPONENT...`
    fn read_line(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("deb ") else { return };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_ascii_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            self.offer(uri, suite);
        }
    }

    /// Paragraphs of `Field: value`, the values of two of which are lists.
    fn read_paragraphs(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            let field = |name: &str| {
                let line = paragraph.lines().find(|line| {
                    line.split_once(':').is_some_and(|(field, _)| field.trim().eq_ignore_ascii_case(name))
                });
                line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
            };
            if field("Enabled").eq_ignore_ascii_case("no")
                || !field("Types").split_whitespace().any(|kind| kind == "deb")
            {
                continue;
            }
            if let Some(uri) = field("URIs").split_whitespace().next() {
                field("Suites").split_whitespace().for_each(|suite| self.offer(uri, suite));
            }
        }
    }

    /// Takes note of an archive, if it is one of Debian's two and the first of its kind. Third parties use Debian's suite names too,
    /// so the path must be as on every mirror.
    fn offer(&mut self, uri: &str, suite: &str) {
        let uri = uri.trim_end_matches('/');
        let is_http = uri.starts_with("http://") || uri.starts_with("https://");
        let place = if uri.ends_with("/debian-security") && suite.ends_with("-security") {
            &mut self.security
        } else if uri.ends_with("/debian") && !suite.contains('-') {
            &mut self.main
        } else {
            return;
        };
        if is_http && place.is_none() {
            *place = Some(uri.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let mut mirrors = Mirrors::default();
        files.iter().for_each(|(name, text)| mirrors.read(Path::new(name), text));
        (mirrors.main, mirrors.security)
    }

    #[test]
    fn finds_the_hosts_mirrors_in_both_formats() {
        let classic = "# comment\ndeb-src http://a/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian/ bookworm main contrib\n\
            deb http://late.example/debian bookworm main\n\
            deb http://security.example/debian-security bookworm-security main\n";
        let expected = (
            Some("https://mirror.example/debian".into()),
            Some("http://security.example/debian-security".into()),
        );
        assert_eq!(read(&[("sources.list", classic)]), expected);

        let modern = "Types: deb deb-src\n# a comment\nURIs: https://mirror.example/debian http://other/debian\n\
            Suites: trixie trixie-updates\nComponents: main\n\nTypes: deb\nURIs: http://security.example/debian-security/\n\
            Suites: trixie-security\nComponents: main\n";
        assert_eq!(read(&[("debian.sources", modern)]), expected);
    }

    #[test]
    fn leaves_what_is_not_debians() {
        let others = "deb http://vendor.example/apt bookworm stable\ndeb http://x.example/debian bookworm-backports main\n\
            deb file:/srv/debian bookworm main\ndeb cdrom:[Debian]/ bookworm main\n";
        let disabled = "Enabled: no\nTypes: deb\nURIs: http://a.example/debian\nSuites: bookworm\n";
        assert_eq!(
            read(&[("a.list", others), ("b.sources", disabled), ("c.save", "deb http://a/debian x main")]),
            (None, None)
        );
    }
}
