//! An image that is at hand: how it is run, and its layers as files.

use std::path::Path;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::section::Section;
use crate::tree::Tree;
use crate::unpack::{self, Meter};

/// How an image says that it is run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunConfig {
    /// Environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// `USER`, `UID`, or either with `:GROUP`; empty for root.
    pub user: String,
    /// The working directory; empty for `/`.
    pub workdir: String,
    /// What is run, before what the caller gives.
    pub entrypoint: Vec<String>,
    /// What is run, or what the entrypoint is given, where the caller gives nothing.
    pub cmd: Vec<String>,
}

/// An image whose layers are at hand.
#[derive(Debug)]
pub struct Image {
    /// How it is run.
    pub config: RunConfig,
    pub(crate) layers: Vec<Layer>,
}

/// A layer, as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Its bytes, compressed or not.
    pub(crate) data: Section,
    /// What they must be once they are decompressed.
    pub(crate) content: Digest,
}

/// What an image may take when its layers are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes that its files take in blocks of 4 KiB, those counted that a later layer removes or replaces.
    pub bytes: u64,
    /// Files, folders, links and removals.
    pub entries: u64,
}

/// Is told of each step of long work, with how many bytes have been worked off, and may end it.
pub trait Watch: Send + Sync {
    /// Called every few MiB. An error ends the work, and is its error.
    fn step(&self, bytes: u64) -> Result<(), ImageError>;
}

impl<F: Fn(u64) -> Result<(), ImageError> + Send + Sync> Watch for F {
    fn step(&self, bytes: u64) -> Result<(), ImageError> {
        self(bytes)
    }
}

/// What was laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of files, in whole blocks.
    pub bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
}

impl Image {
    /// Bytes of its layers, as they are kept.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.data.len()).sum()
    }

    /// Lays its layers out in an empty folder, one after the other: owners, modes, times, links, devices, capabilities.
    ///
    /// Nothing outside of the folder is read or written, whatever the layers say. Nobody else may write to the folder meanwhile. What
    /// fails leaves it as far as it came.
    pub fn unpack(&self, folder: &Path, bounds: Bounds, watch: &dyn Watch) -> Result<Unpacked, ImageError> {
        let tree = Tree::open(folder)?;
        let meter = Meter::new(bounds, watch);
        for (number, layer) in (1..).zip(&self.layers) {
            unpack::apply(&tree, layer, &meter).map_err(|error| match error {
                ImageError::Broken(reason) => ImageError::Broken(format!("layer {number}: {reason}")),
                error => error,
            })?;
        }
        Ok(meter.taken())
    }
}
