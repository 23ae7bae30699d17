//! What to tell once the platform is ready: where it is, who may sign in, what to type first.

use std::path::Path;

use secrecy::ExposeSecret as _;

use super::edge::Known;
use super::progress::say;
use crate::dashboard::DASHBOARD;
use crate::data_dir::{self, DataDir};
use crate::first_run::FirstRunFile;

/// Prints it. `known` is `None` on a machine that does not have the first user's credentials.
pub(super) fn print(data: &DataDir, url: &str, https: Option<&Known>, known: Option<&FirstRunFile>) {
    say(text(data, url, https, known, &program()));
}

fn text(
    data: &DataDir,
    url: &str,
    https: Option<&Known>,
    known: Option<&FirstRunFile>,
    program: &str,
) -> String {
    let mut text = "\nSandbar is ready.\n\n".to_owned();
    if !DASHBOARD.is_empty() {
        text.push_str(&format!("  Dashboard   {url}\n"));
    }
    text.push_str(&format!("  API         {url}/v1\n  Reference   {url}/docs\n"));
    if let Some(Known { url, domain, authority, awaited_from }) = https {
        text.push_str(&format!("  HTTPS       {url}\n"));
        if let Some(domain) = domain {
            text.push_str(&format!("  Ports       https://PORT-ID.{domain}\n"));
        }
        if let Some(authority) = authority {
            text.push_str(&format!("  Authority   {} (clients must trust it)\n", authority.display()));
        }
        if let Some(directory) = awaited_from {
            text.push_str(&format!(
                "  Certificate being got from {directory}; until it is there, that authority's is served\n"
            ));
        }
    }
    let folder = match data.path() == Path::new(data_dir::DEFAULT) {
        true => String::new(),
        false => format!(" --data-dir {}", quoted(&data.path().display().to_string())),
    };
    match known {
        Some(FirstRunFile { email, password, api_key, .. }) => {
            let (password, api_key) = (password.expose_secret(), api_key.expose_secret());
            text.push_str(&format!("  Sign-in     {email}  {password}\n  API key     {api_key}\n"));
            text.push_str(&format!("  (kept in {})\n", data.first_run().display()));
            text.push_str(&format!(
                "\nTry:\n  {program} run{folder} -- python3 -c 'print(6 * 7)'\n  \
                 curl -s -X POST {url}/v1/sandboxes -H 'X-API-Key: {api_key}' -H 'Content-Type: application/json' -d '{{}}'\n  \
                 {program} sandbox list{folder}\n"
            ));
            text.push_str(&format!(
                "\nE2B's SDKs, as they are:\n  export E2B_API_URL={url} E2B_SANDBOX_URL={url} E2B_API_KEY={api_key}\n"
            ));
            if let Some(Known { domain: Some(domain), authority, awaited_from, .. }) = https {
                let authority = authority.as_ref().filter(|_| awaited_from.is_none());
                let trust = authority.map_or_else(String::new, |authority| {
                    let authority = quoted(&authority.display().to_string());
                    format!(" SSL_CERT_FILE={authority} NODE_EXTRA_CA_CERTS={authority}")
                });
                text.push_str(&format!(
                    "  export E2B_DOMAIN={domain} E2B_API_KEY={api_key}{trust}   # by names\n"
                ));
            }
        }
        None => text.push_str(&format!(
            "\nTry, with a key of yours:\n  export SANDBAR_URL={url} SANDBAR_API_KEY=...\n  \
             {program} run -- python3 -c 'print(6 * 7)'\n"
        )),
    }
    text.push_str(&format!("\nStop it with:\n  {program} down{folder}"));
    text
}

/// How the reader can call this program again.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return "sandbar".to_owned() };
    let found = std::env::var_os("PATH").is_some_and(|path| {
        let mut candidates = std::env::split_paths(&path).map(|folder| folder.join("sandbar"));
        candidates
            .find(|candidate| candidate.exists())
            .is_some_and(|first| first.canonicalize().ok() == Some(own.clone()))
    });
    if found { "sandbar".to_owned() } else { quoted(&own.display().to_string()) }
}

/// As one word of a shell's.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_copied_whatever_the_folders_name() {
        let file = FirstRunFile {
            url: "http://127.0.0.1:8080".into(),
            email: "admin@sandbar.local".into(),
            password: "secret".into(),
            api_key: "e2b_0".into(),
        };
        let usual = text(&DataDir::at(Path::new(data_dir::DEFAULT)), &file.url, None, Some(&file), "sandbar");
        assert!(usual.contains("\n  sandbar run -- python3 -c 'print(6 * 7)'\n"), "{usual}");
        for told in ["http://127.0.0.1:8080/docs", "admin@sandbar.local", "secret", "X-API-Key: e2b_0"] {
            assert!(usual.contains(told), "{told}: {usual}");
        }
        assert!(usual.contains("E2B_SANDBOX_URL=http://127.0.0.1:8080 E2B_API_KEY=e2b_0\n"), "{usual}");
        let known = Known {
            url: "https://sbx.test:8443".into(),
            domain: Some("sbx.test:8443".into()),
            authority: Some("/var/lib/sandbar/tls/ca.pem".into()),
            awaited_from: None,
        };
        let data = DataDir::at(Path::new(data_dir::DEFAULT));
        let named = text(&data, &file.url, Some(&known), Some(&file), "sandbar");
        let by_names = "E2B_DOMAIN=sbx.test:8443 E2B_API_KEY=e2b_0 SSL_CERT_FILE=/var/lib/sandbar/tls/ca.pem";
        assert!(named.contains(by_names), "{named}");
        let awaiting = Known { awaited_from: Some("https://ca.test/dir".into()), ..known };
        let awaiting = text(&data, &file.url, Some(&awaiting), Some(&file), "sandbar");
        assert!(awaiting.contains("being got from https://ca.test/dir; until"), "{awaiting}");
        assert!(!awaiting.contains("SSL_CERT_FILE"), "{awaiting}");
        let unusual =
            text(&DataDir::at(Path::new("/tmp/it's here")), &file.url, None, Some(&file), "sandbar");
        assert!(unusual.contains(r"sandbar down --data-dir '/tmp/it'\''s here'"), "{unusual}");
        let unknown = text(&DataDir::at(Path::new(data_dir::DEFAULT)), &file.url, None, None, "sandbar");
        assert!(unknown.contains("SANDBAR_API_KEY") && !unknown.contains("Sign-in"), "{unknown}");
    }
}
