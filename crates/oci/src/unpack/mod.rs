//! Layers into a folder: what each entry does there, and what all of them may take.

mod apply;
mod meter;
#[cfg(test)]
mod tests;

pub(crate) use apply::apply;
pub(crate) use meter::Meter;
