//! Looks at a version in a folder before it is published: what no worker would load need not go into a registry.

use std::{fs::File, io::Read, path::Path};

use embed_registry::open_named;
use embed_schemas::{
    ModelMetadata,
    model::{FileRef, METADATA_FILE},
    model_limits::{MAX_GOLDEN_BYTES, MAX_TOKENIZER_BYTES},
};

use super::{golden::read_golden, loaded::LoadError};
use crate::{
    engine::{
        EngineError,
        onnx_file::{self, FileSource},
    },
    settings::TokenizeConfig,
    tokenize::TextTokenizer,
};

/// Looks at the tokenizer, the golden texts, and the graphs of a version, without running anything. What is missing, or cannot be read at all, is left to
/// publishing, which says so.
///
/// # Errors
/// As loading it would fail.
pub fn inspect_version(folder: &Path) -> Result<(), LoadError> {
    let metadata = read(folder, METADATA_FILE, MAX_GOLDEN_BYTES).and_then(|json| serde_json::from_slice(&json).ok());
    let Some(metadata): Option<ModelMetadata> = metadata else { return Ok(()) };
    if metadata.check_limits().is_err() {
        return Ok(());
    }
    let tokenizer = match read(folder, &metadata.tokenizer.file, MAX_TOKENIZER_BYTES) {
        Some(json) => Some(TextTokenizer::new(&json, &metadata, TokenizeConfig::default().max_text_bytes)?),
        None => None,
    };
    if let Some(json) = read(folder, &metadata.golden.file, MAX_GOLDEN_BYTES) {
        read_golden(&json, &metadata)?;
    }
    for artefact in &metadata.artefacts {
        let Some(source) = graph(folder, &artefact.file) else { continue };
        let facts = onnx_file::check(source, &metadata).map_err(EngineError::from)?;
        facts.check_vocabulary(tokenizer.as_ref().and_then(TextTokenizer::largest_id)).map_err(EngineError::from)?;
    }
    Ok(())
}

fn open(folder: &Path, name: &str) -> Option<File> {
    // A name that leads elsewhere is publishing's to refuse.
    let is_name = Path::new(name).file_name().is_some_and(|file| file == name);
    is_name.then(|| open_named(&folder.join(name)).ok()).flatten()
}

fn read(folder: &Path, name: &str, most: u64) -> Option<Vec<u8>> {
    let (file, mut content) = (open(folder, name)?, Vec::new());
    (file.metadata().ok()?.len() <= most).then_some(())?;
    file.take(most).read_to_end(&mut content).ok()?;
    Some(content)
}

fn graph(folder: &Path, file: &FileRef) -> Option<FileSource> {
    FileSource::new(open(folder, &file.file)?).ok()
}
