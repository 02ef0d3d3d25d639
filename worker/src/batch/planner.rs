//! The planner: what to run next.

use std::time::{Duration, Instant};

use embed_schemas::Lane;

use super::lane_queue::{Key, LaneQueue};
use crate::config::BatchConfig;

/// A text that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Where it came from.
    pub lane: Lane,
    /// Its tokens.
    pub length: usize,
    /// When it began to wait.
    pub arrival: Instant,
    /// After this moment nobody needs it.
    pub deadline: Option<Instant>,
    /// Whatever the caller wants back.
    pub payload: T,
}

/// What the planner goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Most texts in a batch.
    pub max_texts: usize,
    /// Most tokens in a batch, padding included; a single text may exceed it.
    pub max_tokens: usize,
    /// How long stored lanes wait for company, from the oldest arrival on.
    pub max_wait: Duration,
    /// By lane: an entry older than this is served before higher lanes. `None`: never.
    pub max_age: [Option<Duration>; 3],
}

/// A text joins a batch only if at least this share of its tokens stays real: below it, running the shorter texts on
/// their own is cheaper than padding them. Measured on the CPU, where small batches cost hardly more per token.
const LEAST_REAL_SHARE: (usize, usize) = (3, 4);

/// Below this width a run costs about the same whatever its width, so all lengths may ride together.
const SHORT: usize = 16;

/// Texts to run together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// The texts, longest last.
    pub entries: Vec<Entry<T>>,
    /// Tokens of the longest text: the width of the padded batch.
    pub width: usize,
    /// Why it starts now.
    pub reason: Reason,
}

/// Why a batch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An online call is there.
    Online,
    /// It is as large as it may be.
    Full,
    /// Its oldest text has waited long enough.
    Waited,
    /// Its oldest text has waited longer than its lane allows.
    Aged,
    /// The queue is being emptied.
    Draining,
}

impl Reason {
    /// The value of the metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Full => "full",
            Self::Waited => "waited",
            Self::Aged => "aged",
            Self::Draining => "draining",
        }
    }
}

/// What a free engine is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<T> {
    /// Run this.
    Run(Batch<T>),
    /// Ask again at this moment, or when something arrives.
    WaitUntil(Instant),
    /// Ask again when something arrives.
    Idle,
}

/// The planner's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<T> {
    /// Texts whose deadline has passed: they are out of the queue and were not run.
    pub expired: Vec<Entry<T>>,
    /// What to do.
    pub action: Action<T>,
}

/// Decides what goes into the next batch. The same pushes and the same clock give the same batches.
#[derive(Debug)]
pub struct Planner<T> {
    policy: Policy,
    lanes: [LaneQueue<T>; 3],
    /// Whether the last batch was an aged one. The next then goes by priority, so that a backlog of old work in one
    /// lane takes at most every other batch from the others.
    served_aged: bool,
    draining: bool,
}

