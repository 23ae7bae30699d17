//! Images as OCI knows them: named, fetched from a registry or read from an archive, and laid out as a folder.
//!
//! What lives here: [`Reference`]s, the registry's protocol ([`Registry`]) with its [`Cache`] of blobs, archives as `docker save` and
//! OCI's layout have them ([`open_archive`]), and the layers' way into a folder ([`Image::unpack`], [`Tree`]). What does not:
//! filesystems, templates, machines, RPCs. Depends on `types` alone.
//!
//! All of it comes from strangers: a registry is whoever a reference names, and an archive is whatever was uploaded. So documents and
//! blobs are read within bounds and held against their digests, a registry is not let near the networks that the host alone can reach
//! ([`Registries`]), and nothing of a layer is looked up but beneath the folder that it is laid out in.
//!
//! What has to do with files blocks: asynchronous callers use `spawn_blocking`. [`Registry::fetch`] is asynchronous; dropped, it leaves
//! what it has got for the next to go on from.

mod archive;
mod cache;
mod compression;
mod digest;
mod error;
mod image;
mod manifest;
mod reference;
mod registry;
mod section;
mod tar_stream;
mod tree;
mod unpack;

pub use archive::open_archive;
pub use cache::Cache;
pub use digest::Digest;
pub use error::ImageError;
pub use image::{Bounds, Image, RunConfig, Unpacked, Watch};
pub use reference::{Reference, ReferenceError};
pub use registry::{Credentials, FetchLimits, Fetched, Registries, Registry};
pub use tree::{Kind, Tree};
