//! The planner as a backfill feeds it: a window of texts waits, and whatever is taken is replaced.

use std::time::Instant;

use embed_engine::{
    batch::{Action, Batch, CostTable, Entry, Measured, Owner, Planner},
    settings::BatchConfig,
    shape::Form,
};
use embed_schemas::{Lane, MAX_TEXTS};

use super::batches::Group;

/// Texts on their way through a planner, known by their positions.
#[derive(Debug)]
pub(super) struct Feed {
    planner: Planner<usize>,
    /// Texts that wait at a time, as `limits.bulk_texts` says.
    window: usize,
    rest: std::iter::Enumerate<std::vec::IntoIter<usize>>,
}

impl Feed {
    /// Texts of these lengths, in the order in which they arrive.
    pub(super) fn new(config: &BatchConfig, costs: CostTable, window: usize, lengths: Vec<usize>) -> Self {
        Self { planner: Planner::new(config, costs), window, rest: lengths.into_iter().enumerate() }
    }

    /// Notes what a run took, as the worker does.
    pub(super) fn ran(&mut self, run: Measured) {
        self.planner.ran(Instant::now(), Some(run), std::iter::empty());
    }

    /// Fills the window and takes a batch. `None` once all texts are taken.
    pub(super) fn take(&mut self) -> Option<(Group, Form)> {
        let now = Instant::now();
        while self.planner.len(Lane::Bulk) < self.window {
            match self.rest.next() {
                Some((text, length)) => self.planner.push(entry(text, length, now)),
                None => {
                    self.planner.drain();
                    break;
                }
            }
        }
        let batch = next(&mut self.planner, now)?;
        Some((batch.entries.into_iter().map(|entry| entry.payload).collect(), batch.form))
    }
}

/// A text of a backfill.
pub(super) const fn entry(text: usize, length: usize, arrival: Instant) -> Entry<usize> {
    let request = (text / MAX_TEXTS) as u64;
    let owner = Owner { sender: request, request, newcomer: false };
    Entry {
        lane: Lane::Bulk,
        length,
        arrival,
        deadline: None,
        owner,
        alone: None,
        compared: false,
        probe: false,
        payload: text,
    }
}

/// The planner's next batch, at once: where it would wait for company, it is told that the time has come.
pub(super) fn next(planner: &mut Planner<usize>, mut now: Instant) -> Option<Batch<usize>> {
    loop {
        match planner.next(now, 0).action {
            Action::Run(batch) => return Some(batch),
            Action::WaitUntil(when) => now = when,
            Action::Idle => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use embed_engine::settings::BatchPolicy;

    use super::*;

    #[test]
    fn every_text_is_taken_once() {
        let lengths: Vec<usize> = (0..3000).map(|i| 3 + i * 7 % 200).collect();
        let mut feed = Feed::new(&BatchConfig::default(), CostTable::default(), 1024, lengths.clone());
        let mut all: Vec<usize> = std::iter::from_fn(|| feed.take()).flat_map(|(group, _)| group).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..lengths.len()));
    }

    #[test]
    fn it_does_not_wait_for_company() {
        let config = BatchConfig { policy: BatchPolicy::Fixed, ..BatchConfig::default() };
        let now = Instant::now();
        let mut planner = Planner::new(&config, CostTable::default());
        assert!(next(&mut planner, now).is_none());
        planner.push(entry(0, 5, now));
        assert_eq!(next(&mut planner, now).unwrap().entries.len(), 1);
    }
}
