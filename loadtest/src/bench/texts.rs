//! The texts of the mixes: real sentences, as they are, or joined and cut to realistic lengths.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::Context;
use embed_engine::tokenize::TextTokenizer;
use embed_schemas::WireError;
use serde::Deserialize;

use super::{args::BenchArgs, lengths, matrix::Ids, mix_kind::Mix};

const SAMPLE: &str = include_str!("../../../deploy/samples/wordnet/sentences.jsonl");

#[derive(Deserialize)]
struct Row {
    text: String,
}

/// The sentences of the sample.
pub(super) fn sample() -> Vec<String> {
    let row = |line| serde_json::from_str::<Row>(line).expect("the sample was checked by a test").text;
    SAMPLE.lines().map(row).collect()
}

/// The texts of a file.
///
/// # Errors
/// If it cannot be read, or a line is not an object with the field `text`.
fn read(path: &Path) -> anyhow::Result<Vec<String>> {
    let content = fs::read_to_string(path).with_context(|| format!("--texts {}", path.display()))?;
    let row = |(i, line)| {
        let row = serde_json::from_str::<Row>(line);
        row.map(|row| row.text).with_context(|| format!("--texts {}, line {}", path.display(), i + 1))
    };
    content.lines().enumerate().map(row).collect()
}

/// The texts of a mix.
///
/// # Errors
/// If the tokenizer fails, or the file of texts cannot be read or has none.
pub(super) fn of(
    mix: Mix,
    args: &BenchArgs,
    count: usize,
    tokenizer: &TextTokenizer,
    seed: u64,
) -> anyhow::Result<Vec<String>> {
    let sample = sample();
    Ok(match mix {
        Mix::None => Vec::new(),
        Mix::File => args.texts.as_deref().map_or_else(|| Ok(Vec::new()), read)?,
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
    })
}

/// The token ids of texts.
///
/// # Errors
/// If the tokenizer fails on a text.
pub(super) fn tokenized(texts: &[String], tokenizer: &TextTokenizer) -> Result<Vec<Vec<u32>>, WireError> {
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
