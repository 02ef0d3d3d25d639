//! What an ONNX file holds, looked at before ONNX Runtime sees it: a graph is data, and may lead to no other file.
//!
//! The format lets a tensor lie in another file (*external data*), by a path beside the model's. Its SHA-256 is then not that of what is
//! loaded, and versions of ONNX Runtime follow such a path out of the model's folder. There are nodes that name files, or run code, as
//! well. All of these are refused here, wherever in a graph they stand, and so are nodes of the worker's own operators that would read where others than
//! these say. Knows no engine.

mod error;
mod own;
mod tensors;
mod walk;
mod wire;

pub use error::FileError;
pub use tensors::{Element, LargeTensor, large_tensors};
pub use walk::{Facts, inspect};
pub use wire::{FileSource, Source};

use embed_schemas::ModelMetadata;

/// Looks at a file, and compares it with what its version's metadata says.
///
/// # Errors
/// If it is no ONNX file, holds what is refused, or has fewer positions than the metadata says.
pub fn check(mut source: impl Source, metadata: &ModelMetadata) -> Result<Facts, FileError> {
    let facts = inspect(&mut source)?;
    let longest = u64::from(metadata.max_seq_length);
    match facts.positions {
        Some(positions) if longest > positions => Err(FileError::Positions { longest, positions }),
        _ => Ok(facts),
    }
}

#[cfg(test)]
mod tests;