impl<T> Planner<T> {
    /// An empty planner.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            lanes: [LaneQueue::new(), LaneQueue::new(), LaneQueue::new()],
            served_aged: false,
            draining: false,
        }
    }

    /// Takes a text in.
    pub fn push(&mut self, entry: Entry<T>) {
        self.lanes[entry.lane.index()].push(entry);
    }

    /// From now on nothing waits for company.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Texts that wait in this lane.
    #[must_use]
    pub fn len(&self, lane: Lane) -> usize {
        self.lanes[lane.index()].len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.len() == 0)
    }

    /// Since when the oldest text of this lane waits.
    pub fn oldest_arrival(&mut self, lane: Lane) -> Option<Instant> {
        self.lanes[lane.index()].oldest_arrival()
    }

    /// What a free engine is to do at `now`.
    pub fn next(&mut self, now: Instant) -> Step<T> {
        let mut expired = Vec::new();
        loop {
            let Some((lane, reason)) = self.choose_lane(now) else {
                return Step { expired, action: self.when_to_ask_again() };
            };
            let entries = self.gather(lane, now, &mut expired);
            // All that was gathered may have expired: then choose again.
            if let Some(width) = entries.iter().map(|entry| entry.length).max() {
                self.served_aged = reason == Reason::Aged;
                return Step { expired, action: Action::Run(Batch { entries, width, reason }) };
            }
        }
    }

    /// The lane to serve now, if any.
    fn choose_lane(&mut self, now: Instant) -> Option<(Lane, Reason)> {
        if !self.served_aged {
            // The lowest lanes first: they are the ones that starve.
            for lane in Lane::ALL.into_iter().rev() {
                if let (Some(arrival), Some(age)) = (self.oldest_arrival(lane), self.policy.max_age[lane.index()])
                    && now >= arrival + age
                {
                    return Some((lane, Reason::Aged));
                }
            }
        }
        if self.len(Lane::Rpc) > 0 {
            return Some((Lane::Rpc, Reason::Online));
        }
        for lane in Lane::STORED {
            let Some(arrival) = self.oldest_arrival(lane) else { continue };
            if self.len(lane) >= self.policy.max_texts {
                return Some((lane, Reason::Full));
            }
            if self.draining {
                return Some((lane, Reason::Draining));
            }
            if now >= arrival + self.policy.max_wait {
                return Some((lane, Reason::Waited));
            }
        }
        None
    }

    fn when_to_ask_again(&mut self) -> Action<T> {
        let wait = self.policy.max_wait;
        let earliest = Lane::STORED.into_iter().filter_map(|lane| self.oldest_arrival(lane)).min();
        earliest.map_or(Action::Idle, |arrival| Action::WaitUntil(arrival + wait))
    }

    /// The oldest text of the lane and those closest to it in length, within the budgets. Expired ones are set aside.
    fn gather(&mut self, lane: Lane, now: Instant, expired: &mut Vec<Entry<T>>) -> Vec<Entry<T>> {
        let mut batch = Vec::new();
        let queue = &mut self.lanes[lane.index()];
        let Some(anchor) = queue.oldest() else { return batch };
        let (mut texts, mut tokens) = (0, 0);
        let mut take = |key: Key, queue: &mut LaneQueue<T>, texts: &mut usize, tokens: &mut usize| {
            let Some(entry) = queue.take(key) else { return };
            if entry.deadline.is_some_and(|deadline| now >= deadline) {
                expired.push(entry);
                return;
            }
            *texts += 1;
            *tokens += entry.length;
            batch.push(entry);
        };
        take(anchor, queue, &mut texts, &mut tokens);
        let (mut low, mut high) = (anchor, anchor);
        let fits = |texts: usize, tokens: usize, shortest: usize, width: usize| {
            let padded = (texts + 1) * width;
            texts == 0
                || texts < self.policy.max_texts
                    && padded <= self.policy.max_tokens
                    && tokens * LEAST_REAL_SHARE.1 >= padded * LEAST_REAL_SHARE.0
                    && (shortest * 2 >= width || width <= SHORT)
        };
        loop {
            let (shorter, longer) = queue.neighbours(low, high);
            let shorter = shorter.filter(|key| fits(texts, tokens + key.length, key.length, high.length));
            let longer = longer.filter(|key| fits(texts, tokens + key.length, low.length, key.length));
            let next =
                match (shorter, longer) {
                    (Some(shorter), Some(longer)) => {
                        if anchor.length - shorter.length <= longer.length - anchor.length { shorter } else { longer }
                    }
                    (Some(key), None) | (None, Some(key)) => key,
                    (None, None) => break,
                };
            if next < low {
                low = next;
            } else {
                high = next;
            }
            take(next, queue, &mut texts, &mut tokens);
        }
        batch.sort_by_key(|entry| entry.length);
        batch
    }
}

impl From<&BatchConfig> for Policy {
    fn from(config: &BatchConfig) -> Self {
        Self {
            max_texts: config.max_texts,
            max_tokens: config.max_tokens,
            max_wait: config.max_wait,
            max_age: [None, Some(config.job_max_age), Some(config.bulk_max_age)],
        }
    }
}

#[cfg(test)]
mod tests;
