//! Files: written and read through the API.

use anyhow::{Result, ensure};
use sandbar_tests::Platform;
use sandbar_types::ErrorCode;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        a_file_comes_back_as_it_was_written,
        folders_are_made_and_belong_to_the_user,
        what_cannot_be_read_or_written_is_said_to_be_so,
        a_full_disk_is_told_and_the_old_file_stays,
    ]
}

/// The digest as `sha256sum` prints it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn a_file_comes_back_as_it_was_written(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let client = sandbox.client();
    let mut random = vec![0; 20_000_000];
    getrandom::fill(&mut random)?;
    for content in [random, Vec::new()] {
        client.write_file(&sandbox.id, "/tmp/some file ü", content.clone()).await?.expect(204)?;
        let seen = sandbox.sh("sha256sum < '/tmp/some file ü'").await?;
        assert_eq!(seen, format!("{}  -", sha256(&content)));
        let read = client.read_file(&sandbox.id, "/tmp/some file ü").await?;
        read.expect(200)?;
        assert_eq!(read.headers["content-type"], "application/octet-stream");
        assert!(read.bytes == content, "{} bytes came back of {}", read.bytes.len(), content.len());
    }
    Ok(())
}

async fn folders_are_made_and_belong_to_the_user(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let client = sandbox.client();
    // A path without a leading slash is one in the user's home.
    client.write_file(&sandbox.id, "one/two/three.txt", b"deep".to_vec()).await?.expect(204)?;
    let seen = sandbox.sh("cat one/two/three.txt; stat -c ' %U' one one/two one/two/three.txt").await?;
    assert_eq!(seen, "deep user\n user\n user");
    assert_eq!(client.read_file(&sandbox.id, "/home/user/one/two/three.txt").await?.bytes, b"deep");
    // Written again it is the new content, not a mixture.
    client.write_file(&sandbox.id, "one/two/three.txt", b"no".to_vec()).await?.expect(204)?;
    assert_eq!(sandbox.sh("cat one/two/three.txt").await?, "no");
    Ok(())
}

async fn what_cannot_be_read_or_written_is_said_to_be_so(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let (client, id) = (sandbox.client(), sandbox.id.as_str());
    let read = async |path: &str, code: ErrorCode| client.read_file(id, path).await?.refusal(code);
    let missing = read("/no/such/file", ErrorCode::NotFound).await?;
    ensure!(missing.contains("/no/such/file"), "{missing}");
    let folder = read("/etc", ErrorCode::InvalidRequest).await?;
    ensure!(folder.contains("directory") || folder.contains("folder"), "{folder}");
    read("", ErrorCode::InvalidRequest).await?;
    read(&"x".repeat(5000), ErrorCode::InvalidRequest).await?;

    let write = async |path: &str| {
        client.write_file(id, path, b"x".to_vec()).await?.refusal(ErrorCode::InvalidRequest)
    };
    let folder = write("/tmp").await?;
    ensure!(folder.contains("directory") || folder.contains("folder"), "{folder}");
    write("/etc/passwd/below-a-file").await?;
    write("").await?;
    assert_eq!(sandbox.sh("stat -c %F /tmp").await?, "directory");

    let parts = format!("/v1/sandboxes/{id}/files/write");
    client.post(&parts, &json!({"path": "/tmp/x"})).await?.refusal(ErrorCode::InvalidRequest)?;
    let boundary = "multipart/form-data; boundary=b";
    let no_path =
        b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nx\r\n--b--\r\n";
    client.post_raw(&parts, boundary, no_path.to_vec()).await?.refusal(ErrorCode::InvalidRequest)?;
    // An upload that breaks off leaves no part of a file.
    let cut = b"--b\r\ncontent-disposition: form-data; name=\"path\"\r\n\r\n/tmp/cut\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nhalf";
    client.post_raw(&parts, boundary, cut.to_vec()).await?.refusal(ErrorCode::InvalidRequest)?;
    assert_eq!(sandbox.sh("ls /tmp | grep -c cut || true").await?, "0");
    Ok(())
}

async fn a_full_disk_is_told_and_the_old_file_stays(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let sandbox = platform.sandbox().await?;
    let client = sandbox.client();
    let old = vec![b'o'; 1_000_000];
    client.write_file(&sandbox.id, "/home/user/kept", old.clone()).await?.expect(204)?;
    // All but some 5 MB is taken.
    let fill = "avail=$(df --output=avail -B1 / | tail -1); fallocate -l $((avail - 5000000)) /var/fill";
    sandbox.sh_as("root", fill).await?;
    let free = "df --output=avail -B1 / | tail -1";
    let before: i64 = sandbox.sh(free).await?.parse()?;
    let reply = client.write_file(&sandbox.id, "/home/user/kept", vec![b'n'; 20_000_000]).await?;
    let message = reply.refusal(ErrorCode::InvalidState)?;
    ensure!(message.contains("full"), "{message}");
    let read = client.read_file(&sandbox.id, "/home/user/kept").await?;
    ensure!(read.expect(200)?.bytes == old, "the old file is not what it was");
    let after: i64 = sandbox.sh(free).await?.parse()?;
    ensure!(
        (before - after).abs() < 1_000_000,
        "what was written of the new file stays: {before} to {after} bytes"
    );
    // Room again, and it goes on.
    sandbox.sh_as("root", "rm /var/fill").await?;
    client.write_file(&sandbox.id, "/home/user/kept", b"new".to_vec()).await?.expect(204)?;
    assert_eq!(sandbox.sh("cat kept").await?, "new");
    Ok(())
}
