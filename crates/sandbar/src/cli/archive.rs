//! Archives on their way to the platform: files for `COPY`, or an image to start from. What breaks off goes on where it was.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Body;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::context::Packed;
use crate::client::{Builds, Client, ClientError};

/// How often an upload that broke off goes on before the command gives up, and the time between.
const ATTEMPTS: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// What is read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Brings the archive in a file, unless the platform has it: its name.
pub(super) async fn bring(client: &Client, whose: Builds, path: &Path) -> anyhow::Result<String> {
    let path = path.to_owned();
    let packed = tokio::task::spawn_blocking(move || hashed(&path)).await??;
    send(client, whose, packed).await
}

/// Brings an archive, unless the platform has it: its name.
pub(super) async fn send(client: &Client, whose: Builds, packed: Packed) -> anyhow::Result<String> {
    let Packed { file, sha256, bytes } = packed;
    let mut left = ATTEMPTS;
    loop {
        match go_on(client, whose, &sha256, (&file, bytes)).await {
            Ok(()) => return Ok(sha256),
            Err(error) if left == 0 || !may_pass(&error) => return Err(error),
            Err(error) => eprintln!("-- {error}: going on"),
        }
        left -= 1;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Sends what the platform has not.
async fn go_on(
    client: &Client,
    whose: Builds,
    sha256: &str,
    (file, bytes): (&File, u64),
) -> anyhow::Result<()> {
    if client.has_build_files(whose, sha256).await? {
        return Ok(());
    }
    let from = client.build_files_received(whose, sha256).await?;
    let rest = bytes.saturating_sub(from);
    eprintln!("-- sending {} KiB", rest.div_ceil(1024));
    let mut file = file.try_clone().context("cannot read the archive")?;
    file.seek(SeekFrom::Start(from)).context("cannot read the archive")?;
    let contents = ReaderStream::new(tokio::fs::File::from_std(file).take(rest));
    Ok(client.put_build_files(whose, sha256, Body::wrap_stream(contents), (from, rest)).await?)
}

/// Whether the same may succeed later.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. } | ClientError::Silent { .. } | ClientError::Broken { .. }) => {
            true
        }
        Some(error) => error.code() == Some("unavailable"),
        None => false,
    }
}

fn hashed(path: &Path) -> anyhow::Result<Packed> {
    let failed = || format!("cannot read the archive {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece).with_context(failed)? {
            0 => return Ok(Packed { file, sha256: hex::encode(hash.finalize()), bytes }),
            read => {
                hash.update(piece.get(..read).unwrap_or_default());
                bytes += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_known_by_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        let missing = hashed(&path).unwrap_err().to_string();
        assert!(missing.contains("image.tar"), "{missing}");
        std::fs::write(&path, "test").unwrap();
        let packed = hashed(&path).unwrap();
        assert_eq!(packed.bytes, 4);
        assert_eq!(packed.sha256, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
    }

    #[test]
    fn what_the_platform_refuses_is_not_sent_again() {
        let refused = |code: &str| ClientError::Refused {
            code: code.to_owned(),
            message: String::new(),
            request_id: String::new(),
        };
        assert!(may_pass(&refused("unavailable").into()));
        assert!(!may_pass(&refused("invalid_request").into()) && !may_pass(&anyhow::anyhow!("no file")));
    }
}
