//! Sandbar.
fn main() {}
