//! What is served, one module for each family of paths.

pub(crate) mod openai;
pub(crate) mod ops;
pub(crate) mod own;
pub(crate) mod tei;
pub(crate) mod validate;
pub(crate) mod vectors;
pub(crate) mod write;
