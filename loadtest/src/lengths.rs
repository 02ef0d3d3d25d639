//! Texts of mixed lengths: made of the sample's words, so that tokens are as real text has them.

use clap::ValueEnum;

/// The mean of the wanted lengths, in tokens.
const MEAN: f64 = 41.0;
/// The deviation of their logarithms: a median of 30, one text in a hundred beyond 190.
const SIGMA: f64 = 0.8;
/// The shortest: one word between the two special tokens.
const LEAST: f64 = 3.0;
/// The longest: what the model takes.
const MOST: f64 = 256.0;
/// Letters in a word that is probably one token; chosen so that the sample's mean comes out (13.2 for 13.3 tokens).
const ONE_TOKEN: usize = 8;

/// How long texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lengths {
    /// As they are in the sample: 13 tokens on average
    Sentences,
    /// Lognormal: 41 tokens on average, a long tail up to 256
    Mixed,
}

impl Lengths {
    /// The name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sentences => "sentences",
            Self::Mixed => "mixed",
        }
    }

    /// As many texts as there are sentences. The same seed gives the same texts.
    #[must_use]
    pub fn apply(self, sentences: Vec<String>, seed: u64) -> Vec<String> {
        match self {
            Self::Sentences => sentences,
            Self::Mixed => mixed(&sentences, &mut fastrand::Rng::with_seed(seed)),
        }
    }
}

/// A wanted length, in tokens.
fn wanted(random: &mut fastrand::Rng) -> f64 {
    // Box and Muller; 1 - u is never 0.
    let normal = (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos();
    // The mean of a lognormal is exp(mu + sigma² / 2).
    (MEAN.ln() - SIGMA * SIGMA / 2.0 + SIGMA * normal).exp().clamp(LEAST, MOST).round()
}

fn mixed(sentences: &[String], random: &mut fastrand::Rng) -> Vec<String> {
    let mut words = sentences.iter().flat_map(|sentence| sentence.split_whitespace()).cycle();
    sentences
        .iter()
        .map(|_| {
            let wanted = wanted(random) as usize;
            let mut text = String::new();
            // The two special tokens.
            let mut tokens = 2;
            // A file of empty texts has no words: what it has is not made longer.
            while tokens < wanted
                && let Some(word) = words.next()
            {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(word);
                tokens += tokens_of(word);
            }
            text
        })
        .collect()
}

/// About how many tokens a word has: the tokenizer is the worker's.
fn tokens_of(word: &str) -> usize {
    let letters = word.chars().filter(|c| c.is_alphanumeric()).count();
    let marks = word.chars().count() - letters;
    marks + usize::from(letters > 0) + usize::from(letters > ONE_TOKEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::texts;

    fn lengths(texts: &[String]) -> Vec<usize> {
        texts.iter().map(|text| 2 + text.split_whitespace().map(tokens_of).sum::<usize>()).collect()
    }

    #[test]
    fn lengths_have_the_mean_and_the_tail() {
        let texts = Lengths::Mixed.apply(texts::load(None, 1).unwrap(), 1);
        let mut lengths = lengths(&texts);
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        assert!((38.0..44.0).contains(&mean), "{mean}");
        lengths.sort_unstable();
        assert!((25..35).contains(&lengths[lengths.len() / 2]), "{}", lengths[lengths.len() / 2]);
        assert!((200..=260).contains(lengths.last().unwrap()), "{:?}", lengths.last());
    }

    #[test]
    fn sentences_are_left_alone_and_empty_ones_do_no_harm() {
        let texts = vec!["a b".to_owned(), String::new()];
        assert_eq!(Lengths::Sentences.apply(texts.clone(), 1), texts);
        assert_eq!(Lengths::Mixed.apply(vec![String::new()], 1), [""]);
    }

    proptest! {
        #[test]
        fn the_seed_alone_decides(seed: u64) {
            let sentences = || vec!["one two three".to_owned(); 20];
            let texts = Lengths::Mixed.apply(sentences(), seed);
            prop_assert_eq!(&texts, &Lengths::Mixed.apply(sentences(), seed));
            prop_assert!(lengths(&texts).iter().all(|tokens| (3..=257).contains(tokens)));
        }
    }
}
