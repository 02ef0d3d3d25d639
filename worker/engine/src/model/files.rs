//! The files of a version, read and verified.

use bytes::Bytes;
use embed_schemas::ModelMetadata;

use crate::tokenize::{TextTokenizer, TokenizeError};

/// The files of a version that serving needs, verified: what was verified is what is loaded.
#[derive(Debug)]
pub struct Files {
    /// The graph.
    pub(super) graph: Bytes,
    /// The graph without padding.
    pub(super) packed: Option<Bytes>,
    /// The tokenizer.
    pub(super) tokenizer: Bytes,
    /// The golden texts.
    pub(super) golden: Bytes,
}

impl Files {
    /// The tokenizer alone.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn tokenizer(&self, metadata: &ModelMetadata, max_text_bytes: usize) -> Result<TextTokenizer, TokenizeError> {
        TextTokenizer::new(&self.tokenizer, metadata, max_text_bytes)
    }
}
