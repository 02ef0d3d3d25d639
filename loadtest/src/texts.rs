//! What is embedded: real sentences, in an order that is random but the same for the same seed.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use serde::Deserialize;

const SAMPLE: &str = include_str!("../../deploy/samples/wordnet/sentences.jsonl");

#[derive(Deserialize)]
struct Row {
    text: String,
}

/// The texts of a JSONL file with a field `text`, or the repository's sample of WordNet's sentences; shuffled.
///
/// # Errors
/// If the file cannot be read, a line is not such a row, or there is none.
pub fn load(file: Option<&Path>, seed: u64) -> anyhow::Result<Vec<String>> {
    let read;
    let (name, content) = match file {
        Some(file) => {
            read = fs::read_to_string(file).with_context(|| format!("--texts {}", file.display()))?;
            (file.display().to_string(), read.as_str())
        }
        None => ("the sample".to_owned(), SAMPLE),
    };
    let mut texts = Vec::new();
    for (i, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Row = serde_json::from_str(line)
            .with_context(|| format!("{name}, line {}: expected an object with the field `text`", i + 1))?;
        texts.push(row.text);
    }
    ensure!(!texts.is_empty(), "{name}: there are no texts");
    fastrand::Rng::with_seed(seed).shuffle(&mut texts);
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_there_and_its_order_depends_on_the_seed_alone() {
        let texts = load(None, 1).unwrap();
        assert_eq!(texts.len(), 2000);
        assert_eq!(texts, load(None, 1).unwrap());
        assert_ne!(texts, load(None, 2).unwrap());
    }
}
