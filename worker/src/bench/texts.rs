//! The texts of the mixes: real sentences, as they are, or joined and cut to realistic lengths.

use std::collections::{BTreeSet, HashMap};

use clap::ValueEnum;
use embed_schemas::WireError;
use serde::Deserialize;

use super::{lengths, matrix::Ids};
use crate::tokenize::TextTokenizer;

const SAMPLE: &str = include_str!("../../../deploy/samples/wordnet/sentences.jsonl");

/// Which texts of many lengths to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mix {
    /// The repository's sample of WordNet's sentences
    Sentences,
    /// The same, joined and cut: lognormal lengths, 41 tokens on average, 256 at most
    Mixed,
    /// None
    None,
}

impl Mix {
    /// The mix's name, as on the command line. `None` for [`Mix::None`], which has no texts.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Sentences => Some("sentences"),
            Self::Mixed => Some("mixed"),
            Self::None => None,
        }
    }

    /// Tokens of a text, about, before they are known.
    pub(super) const fn about_tokens(self) -> usize {
        match self {
            Self::Sentences => 16,
            Self::Mixed => 41,
            Self::None => 0,
        }
    }
}

/// The sentences of the sample.
pub(super) fn sample() -> Vec<String> {
    #[derive(Deserialize)]
    struct Row {
        text: String,
    }
    let row = |line| serde_json::from_str::<Row>(line).expect("the sample was checked by a test").text;
    SAMPLE.lines().map(row).collect()
}

/// The token ids of `count` texts of a mix.
///
/// # Errors
/// If the tokenizer fails on a text.
pub(super) fn tokenized(
    mix: Mix,
    count: usize,
    tokenizer: &TextTokenizer,
    seed: u64,
) -> Result<Vec<Vec<u32>>, WireError> {
    let sample = sample();
    let texts = match mix {
        Mix::None => Vec::new(),
        Mix::Sentences => sample.into_iter().cycle().take(count).collect(),
        Mix::Mixed => {
            let sentences: Vec<&str> = sample.iter().map(String::as_str).collect();
            let special = tokenizer.encode(None, "", true)?.ids.len();
            let mut known = HashMap::new();
            // A word on which the tokenizer fails makes it fail on its text, below.
            let count_tokens = |word: &str| tokenizer.encode(None, word, true).map_or(0, |t| t.ids.len() - special);
            let tokens = |word: &str| *known.entry(word.to_owned()).or_insert_with(|| count_tokens(word));
            lengths::texts(&sentences, &lengths::lengths(count, seed), special, tokens, seed)
        }
    };
    texts.iter().map(|text| Ok(tokenizer.encode(None, text, true)?.ids)).collect()
}

/// Ids that are valid for the model: those of the sample's texts.
///
/// # Errors
/// If the tokenizer fails on a text.
pub(super) fn ids(tokenizer: &TextTokenizer) -> Result<Ids, WireError> {
    let mut vocabulary = BTreeSet::new();
    let mut special = (0, 0);
    for text in sample() {
        let ids = tokenizer.encode(None, &text, true)?.ids;
        if let [opening, between @ .., closing] = &ids[..] {
            special = (*opening, *closing);
            vocabulary.extend(between.iter().copied());
        }
    }
    Ok(Ids { opening: special.0, closing: special.1, vocabulary: vocabulary.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_there() {
        assert_eq!(sample().len(), 2000);
    }
}
