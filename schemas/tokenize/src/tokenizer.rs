//! One text to token ids: prompt, limit, truncation.

use std::panic::{self, AssertUnwindSafe};

use super::{
    bert::Bert,
    bounded::Library,
    budget::{self, Grown},
    outline,
    patterns::TooLong,
    segments::segments,
};
use embed_schemas::{ErrorCode, ModelMetadata, WireError};
use tokenizers::{Encoding, PostProcessorWrapper};

/// As how long a text the added tokens count while they are normalized. The most that known models have is a tenth of it.
const ADDED_TOKENS_BYTES: usize = 1 << 20;
/// Tokens of a word that is not cut: it is not looked where each of them begins.
const FEW_TOKENS: usize = 4;

/// Turns texts of one model into token ids. Shared by all threads.
#[derive(Debug)]
pub struct TextTokenizer {
    library: Library,
    /// Gives the same ids sooner, where it can. `Err`: why there is none.
    bert: Result<Bert, String>,
    max_tokens: usize,
    max_bytes: usize,
}

/// The tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// Whether the text was cut.
    pub truncated: bool,
}

/// A tokenizer could not be made.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer.json: {0}")]
pub struct TokenizeError(String);

impl TextTokenizer {
    /// Makes the tokenizer of a model from its `tokenizer.json`.
    ///
    /// `max_bytes` bounds a single text.
    ///
    /// # Errors
    /// If the file is not a tokenizer that this version of `tokenizers` can read, or asks for more than any model needs.
    pub fn new(json: &[u8], metadata: &ModelMetadata, max_bytes: usize) -> Result<Self, TokenizeError> {
        outline::check(json).map_err(TokenizeError)?;
        // Added tokens are normalized, which together are as one text.
        budget::begin(ADDED_TOKENS_BYTES);
        let made = panic::catch_unwind(AssertUnwindSafe(|| serde_json::from_slice::<Library>(json)));
        let made =
            made.map_err(|_| TokenizeError("`tokenizers` panics on it; save it again from its source".into()))?;
        let mut library = made.map_err(|e| TokenizeError(e.to_string()))?;
        // Truncation is done here, so that a result can say that it happened; padding is the batch's business.
        library.with_truncation(None).map_err(|e| TokenizeError(e.to_string()))?;
        library.with_padding(None);
        let bert = Bert::new(&library);
        if let Err(reason) = &bert {
            tracing::info!(
                model = metadata.slug.as_str(),
                reason,
                "tokenizing at the library's speed, about 20 times slower"
            );
        }
        Ok(Self { library, bert, max_tokens: metadata.max_seq_length as usize, max_bytes })
    }

    /// Why texts are left to the library, if they all are.
    #[must_use]
    pub fn slow_because(&self) -> Option<&str> {
        self.bert.as_ref().err().map(String::as_str)
    }

    /// The ids of `prompt` followed by `text`.
    ///
    /// # Errors
    /// [`ErrorCode::TextTooLarge`]; [`ErrorCode::TextTooLong`] if `truncate` is false and the text has to be cut.
    pub fn encode(&self, prompt: Option<&str>, text: &str, truncate: bool) -> Result<Tokens, WireError> {
        // What is to be refused is counted to its end, since the refusal says how many tokens there are.
        let enough = truncate.then_some(self.max_tokens);
        self.encode_with(prompt, text, truncate, |input| match &self.bert {
            Ok(bert) => bert.encode(input, enough),
            Err(_) => None,
        })
    }

    /// The same by the library alone: what [`TextTokenizer::encode`] is measured against.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`].
    pub fn encode_by_library(&self, prompt: Option<&str>, text: &str, truncate: bool) -> Result<Tokens, WireError> {
        self.encode_with(prompt, text, truncate, |_| None)
    }

    /// `shortcut` gives the ids of a prompt and text, and of what is longer than the model takes at least one more than that
    /// many; or `None`, for the library to do it.
    fn encode_with(
        &self,
        prompt: Option<&str>,
        text: &str,
        truncate: bool,
        shortcut: impl Fn(&str) -> Option<Vec<u32>>,
    ) -> Result<Tokens, WireError> {
        if text.len() > self.max_bytes {
            return Err(WireError::new(
                ErrorCode::TextTooLarge,
                format!(
                    "the text has {} bytes, at most {} are taken; cut it: the model reads only its first {} tokens",
                    text.len(),
                    self.max_bytes,
                    self.max_tokens
                ),
            ));
        }
        let joined;
        let input = match prompt {
            Some(prompt) => {
                joined = [prompt, text].concat();
                joined.as_str()
            }
            None => text,
        };
        let mut ids = match shortcut(input) {
            Some(ids) => ids,
            None => self.library_ids(input)?,
        };
        let truncated = ids.len() > self.max_tokens;
        if truncated {
            if !truncate {
                return Err(WireError::new(
                    ErrorCode::TextTooLong,
                    format!(
                        "the text has {} tokens, the model takes {}; shorten it, or leave out `truncate: false`",
                        ids.len(),
                        self.max_tokens
                    ),
                ));
            }
            // As the reference does: the first tokens, and the closing special token.
            let closing = ids[ids.len() - 1];
            ids.truncate(self.max_tokens);
            if let Some(last) = ids.last_mut() {
                *last = closing;
            }
        }
        Ok(Tokens { ids, truncated })
    }

