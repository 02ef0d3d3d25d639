//! Rows of a corpus, each a function of the seed and its id, so that nothing of it has to be kept. Pure.

use std::{collections::BTreeSet, sync::Arc};

use fastrand::Rng;

/// Most rows of a corpus: the texts of changed rows have numbers above it.
pub const MOST_ROWS: u64 = 10_000_000;
/// The words at the beginning of a text tell its number.
const NUMBERED: usize = 3;
/// Words of the longest text.
const LONGEST: usize = 12;
/// A prime, which no number of words shares a factor with, so that numbers that follow each other begin differently and no two begin alike.
const STRIDE: u64 = 2_654_435_761;
/// Of rows that are changed, so many are removed, and as many added.
const MOVED: f64 = 0.1;
const CATEGORIES: [&str; 5] = ["news", "reviews", "forum", "manuals", "letters"];

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Its id.
    pub id: u64,
    /// What is embedded.
    pub text: String,
    /// What comes along.
    pub category: &'static str,
    /// What comes along as well.
    pub score: f64,
}

/// Short rows, all different.
#[derive(Debug, Clone)]
pub(super) struct Corpus {
    seed: u64,
    words: Arc<[String]>,
    rows: u64,
    /// The share of rows whose text is another than at first.
    changed: f64,
}

/// What became of the rows of the first corpus in the second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// As they were.
    pub same: u64,
    /// With another text.
    pub changed: u64,
    /// Gone.
    pub removed: u64,
    /// New.
    pub added: u64,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Same,
    Changed,
    Removed,
    Added,
}

impl Corpus {
    /// The corpus of a seed, from the words of these texts.
    #[must_use]
    pub(super) fn new(seed: u64, rows: u64, texts: &[String]) -> Self {
        let words = texts.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphabetic()));
        let words: BTreeSet<String> = words.filter(|word| word.len() > 2).map(str::to_ascii_lowercase).collect();
        let mut words: Vec<String> = words.into_iter().collect();
        Rng::with_seed(seed).shuffle(&mut words);
        Self { seed, words: words.into(), rows, changed: 0.0 }
    }

    /// The same with this share of the texts changed, and a tenth as many rows removed, and added.
    #[must_use]
    pub(super) fn changed(&self, share: f64) -> Self {
        Self { changed: share, ..self.clone() }
    }

    /// Whether it is another than the first.
    #[must_use]
    pub(super) fn is_changed(&self) -> bool {
        self.changed > 0.0
    }

    /// The ids, ascending.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.rows + self.added()).filter(|id| self.fate(*id) != Fate::Removed)
    }

    /// Ids of rows that the first corpus does not have like this.
    pub(super) fn new_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids().filter(|id| self.fate(*id) != Fate::Same)
    }

    /// A row, whether it is there or not.
    #[must_use]
    pub(super) fn row(&self, id: u64) -> Row {
        let number = if self.fate(id) == Fate::Changed { id + MOST_ROWS * 2 } else { id };
        let mut rng = self.rng(id);
        let category = CATEGORIES[rng.usize(..CATEGORIES.len())];
        Row { id, text: self.text(number), category, score: f64::from(rng.u16(..1000)) / 8.0 }
    }

    /// How many rows are what.
    #[must_use]
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for id in 0..self.rows + self.added() {
            *match self.fate(id) {
                Fate::Same => &mut counts.same,
                Fate::Changed => &mut counts.changed,
                Fate::Removed => &mut counts.removed,
                Fate::Added => &mut counts.added,
            } += 1;
        }
        counts
    }

    fn added(&self) -> u64 {
        (self.rows as f64 * self.changed * MOVED).ceil() as u64
    }

    fn fate(&self, id: u64) -> Fate {
        if id >= self.rows {
            return Fate::Added;
        }
        match Rng::with_seed(self.seed ^ id.wrapping_mul(STRIDE)).f64() {
            chance if chance < self.changed => Fate::Changed,
            chance if chance < self.changed * (1.0 + MOVED) => Fate::Removed,
            _ => Fate::Same,
        }
    }

    /// The text of a number, unlike those of all others.
    fn text(&self, number: u64) -> String {
        let all = self.words.len() as u64;
        let mut rest = (number * STRIDE) % all.pow(NUMBERED as u32);
        let mut rng = self.rng(number);
        let more = rng.usize(..=LONGEST - NUMBERED);
        let numbered = (0..NUMBERED).map(|_| {
            let word = rest % all;
            rest /= all;
            word
        });
        let places: Vec<u64> = numbered.collect();
        let more = (0..more).map(|_| rng.u64(..all));
        let words: Vec<&str> = places.into_iter().chain(more).map(|place| &*self.words[place as usize]).collect();
        words.join(" ")
    }

    fn rng(&self, number: u64) -> Rng {
        Rng::with_seed(self.seed.rotate_left(32) ^ number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::texts;

    fn corpus(seed: u64, rows: u64) -> Corpus {
        Corpus::new(seed, rows, &texts::load(None, 1).unwrap())
    }

    #[test]
    fn texts_are_short_and_all_different_even_of_changed_rows() {
        let first = corpus(1, 20_000);
        let second = first.changed(0.5);
        let texts =
            |corpus: &Corpus, ids: Vec<u64>| -> Vec<String> { ids.into_iter().map(|id| corpus.row(id).text).collect() };
        let mut all = texts(&first, first.ids().collect());
        all.extend(texts(&second, second.new_ids().collect()));
        assert!(all.iter().all(|text| (3..=12).contains(&text.split(' ').count())));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn the_largest_corpus_has_as_many_texts() {
        // What the first words tell is told apart from every other number as long as there are more combinations.
        let corpus = corpus(1, MOST_ROWS);
        let combinations = (corpus.words.len() as u64).pow(NUMBERED as u32);
        assert!(combinations > MOST_ROWS * 3);
        assert!(!(corpus.words.len() as u64).is_multiple_of(STRIDE));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_change_is_what_was_asked_for(seed: u64, rows in 1000u64..5000, share in 0.0f64..0.5) {
            let first = corpus(seed, rows);
            let second = first.changed(share);
            let counts = second.counts();
            prop_assert_eq!(counts.same + counts.changed + counts.removed, rows);
            prop_assert_eq!(second.ids().count() as u64, counts.same + counts.changed + counts.added);
            prop_assert_eq!(second.new_ids().count() as u64, counts.changed + counts.added);
            let expected = rows as f64 * share;
            prop_assert!((counts.changed as f64 - expected).abs() < 6.0 * expected.sqrt() + 6.0, "{counts:?}");
            let new: HashSet<u64> = second.new_ids().collect();
            for id in second.ids().filter(|id| *id < rows) {
                prop_assert_eq!(first.row(id).text != second.row(id).text, new.contains(&id));
            }
            prop_assert_eq!(first.ids().count() as u64, rows);
        }
    }
}
