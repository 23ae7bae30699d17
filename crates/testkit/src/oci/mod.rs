//! Images of OCI's kind, made by the test that wants them, and a real registry to keep them in.
//!
//! Nothing of `sandbar-oci` is used here, so that what it reads was written by somebody else.

mod image;
mod layer;
mod registry;

pub use image::TestImage;
pub use layer::{LayerBuilder, Owner};
pub use registry::{TestLogin, TestRegistry};
