//! Where the parts of build files are: in object storage, beside the copies of snapshots, or in a folder.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use crate::transfer::{Bucket, BucketError};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) enum FilesPlace {
    /// Every control plane has the same.
    Bucket(Bucket),
    /// `<folder>/<archive>/<index>`. Several control planes share it, or none of them finds what another has taken.
    Folder(PathBuf),
}

/// Why a part cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Object storage failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The folder failed.
    #[error("the folder of build files failed")]
    Folder(#[from] io::Error),
    /// A part is not there.
    #[error(
        "a part of the archive is not here: control planes that share a database share a --snapshot-store, or this folder"
    )]
    NotHere,
    /// A part is not what was put there.
    #[error("the archive is damaged")]
    Damaged,
}

impl FilesPlace {
    /// Keeps one part.
    pub(super) async fn write(&self, archive: Uuid, index: u32, part: Bytes) -> Result<(), PlaceError> {
        match self {
            Self::Bucket(bucket) => Ok(bucket.write_files(archive, index, part).await?),
            Self::Folder(folder) => {
                let folder = folder.join(archive.to_string());
                fs::create_dir_all(&folder).await?;
                // It counts when the row says so: nobody reads it before, or after a crash.
                let mut file = File::create(folder.join(name(index))).await?;
                file.write_all(&part).await?;
                Ok(file.sync_all().await?)
            }
        }
    }

    /// Makes sure that all parts are still there after a crash.
    pub(super) async fn settle(&self, archive: Uuid) -> Result<(), PlaceError> {
        let Self::Folder(folder) = self else { return Ok(()) };
        let own = folder.join(archive.to_string());
        // One that has no part has no folder.
        for folder in [&own, folder] {
            match File::open(folder).await {
                Ok(folder) => folder.sync_all().await?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// One part.
    pub(super) async fn read(&self, archive: Uuid, index: u32) -> Result<Bytes, PlaceError> {
        match self {
            Self::Bucket(bucket) => bucket.read_files(archive, index).await?.ok_or(PlaceError::NotHere),
            Self::Folder(folder) => {
                match fs::read(folder.join(archive.to_string()).join(name(index))).await {
                    Ok(part) => Ok(part.into()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PlaceError::NotHere),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Deletes all parts; none is fine.
    pub(super) async fn delete(&self, archive: Uuid) -> Result<(), PlaceError> {
        match self {
            Self::Bucket(bucket) => Ok(bucket.delete_files(archive).await?),
            Self::Folder(folder) => match fs::remove_dir_all(folder.join(archive.to_string())).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
        }
    }
}

fn name(index: u32) -> String {
    format!("{index:08x}")
}
