//! The texts of one lane that wait for a batch: by arrival, by length, and by whose turn it is.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    time::{Duration, Instant},
};

use super::{
    cost_table::CostTable,
    plan::Entry,
    policy::Bounds,
    turns::{Owner, Turns},
};
use crate::shape::Shape;

/// Averages over arrivals follow the last few hundred milliseconds.
const ARRIVALS_OVER: Duration = Duration::from_millis(200);
/// Texts that are passed over for one run, since it is not their turn.
const MOST_PASSED_OVER: usize = 256;
/// Requests that are looked at for one that may run beside all others.
const MOST_LOOKED_AT: usize = 16;

/// Arrival order, length order and turns over the same entries. Every operation is O(log n) in the number of waiting texts.
#[derive(Debug)]
pub(super) struct LaneQueue<T> {
    /// Keys in order of arrival. Keys of entries that were taken by length are skipped when they come to the front.
    arrivals: VecDeque<Key>,
    by_length: BTreeMap<Key, Entry<T>>,
    turns: Turns<Key>,
    next_sequence: u64,
    /// Arrivals lately, decaying.
    recent: f64,
    last_arrival: Option<Instant>,
    /// Of all that wait.
    tokens: usize,
}

/// Length first, so that neighbours in the map are the closest in length; then arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) length: usize,
    sequence: u64,
}

