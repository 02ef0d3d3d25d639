//! The library's normalizer and pre-tokenizer with bounds: a text may not grow without end, and no expression may run without end.

use std::borrow::Borrow;

use serde::{Deserialize, Deserializer, de::Error as _};
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, Offsets, PostProcessorWrapper,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
    pre_tokenizers::split::SplitPattern,
    tokenizer::pattern::{Invert, Pattern},
};

use super::{budget, patterns::Guarded};

/// The library's tokenizer, with bounds.
pub(super) type Library =
    TokenizerImpl<ModelWrapper, BoundedNormalizer, BoundedPreTokenizer, PostProcessorWrapper, DecoderWrapper>;

/// A normalizer that watches what comes of each of its steps, where that can be known before it is done.
#[derive(Debug)]
pub(super) struct BoundedNormalizer {
    library: NormalizerWrapper,
    steps: Vec<Normalizing>,
}

#[derive(Debug)]
enum Normalizing {
    Replace { pattern: Guarded, content: String },
    Other(NormalizerWrapper),
}

impl Borrow<NormalizerWrapper> for BoundedNormalizer {
    fn borrow(&self) -> &NormalizerWrapper {
        &self.library
    }
}

impl<'de> Deserialize<'de> for BoundedNormalizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let library = NormalizerWrapper::deserialize(deserializer)?;
        let mut steps = Vec::new();
        add_normalizing(&library, &mut steps).map_err(D::Error::custom)?;
        Ok(Self { library, steps })
    }
}

fn add_normalizing(one: &NormalizerWrapper, steps: &mut Vec<Normalizing>) -> Result<(), String> {
    match one {
        NormalizerWrapper::Sequence(sequence) => {
            sequence.as_ref().iter().try_for_each(|one| add_normalizing(one, steps))
        }
        NormalizerWrapper::Replace(replace) => {
            // Its pattern can be read only in its serialized form.
            let form = serde_json::to_value(replace).map_err(|e| e.to_string())?;
            let text = |kind: &str| form["pattern"][kind].as_str();
            let (pattern, plain) = match (text("String"), text("Regex")) {
                (Some(pattern), _) => (pattern, true),
                (None, pattern) => (pattern.ok_or("a Replace has no pattern")?, false),
            };
            let pattern = Guarded::new(pattern, plain).map_err(|e| e.to_string())?;
            steps.push(Normalizing::Replace { pattern, content: replace.content.clone() });
            Ok(())
        }
        other => {
            steps.push(Normalizing::Other(other.clone()));
            Ok(())
        }
    }
}

impl Normalizer for BoundedNormalizer {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        // The library goes on with the next piece: nothing more is done for it.
        if budget::has_failed() {
            return Err("another piece of the text could not be normalized".into());
        }
        match self.steps.iter().try_for_each(|step| step.normalize(text)) {
            Ok(()) => {
                budget::done(text.len());
                Ok(())
            }
            Err(error) => {
                let said = error.to_string();
                budget::fail(error);
                Err(said.into())
            }
        }
    }
}

impl Normalizing {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            Self::Replace { pattern, content } => {
                let found = pattern.find_matches(text.get())?;
                // What will come of it, before it is made.
                let length =
                    |((start, end), is_match): &(Offsets, bool)| if *is_match { content.len() } else { end - start };
                budget::within(found.iter().map(length).sum())?;
                text.replace(Found(found), content)
            }
            // These take a character for a few others, at most as many as the file was checked for.
            Self::Other(step) => {
                step.normalize(text)?;
                Ok(budget::within(text.len())?)
            }
        }
    }
}

/// Matches that were found already.
struct Found(Vec<(Offsets, bool)>);

impl Pattern for Found {
    fn find_matches(&self, _: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        Ok(self.0.clone())
    }
}

/// A pre-tokenizer whose expressions have bounds.
#[derive(Debug)]
pub(super) struct BoundedPreTokenizer {
    library: PreTokenizerWrapper,
    steps: Vec<PreTokenizing>,
}

#[derive(Debug)]
enum PreTokenizing {
    Split { pattern: Guarded, behavior: SplitDelimiterBehavior, invert: bool },
    Other(PreTokenizerWrapper),
}

impl Borrow<PreTokenizerWrapper> for BoundedPreTokenizer {
    fn borrow(&self) -> &PreTokenizerWrapper {
        &self.library
    }
}

impl<'de> Deserialize<'de> for BoundedPreTokenizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let library = PreTokenizerWrapper::deserialize(deserializer)?;
        let mut steps = Vec::new();
        add_pre_tokenizing(&library, &mut steps).map_err(D::Error::custom)?;
        Ok(Self { library, steps })
    }
}

fn add_pre_tokenizing(one: &PreTokenizerWrapper, steps: &mut Vec<PreTokenizing>) -> Result<(), String> {
    match one {
        PreTokenizerWrapper::Sequence(all) => all.as_ref().iter().try_for_each(|one| add_pre_tokenizing(one, steps)),
        PreTokenizerWrapper::Split(split) => {
            let pattern = match &split.pattern {
                SplitPattern::String(text) => Guarded::new(text, true),
                SplitPattern::Regex(pattern) => Guarded::new(pattern, false),
            };
            let pattern = pattern.map_err(|e| e.to_string())?;
            steps.push(PreTokenizing::Split { pattern, behavior: split.behavior, invert: split.invert });
            Ok(())
        }
        other => {
            steps.push(PreTokenizing::Other(other.clone()));
            Ok(())
        }
    }
}

impl PreTokenizer for BoundedPreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        self.steps.iter().try_for_each(|step| match step {
            PreTokenizing::Split { pattern, behavior, invert: false } => {
                text.split(|_, piece| piece.split(pattern, *behavior))
            }
            PreTokenizing::Split { pattern, behavior, invert: true } => {
                text.split(|_, piece| piece.split(Invert(pattern), *behavior))
            }
            PreTokenizing::Other(step) => step.pre_tokenize(text),
        })
    }
}
