//! Holds rows and virtual machines together.
