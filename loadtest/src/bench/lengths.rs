//! Texts of realistic lengths: most are short, a few are many times as long.

use fastrand::Rng;

/// Most tokens of a text.
const LONGEST: usize = 256;

/// Fewest tokens of a text: the two special ones and one of its own.
const SHORTEST: usize = 3;

/// Parameters of the lognormal distribution. After the cut at [`LONGEST`], the mean is 41 tokens, the median 26.
const MU: f64 = 3.25;
const SIGMA: f64 = 1.0;

/// Lengths in tokens, special tokens included. The same seed gives the same lengths.
pub(super) fn lengths(count: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::with_seed(seed);
    (0..count).map(|_| ((MU + SIGMA * normal(&mut rng)).exp().round() as usize).clamp(SHORTEST, LONGEST)).collect()
}

/// A draw from the standard normal distribution (Box and Muller's transform).
fn normal(rng: &mut Rng) -> f64 {
    // 1 - x lies in (0, 1], where the logarithm is finite.
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// Texts of these lengths: sentences chosen by the seed, joined, and cut between words where the length is reached.
///
/// `tokens` says how many tokens a word has, `special` how many a text has beside those of its words. A text is as long
/// as asked for, or shorter by less than its next word; it is longer only if its first word alone is.
pub(super) fn texts(
    sentences: &[&str],
    lengths: &[usize],
    special: usize,
    mut tokens: impl FnMut(&str) -> usize,
    seed: u64,
) -> Vec<String> {
    let mut rng = Rng::with_seed(seed);
    let sentences: Vec<Vec<&str>> =
        sentences.iter().map(|s| s.split_whitespace().collect()).filter(|words: &Vec<_>| !words.is_empty()).collect();
    if sentences.is_empty() {
        return Vec::new();
    }
    let mut text = |length: usize| {
        let (mut words, mut total) = (Vec::new(), special);
        loop {
            for word in &sentences[rng.usize(..sentences.len())] {
                // A word without tokens would never fill a text.
                let count = tokens(word).max(1);
                if total + count > length && !words.is_empty() {
                    return words.join(" ");
                }
                words.push(*word);
                total += count;
            }
        }
    };
    lengths.iter().map(|length| text(*length)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_have_the_mean_the_spread_and_the_bounds_that_are_promised() {
        let lengths = lengths(100_000, 1);
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        assert!((40.0..42.0).contains(&mean), "{mean}");
        let logs: Vec<f64> = lengths.iter().map(|n| (*n as f64).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let sigma = (logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
        assert!((0.9..1.05).contains(&sigma), "{sigma}");
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&SHORTEST), Some(&LONGEST)));
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(lengths(100, 7), lengths(100, 7));
        assert_ne!(lengths(100, 7), lengths(100, 8));
        let sentences = ["a b c", "d e", "f g h i j"];
        let make = |seed| texts(&sentences, &[9; 20], 2, |_| 1, seed);
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    proptest! {
        #[test]
        fn texts_are_as_long_as_asked_but_for_a_word(wanted in prop::collection::vec(3usize..100, 1..20), seed: u64) {
            let sentences = ["one three fifteen", "", "a", "seventeen eleven is"];
            let tokens = |word: &str| word.len().div_ceil(3);
            for (text, wanted) in texts(&sentences, &wanted, 2, tokens, seed).iter().zip(&wanted) {
                let words: Vec<usize> = text.split(' ').map(tokens).collect();
                let length = 2 + words.iter().sum::<usize>();
                prop_assert!(length <= *wanted || words.len() == 1, "{text}");
                prop_assert!(length + 3 > *wanted, "{text}");
            }
        }
    }
}