impl<T> LaneQueue<T> {
    pub(super) fn new() -> Self {
        Self {
            arrivals: VecDeque::new(),
            by_length: BTreeMap::new(),
            turns: Turns::new(),
            next_sequence: 0,
            recent: 0.0,
            last_arrival: None,
            tokens: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_length.len()
    }

    pub(super) fn push(&mut self, entry: Entry<T>) {
        if !entry.probe {
            self.recent = self.decayed(entry.arrival) + 1.0;
            self.last_arrival = Some(entry.arrival);
        }
        let key = Key { length: entry.length, sequence: self.next_sequence };
        self.next_sequence += 1;
        self.arrivals.push_back(key);
        self.tokens += entry.length;
        self.turns.push(entry.owner, key, entry.length);
        self.by_length.insert(key, entry);
    }

    /// Tokens of all that wait.
    pub(super) const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Since when nothing has arrived from anybody.
    pub(super) const fn last_arrival(&self) -> Option<Instant> {
        self.last_arrival
    }

    /// How many arrive in a second, lately.
    pub(super) fn arrivals_per_second(&self, now: Instant) -> u64 {
        (self.decayed(now) / ARRIVALS_OVER.as_secs_f64()) as u64
    }

    fn decayed(&self, now: Instant) -> f64 {
        let since = self.last_arrival.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        self.recent * (-since.as_secs_f64() / ARRIVALS_OVER.as_secs_f64()).exp()
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

    /// Takes a text out. One whose deadline has passed has not been served.
    pub(super) fn take(&mut self, key: Key, now: Instant) -> Option<Entry<T>> {
        let entry = self.by_length.remove(&key)?;
        self.tokens -= entry.length;
        self.turns.take(entry.owner, entry.length, !entry.has_expired(now));
        Some(entry)
    }

    /// The text whose turn it is.
    pub(super) fn next(&mut self) -> Option<Key> {
        let Self { by_length, turns, .. } = self;
        turns.first(|key| by_length.contains_key(key)).next()
    }

    /// Of the texts whose turn comes next, the first whose owner is as wanted.
    pub(super) fn next_of(&mut self, wanted: impl Fn(Owner, usize) -> bool) -> Option<Key> {
        let Self { by_length, turns, .. } = self;
        let is_wanted = |key: &Key| by_length.get(key).is_some_and(|entry| wanted(entry.owner, entry.length));
        turns.first(|key| by_length.contains_key(key)).take(MOST_LOOKED_AT).find(is_wanted)
    }

    /// Takes everything out.
    pub(super) fn take_all(&mut self) -> Vec<Entry<T>> {
        self.arrivals.clear();
        self.turns.clear();
        self.tokens = 0;
        std::mem::take(&mut self.by_length).into_values().collect()
    }

    /// The first texts, in order of arrival.
    pub(super) fn first(&mut self, count: usize) -> Vec<Key> {
        if self.oldest().is_none() {
            return Vec::new();
        }
        self.arrivals.iter().filter(|key| self.by_length.contains_key(key)).take(count).copied().collect()
    }

    /// A text and those closest to it in length, as many as make the run worth most. `in_turn`: only those whose turn it is at about the
    /// same time, since the others would make whoever has its turn wait for what it does not need.
    ///
    /// Texts join in order of their distance in length. Of all the runs that arise that way within the bounds, the one
    /// is taken that gets the most real tokens through in a microsecond; a larger one must be worth `GAIN` more, since
    /// whoever comes next waits for it.
    pub(super) fn best_run(&self, anchor: Key, in_turn: bool, bounds: &Bounds, costs: &CostTable) -> Vec<Key> {
        const GAIN: f64 = 1.002;
        let longest = bounds.time.map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e6);
        let rides = self.rides_with(anchor, in_turn);
        // Shorter (or equally long, earlier) and longer (or equally long, later) texts, the closest first.
        let mut below = self.by_length.range(..anchor).rev().map_while(rides.clone()).flatten().peekable();
        let mut above = self.by_length.range((Excluded(anchor), Unbounded)).map_while(rides).flatten().peekable();
        let mut keys = vec![anchor];
        let mut shape = Shape::full(1, anchor.length);
        let mut best = (1, shape.tokens as f64 / costs.micros(&shape));
        // The run with this text as well, and what it costs.
        let fit = |shape: &Shape, key: Key| {
            let shape = shape.with(key.length);
            if shape.rows > bounds.texts || costs.tokens_in_memory(shape.rows, shape.width) > bounds.tokens {
                return None;
            }
            let micros = costs.micros(&shape);
            (micros <= longest).then_some((key, shape, micros))
        };
        loop {
            let (shorter, longer) = (below.peek().copied(), above.peek().copied());
            // The nearest first; the other one only if that does not fit.
            let (near, far) = match (shorter, longer) {
                (Some(shorter), Some(longer)) if anchor.length - shorter.length > longer.length - anchor.length => {
                    (Some(longer), Some(shorter))
                }
                (Some(shorter), longer) => (Some(shorter), longer),
                (None, longer) => (longer, None),
            };
            let next = near.and_then(|key| fit(&shape, key)).or_else(|| fit(&shape, far?));
            let Some((key, grown, micros)) = next else { break };
            if key < anchor {
                below.next()
            } else {
                above.next()
            };
            keys.push(key);
            shape = grown;
            let rate = shape.tokens as f64 / micros;
            if rate > best.1 * GAIN {
                best = (shape.rows, rate);
            }
        }
        keys.truncate(best.0);
        keys
    }

    /// Tells which texts may ride with this one, and after how many of the others it is not looked any further.
    fn rides_with<'a>(
        &'a self,
        anchor: Key,
        in_turn: bool,
    ) -> impl FnMut((&'a Key, &'a Entry<T>)) -> Option<Option<Key>> + Clone {
        let owner = self.by_length.get(&anchor).map(|entry| entry.owner);
        let owner = owner.filter(|owner| in_turn && self.turns.others(owner.sender));
        let until = owner.map_or(u64::MAX, |owner| self.turns.with(owner));
        let mut passed_over = 0;
        move |(key, entry)| {
            let is_theirs = owner.is_none_or(|owner| entry.owner.sender == owner.sender);
            if is_theirs || self.turns.tag(entry.owner) <= until {
                return Some(Some(*key));
            }
            passed_over += 1;
            (passed_over <= MOST_PASSED_OVER).then_some(None)
        }
    }
}
