//! The texts of one lane that wait for a batch: by arrival, and by length.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    time::Instant,
};

use super::Entry;

/// Arrival order and length order over the same entries. Every operation is O(log n) in the number of waiting texts.
#[derive(Debug)]
pub(super) struct LaneQueue<T> {
    /// Keys in order of arrival. Keys of entries that were taken by length are skipped when they come to the front.
    arrivals: VecDeque<Key>,
    by_length: BTreeMap<Key, Entry<T>>,
    next_sequence: u64,
}

/// Length first, so that neighbours in the map are the closest in length; then arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) length: usize,
    sequence: u64,
}

impl<T> LaneQueue<T> {
    pub(super) const fn new() -> Self {
        Self { arrivals: VecDeque::new(), by_length: BTreeMap::new(), next_sequence: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.by_length.len()
    }

    pub(super) fn push(&mut self, entry: Entry<T>) {
        let key = Key { length: entry.length, sequence: self.next_sequence };
        self.next_sequence += 1;
        self.arrivals.push_back(key);
        self.by_length.insert(key, entry);
    }

    /// The key of the entry that has waited longest.
    pub(super) fn oldest(&mut self) -> Option<Key> {
        while let Some(key) = self.arrivals.front() {
            if self.by_length.contains_key(key) {
                return Some(*key);
            }
            self.arrivals.pop_front();
        }
        None
    }

    /// When the entry that has waited longest arrived.
    pub(super) fn oldest_arrival(&mut self) -> Option<Instant> {
        let key = self.oldest()?;
        Some(self.by_length[&key].arrival)
    }

    pub(super) fn take(&mut self, key: Key) -> Option<Entry<T>> {
        self.by_length.remove(&key)
    }

    /// The next shorter (or equally long, earlier) and the next longer (or equally long, later) entry.
    pub(super) fn neighbours(&self, low: Key, high: Key) -> (Option<Key>, Option<Key>) {
        (
            self.by_length.range(..low).next_back().map(|(key, _)| *key),
            self.by_length.range((Excluded(high), Unbounded)).next().map(|(key, _)| *key),
        )
    }
}
