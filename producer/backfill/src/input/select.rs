//! Which rows of a file are taken, as far as that can be told without reading them: by where they stand, and nothing else, so that they are
//! the same ones after a resume and on other machines.

use sha2::{Digest, Sha256};

use super::options::{MILLION, Reading, Sample, Shard};

/// Lines that belong to one shard together.
const LINES: u64 = 1_000;

/// Which rows of a file are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selection {
    file: u64,
    /// Stands for the file's name.
    name: u64,
    sample: Option<Sample>,
    shard: Option<Shard>,
}

impl Selection {
    /// Of the file with a number.
    pub(super) fn of(reading: &Reading, file: usize, location: &str) -> Self {
        let digest = Sha256::digest(location);
        let name = digest.iter().take(8).fold(0, |name, byte| name << 8 | u64::from(*byte));
        Self { file: file as u64, name, sample: reading.sample, shard: reading.shard }
    }

    /// Whether this shard has a group of rows of the file, by its number. They go round, so that many small files are shared evenly, too.
    pub(super) fn takes_group(&self, group: u64) -> bool {
        self.shard.is_none_or(|Shard { index, count }| (self.file + group) % u64::from(count) == u64::from(index) - 1)
    }

    /// Whether a row whose group is taken is in the sample; counted from 1.
    pub(super) fn takes_row(&self, line: u64) -> bool {
        self.sample.is_none_or(|Sample { per_million, seed }| {
            mixed(mixed(self.name ^ mixed(seed)) ^ line) % u64::from(MILLION) < u64::from(per_million)
        })
    }

    /// Whether a line is taken, counted from 1.
    pub(super) fn takes_line(&self, line: u64) -> bool {
        self.takes_group(line.saturating_sub(1) / LINES) && self.takes_row(line)
    }
}

/// The last steps of splitmix64: every bit of the result depends on every bit of the number.
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shards_have_all_lines_once(count in 1u32..20, file in 0usize..50, line in 1u64..100_000) {
            let takers = (1..=count).filter(|&index| {
                let reading = Reading { shard: Some(Shard { index, count }), ..Reading::default() };
                Selection::of(&reading, file, "f").takes_line(line)
            });
            prop_assert_eq!(takers.count(), 1);
        }
    }

    #[test]
    fn a_sample_has_its_share_and_is_always_the_same() {
        let sample = |seed, name| {
            let reading = Reading { sample: Some(Sample { per_million: 100_000, seed }), ..Reading::default() };
            let selection = Selection::of(&reading, 3, name);
            (1..=20_000).filter(|line| selection.takes_line(*line)).collect::<Vec<u64>>()
        };
        let one = sample(0, "a");
        // Five standard deviations.
        assert!((1_790..=2_210).contains(&one.len()), "{}", one.len());
        assert_eq!(one[..3], sample(0, "a")[..3]);
        assert_ne!(one, sample(1, "a"));
        assert_ne!(one, sample(0, "b"));
    }
}
