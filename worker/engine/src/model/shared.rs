//! What is loaded at the moment, by content: versions and variants that have a graph or a tokenizer in common share it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use embed_schemas::Precision;
use parking_lot::Mutex;

use crate::{
    engine::{OnnxModel, OpenvinoModel, Place, WeakModel, WeakOpenvinoModel},
    tokenize::TextTokenizer,
};

/// A tokenizer is shared by versions with the same file and the same bounds.
type TokenizerKey = (String, u32, usize);

/// A session: its graph, where it runs, and which one it is of those that run there: of which set, for which widths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) sha256: String,
    pub(super) place: Place,
    pub(super) number: (usize, usize),
}

/// A graph that is compiled for a precision, and for so many runs at the same time.
pub(super) type CompiledKey = (String, Precision, usize);

/// Graphs and tokenizers that somebody uses, by their SHA-256.
#[derive(Debug, Default)]
pub struct SharedModels {
    models: Mutex<HashMap<SessionKey, WeakModel>>,
    compiled: Mutex<HashMap<CompiledKey, WeakOpenvinoModel>>,
    tokenizers: Mutex<HashMap<TokenizerKey, Weak<TextTokenizer>>>,
}

impl SharedModels {
    /// The session, loaded with `load` if nobody has it. Two who ask at the same time get the same.
    pub(super) fn model<E>(
        &self,
        key: SessionKey,
        load: impl FnOnce() -> Result<OnnxModel, E>,
    ) -> Result<OnnxModel, E> {
        let mut models = self.models.lock();
        models.retain(|_, model| model.upgrade().is_some());
        if let Some(model) = models.get(&key).and_then(WeakModel::upgrade) {
            return Ok(model);
        }
        let model = load()?;
        models.insert(key, model.downgrade());
        Ok(model)
    }

    /// The compiled graph, made with `compile` if nobody has it.
    pub(super) fn compiled<E>(
        &self,
        key: CompiledKey,
        compile: impl FnOnce() -> Result<OpenvinoModel, E>,
    ) -> Result<OpenvinoModel, E> {
        let mut compiled = self.compiled.lock();
        compiled.retain(|_, model| model.upgrade().is_some());
        if let Some(model) = compiled.get(&key).and_then(WeakOpenvinoModel::upgrade) {
            return Ok(model);
        }
        let model = compile()?;
        compiled.insert(key, model.downgrade());
        Ok(model)
    }

    /// The tokenizer of this file, made with `make` if nobody has it.
    pub(super) fn tokenizer<E>(
        &self,
        key: TokenizerKey,
        make: impl FnOnce() -> Result<TextTokenizer, E>,
    ) -> Result<Arc<TextTokenizer>, E> {
        let mut tokenizers = self.tokenizers.lock();
        tokenizers.retain(|_, tokenizer| tokenizer.strong_count() > 0);
        if let Some(tokenizer) = tokenizers.get(&key).and_then(Weak::upgrade) {
            return Ok(tokenizer);
        }
        let tokenizer = Arc::new(make()?);
        tokenizers.insert(key, Arc::downgrade(&tokenizer));
        Ok(tokenizer)
    }
}
