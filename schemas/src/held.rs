//! Which jobs a worker holds: `data` of its endpoints in the answer to `$SRV.STATS`.

use serde::{Deserialize, Serialize};

use crate::Lane;

/// The jobs that a worker has taken and not ended, of one variant, by where they are in the model's stream of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Jobs, as first and last sequence of each run of them.
    #[serde(default)]
    pub job: Vec<(u64, u64)>,
    /// Chunks of backfills.
    #[serde(default)]
    pub bulk: Vec<(u64, u64)>,
}

impl Held {
    /// Sets what is held of a lane. Calls are held by nobody.
    pub fn set(&mut self, lane: Lane, sequences: Vec<u64>) {
        match lane {
            Lane::Rpc => {}
            Lane::Job => self.job = runs(sequences),
            Lane::Bulk => self.bulk = runs(sequences),
        }
    }

    /// Whether the message at this sequence is held.
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        self.job.iter().chain(&self.bulk).any(|(first, last)| (*first..=*last).contains(&sequence))
    }
}

/// Numbers as runs without gaps: most of what a worker holds follows one on another.
fn runs(mut numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if number - *last <= 1 => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_what_was_put_in(numbers in prop::collection::vec(0u64..40, 0..30), looked_for in 0u64..40) {
            let mut held = Held::default();
            held.set(Lane::Job, numbers.clone());
            prop_assert_eq!(held.contains(looked_for), numbers.contains(&looked_for));
            prop_assert!(held.job.windows(2).all(|two| two[0].1 + 1 < two[1].0));
        }
    }
}
