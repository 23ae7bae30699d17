//! `sandbar cp`: one file, into a sandbox or out of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use futures::TryStreamExt as _;
use reqwest::Body;
use sandbar_types::{Id, id};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::{ReaderStream, StreamReader};

use super::EndpointArgs;
use crate::client::Client;

/// Copy a file into a sandbox or out of it
///
/// One of the two places is in a sandbox: `sb-...:/path`, or `sb-...:path` from the user's home. A path that ends with `/`, or none at all, is a folder. `-` is standard input or output.
/// A copy appears whole or not at all. Folders go through `tar`: `tar c FOLDER | sandbar sandbox exec sb-... -- tar x`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sandbar cp data.csv sb-0192...:/home/user/\n  sandbar cp sb-0192...:result.json .\n  \
    sandbar cp sb-0192...:/etc/os-release -"
)]
pub(crate) struct CpArgs {
    /// What to copy
    #[arg(value_name = "FROM")]
    from: Place,

    /// Where to; a folder takes the file under its own name
    #[arg(value_name = "TO")]
    to: Place,

    /// User in the sandbox whose rights and home apply [default: the template's]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Sandbox {
        id: Id<id::Sandbox>,
        path: String,
    },
    Local(PathBuf),
    /// `-`
    Standard,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Standard);
        }
        match text.split_once(':') {
            // A local file of such a name can be written `./sb-...`.
            Some((id, path)) if id.starts_with("sb-") => {
                let id = id.parse().map_err(|error: id::InvalidId| error.to_string())?;
                Ok(Self::Sandbox { id, path: path.to_owned() })
            }
            _ if text.is_empty() => Err("an empty path".to_owned()),
            _ => Ok(Self::Local(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox { id, path } => write!(f, "{id}:{path}"),
            Self::Local(path) => path.display().fmt(f),
            Self::Standard => f.write_str("-"),
        }
    }
}

impl CpArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let user = self.user.as_deref();
        match (self.from, self.to) {
            (Place::Sandbox { .. }, Place::Sandbox { .. }) => {
                bail!("both places are in sandboxes: copy to this machine first, or pipe through `-`")
            }
            (from, Place::Sandbox { id, path }) => {
                upload(&self.endpoint.client()?, &from, id, &path, user).await?;
            }
            (Place::Sandbox { id, path }, to) => {
                download(&self.endpoint.client()?, id, &path, &to, user).await?;
            }
            (_, _) => bail!("none of the two places is in a sandbox: write one of them as sb-...:/path"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn upload(
    client: &Client,
    from: &Place,
    id: Id<id::Sandbox>,
    path: &str,
    user: Option<&str>,
) -> anyhow::Result<()> {
    let (reader, length): (Box<dyn AsyncRead + Send + Unpin>, _) = match from {
        Place::Local(local) => {
            let opening = || format!("cannot read {}", local.display());
            let file = tokio::fs::File::open(local).await.with_context(opening)?;
            let metadata = file.metadata().await.with_context(opening)?;
            if metadata.is_dir() {
                bail!("{} is a folder: pipe it through tar (see `sandbar cp --help`)", local.display());
            }
            // A device or pipe has no length.
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        }
        Place::Standard | Place::Sandbox { .. } => (Box::new(tokio::io::stdin()), None),
    };
    let target = match from {
        _ if !names_folder(path) => path.to_owned(),
        Place::Local(local) => format!("{path}{}", file_name(local)?),
        Place::Standard | Place::Sandbox { .. } => {
            bail!("name the file in {id}:{path}: standard input has no name")
        }
    };
    let body = Body::wrap_stream(ReaderStream::new(reader));
    let written = client.write_file(id, &target, user, body, length).await;
    written.with_context(|| format!("cannot copy {from} to {id}:{target}"))
}

async fn download(
    client: &Client,
    id: Id<id::Sandbox>,
    path: &str,
    to: &Place,
    user: Option<&str>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot copy {id}:{path} to {to}");
    if names_folder(path) {
        bail!("{id}:{path} is a folder: pipe it through tar (see `sandbar cp --help`)");
    }
    let response = client.read_file(id, path, user).await.with_context(failed)?;
    let mut reader = StreamReader::new(response.bytes_stream().map_err(io::Error::other));
    let Place::Local(local) = to else {
        return copy(&mut reader, &mut tokio::io::stdout()).await.with_context(failed);
    };
    let target = if local.is_dir() { local.join(file_name(Path::new(path))?) } else { local.clone() };
    // Standard output and devices are written as they are; a file appears only once it is whole.
    if target.exists() && !target.is_file() {
        let mut file = tokio::fs::File::options().write(true).open(&target).await.with_context(failed)?;
        return copy(&mut reader, &mut file).await.with_context(failed);
    }
    let folder = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let part = folder.join(format!(".{}.part-{}", file_name(&target)?, std::process::id()));
    let write = async {
        let mut file = tokio::fs::File::options().write(true).create_new(true).open(&part).await?;
        copy(&mut reader, &mut file).await?;
        file.sync_all().await?;
        tokio::fs::rename(&part, &target).await
    };
    let written = write.await;
    if written.is_err() {
        // What is told is the first failure.
        let _ = tokio::fs::remove_file(&part).await;
    }
    written.with_context(failed)
}

/// In a sandbox, by its form alone. The empty path is the home.
fn names_folder(path: &str) -> bool {
    path.is_empty() || path.ends_with('/')
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    tokio::io::copy(from, to).await?;
    to.flush().await
}

fn file_name(path: &Path) -> anyhow::Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} does not end in a file's name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_places_in_sandboxes_from_local_ones() {
        let id = Id::<id::Sandbox>::new();
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(place(&format!("{id}:/a:b")), Ok(Place::Sandbox { id, path: "/a:b".into() }));
        assert_eq!(place(&format!("{id}:a")), Ok(Place::Sandbox { id, path: "a".into() }));
        assert_eq!(place("-"), Ok(Place::Standard));
        for local in ["a", "/a/b", "a:b", &format!("./{id}:a")] {
            assert_eq!(place(local), Ok(Place::Local(local.into())), "{local}");
        }
        assert_eq!(place(&format!("{id}:")), Ok(Place::Sandbox { id, path: String::new() }));
        for bad in ["", "sb-1:/a", "sb-:/a"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn half_a_file_is_never_taken_for_the_whole() {
        let client = crate::client::tests::client(&crate::client::tests::serve_half_a_file().await);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        std::fs::write(&target, "what was there").unwrap();
        for to in [target.clone(), folder.path().to_owned()] {
            let copied = download(&client, Id::new(), "/tmp/file", &Place::Local(to), None).await;
            assert!(copied.unwrap_err().to_string().contains("/tmp/file"));
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "what was there");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