    /// How many tokens `prompt` and `text` are, special tokens included, whatever the model takes.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`], other than for the length.
    pub fn count(&self, prompt: Option<&str>, text: &str) -> Result<usize, WireError> {
        let joined = prompt.map(|prompt| [prompt, text].concat());
        let input = joined.as_deref().unwrap_or(text);
        let ids = self.bert.as_ref().ok().and_then(|bert| bert.encode(input, None));
        ids.map_or_else(|| self.library_ids(input).map(|ids| ids.len()), |ids| Ok(ids.len()))
    }

    /// Where the tokens of a text begin, in bytes, in order; without special tokens. The few tokens of a short word may all begin where the word
    /// does. The text may be longer than any that can be embedded: it is taken in parts, and where two of them meet, which is at white
    /// space if there is any, tokens may differ from those of the whole.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`], other than for the length.
    pub fn starts(&self, text: &str) -> Result<Vec<usize>, WireError> {
        let mut starts = Vec::with_capacity(text.len() / 4);
        let Ok(bert) = &self.bert else {
            self.library_starts(text, 0, &mut starts)?;
            return Ok(starts);
        };
        let around = bert.encode("", None).map_or(0, |ids| ids.len());
        let mut at = 0;
        for word in text.split_inclusive(char::is_whitespace) {
            // 20 times as fast as the library, and as good where nothing is cut within words.
            match bert.encode(word, None).map(|ids| ids.len() - around) {
                Some(tokens) if tokens <= FEW_TOKENS => starts.extend(std::iter::repeat_n(at, tokens)),
                _ => self.library_starts(word, at, &mut starts)?,
            }
            at += word.len();
        }
        Ok(starts)
    }

    /// The same of a part that begins at `at`, by the library alone.
    fn library_starts(&self, part: &str, at: usize, starts: &mut Vec<usize>) -> Result<(), WireError> {
        for (begin, segment) in segments(part) {
            let encoding = bounded(segment, || self.library.encode(segment, false))?;
            starts.extend(encoding.get_offsets().iter().map(|(start, _)| at + begin + start));
        }
        Ok(())
    }

    fn library_ids(&self, input: &str) -> Result<Vec<u32>, WireError> {
        bounded(input, || self.library.encode_fast(input, true)).map(|encoding| encoding.get_ids().to_vec())
    }

    /// The largest id that it can make.
    #[must_use]
    pub fn largest_id(&self) -> Option<u32> {
        let around = self.library.get_post_processor().map(ids_around).unwrap_or_default();
        self.library.get_vocab(true).into_values().chain(around).max()
    }
}

/// Has the library encode a text within what a text may use.
fn bounded(input: &str, encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Encoding, WireError> {
    // A tokenizer that its file has led into a panic fails on the text, and takes nobody's thread with it. The library keeps caches
    // alone, which hold whole entries.
    budget::begin(input.len());
    let encoded = panic::catch_unwind(AssertUnwindSafe(encode));
    match (budget::take_failure(), encoded) {
        (Some(error), _) | (None, Ok(Err(error))) => Err(failed(&error)),
        (None, Ok(Ok(encoding))) => Ok(encoding),
        (None, Err(_)) => Err(failed(&"its tokenizer panics".into())),
    }
}

/// Ids that a post-processor puts around those of a text. They are whatever its file says, in the vocabulary or not.
fn ids_around(processor: &PostProcessorWrapper) -> Vec<u32> {
    match processor {
        PostProcessorWrapper::Bert(bert) => vec![bert.get_cls_copy().1, bert.get_sep_copy().1],
        PostProcessorWrapper::Roberta(roberta) => vec![roberta.get_cls_copy().1, roberta.get_sep_copy().1],
        PostProcessorWrapper::Template(template) => {
            // Their fields can be read only in their serialized form.
            let tokens = serde_json::to_value(template.get_special_tokens()).unwrap_or_default();
            let ids = tokens.as_object().into_iter().flat_map(|tokens| tokens.values());
            let ids = ids.filter_map(|token| token["ids"].as_array()).flatten();
            ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
        }
        PostProcessorWrapper::Sequence(all) => all.as_ref().iter().flat_map(ids_around).collect(),
        PostProcessorWrapper::ByteLevel(_) => Vec::new(),
    }
}

/// Texts that a bound is for are too large; what else is wrong is the tokenizer's fault.
fn failed(error: &tokenizers::Error) -> WireError {
    let code = match error.is::<Grown>() || error.is::<TooLong>() {
        true => ErrorCode::TextTooLarge,
        false => ErrorCode::EngineFailed,
    };
    WireError::new(code, format!("the text could not be tokenized: {error}"))
}
