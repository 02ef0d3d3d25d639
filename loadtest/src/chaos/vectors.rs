//! The vectors that the texts have, taken once before the first fault, and which of them a row is.

/// The most that a component may be off. Results do not depend on what else was in the batch but for the order of sums, which
/// is a hundredth of this.
const TOLERANCE: f32 = 1e-3;
/// Texts closer to each other than this are one text too many: a row could be either.
const ALIKE: f32 = 0.999;

/// Texts with their vectors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct References {
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

impl References {
    /// Those of these texts that can be told apart, in their order.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = (String, Vec<f32>)>) -> Self {
        let mut references = Self::default();
        for (text, vector) in all {
            if references.nearest(&vector).is_none_or(|(_, cosine)| cosine < ALIKE) {
                references.texts.push(text);
                references.vectors.push(vector);
            }
        }
        references
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The text in this place.
    #[must_use]
    pub fn text(&self, place: u32) -> &str {
        &self.texts[place as usize]
    }

    /// Where this text is.
    #[must_use]
    pub fn place(&self, text: &str) -> Option<u32> {
        self.texts.iter().position(|other| other == text).map(small)
    }

    /// Which text's vector this is, if it is one's.
    #[must_use]
    pub fn identify(&self, row: &[f32]) -> Option<u32> {
        let (place, _) = self.nearest(row)?;
        let reference = &self.vectors[place as usize];
        let same = row.len() == reference.len() && row.iter().zip(reference).all(|(a, b)| (a - b).abs() <= TOLERANCE);
        same.then_some(place)
    }

    /// The nearest, and the cosine: vectors have a length of 1.
    fn nearest(&self, row: &[f32]) -> Option<(u32, f32)> {
        let cosines = self.vectors.iter().map(|vector| vector.iter().zip(row).map(|(a, b)| a * b).sum::<f32>());
        cosines.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, cosine)| (small(place), cosine))
    }

    /// The texts of a job, as places: the first two are those of no job with another number below the square of their count.
    #[must_use]
    pub fn texts_of(&self, number: u64, count: usize) -> Vec<u32> {
        let all = self.texts.len() as u64;
        let second = number + number / all + 1;
        let rest = (2..count as u64).map(|n| number * 31 + n * 7);
        [number, second].into_iter().chain(rest).take(count).map(|n| small((n % all) as usize)).collect()
    }
}

fn small(place: usize) -> u32 {
    u32::try_from(place).expect("there are few texts")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Vectors at different angles.
    fn references(count: u16) -> References {
        let angle = |n: u16| std::f32::consts::FRAC_PI_2 * f32::from(n) / f32::from(count);
        References::new((0..count).map(|n| (format!("text {n}"), vec![angle(n).cos(), angle(n).sin()])))
    }

    #[test]
    fn texts_that_cannot_be_told_apart_are_one() {
        let twice = References::new(
            [("a", [1.0, 0.0]), ("b", [1.0, 0.0]), ("c", [0.0, 1.0])].map(|(t, v)| (t.into(), v.into())),
        );
        assert_eq!((twice.len(), twice.text(1), twice.place("b")), (2, "c", None));
    }

    proptest! {
        #[test]
        fn a_row_is_its_own_text_or_none(place in 0u32..20, off in -0.0009f32..0.0009, far in 0.01f32..0.05) {
            let references = references(20);
            let mut row = references.vectors[place as usize].clone();
            row[0] += off;
            prop_assert_eq!(references.identify(&row), Some(place));
            row[0] += far;
            prop_assert_eq!(references.identify(&row), None);
        }

        #[test]
        fn no_two_jobs_begin_with_the_same_texts(all in 3u16..30) {
            let references = references(all);
            let count = u64::from(all) * u64::from(all - 1);
            let keys: BTreeSet<_> = (0..count).map(|number| references.texts_of(number, 2)).collect();
            prop_assert_eq!(keys.len() as u64, count);
            prop_assert!(keys.iter().all(|key| key[0] != key[1]));
            prop_assert_eq!(references.texts_of(5, 16).len(), 16);
        }
    }
}
