//! Sandbar.
