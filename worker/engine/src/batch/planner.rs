//! The planner: what to run next.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use embed_schemas::Lane;

use super::{
    cost_table::{CostTable, Measured},
    lane_queue::{Key, LaneQueue},
    plan::{Action, Batch, Entry, Reason, Step},
    policy::{Bounds, Policy, Situation},
    recent::Recent,
    turns::Owner,
};
use crate::{
    settings::BatchConfig,
    shape::{Form, Shape},
};

/// Decides what goes into the next batch. The same pushes, observations and clock give the same batches.
#[derive(Debug)]
pub struct Planner<T> {
    config: BatchConfig,
    policy: Policy,
    costs: CostTable,
    lanes: [LaneQueue<T>; 3],
    /// From arrival to vector, by lane.
    latency: [Recent; 3],
    /// Whether the last batch was an aged one. The next then goes by priority, so that a backlog of old work in one
    /// lane takes at most every other batch from the others.
    served_aged: bool,
    draining: bool,
    memory: MemoryBound,
    /// Calls that could have had all cores, and did not since the last one that had.
    not_spread: u32,
    /// While calls have engines of their own: the longest run of anything else while they come in.
    beside_calls: Option<Duration>,
}

/// What a batch may have after one for which there was too little memory. What took the memory may have been somebody else's, so the
/// bound grows again while runs succeed.
#[derive(Debug)]
struct MemoryBound {
    /// Most tokens of a batch in memory.
    tokens: usize,
    /// The least for which there was too little.
    failed: usize,
    /// When it was last changed.
    changed: Option<Instant>,
    /// After so long it grows.
    patience: Duration,
}

/// In a run beside all others, company may take this share of the longest run while calls come in.
const SHARE_OF_COMPANY: u32 = 4;

/// All cores compute one call if it then takes no more than this share of its time. They do nothing else meanwhile, and on a busy machine wait for each other.
const WORTH_ALL_CORES: f64 = 0.9;
/// One of so many calls has them even so: what that takes changes with what else the machine does, and is found out by doing it.
const TRY_AGAIN: u32 = 32;

/// A bound grows by a quarter after the first of these, and twice as late after each time that there was too little memory again.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);

impl MemoryBound {
    const NONE: Self = Self { tokens: usize::MAX, failed: usize::MAX, changed: None, patience: FIRST_PATIENCE };

    /// There was too little for a run with so many tokens.
    fn shrink(&mut self, now: Instant, tokens: usize) {
        if self.changed.is_some() {
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
        }
        self.failed = if self.failed == usize::MAX { tokens } else { self.failed.max(tokens) };
        self.tokens = self.tokens.min((tokens / 2).max(1));
        self.changed = Some(now);
    }

    /// A run succeeded. Returns the bound if it is another one now.
    fn grow(&mut self, now: Instant) -> Option<usize> {
        if now.saturating_duration_since(self.changed?) < self.patience {
            return None;
        }
        self.tokens = self.tokens.saturating_add((self.tokens / 4).max(1));
        self.changed = Some(now);
        if self.tokens > self.failed {
            // There was memory for as much as there once was not.
            *self = Self::NONE;
        }
        Some(self.tokens)
    }
}

impl<T> Planner<T> {
    /// An empty planner.
    #[must_use]
    pub fn new(config: &BatchConfig, costs: CostTable) -> Self {
        Self {
            config: config.clone(),
            policy: Policy::new(config),
            costs,
            lanes: [LaneQueue::new(), LaneQueue::new(), LaneQueue::new()],
            latency: [Recent::new(), Recent::new(), Recent::new()],
            served_aged: false,
            draining: false,
            memory: MemoryBound::NONE,
            not_spread: 0,
            beside_calls: None,
        }
    }

    /// From now on calls have engines of their own, which go before all others, or have none any more. Beside calls, other runs may be so long.
    pub const fn beside_calls(&mut self, longest: Option<Duration>) {
        self.beside_calls = longest;
    }

    /// Takes a text in.
    pub fn push(&mut self, entry: Entry<T>) {
        self.lanes[entry.lane.index()].push(entry);
    }

    /// Notes that a run which ended at `now` took so long, if that tells what such runs cost, with texts that had arrived at these moments.
    /// Returns the most tokens of a batch if that has grown again.
    pub fn ran(
        &mut self,
        now: Instant,
        run: Option<Measured>,
        texts: impl Iterator<Item = (Lane, Instant)>,
    ) -> Option<usize> {
        run.into_iter().for_each(|run| self.costs.record(run));
        for (lane, arrival) in texts {
            self.latency[lane.index()].record(now, now.saturating_duration_since(arrival));
        }
        self.memory.grow(now)
    }

    /// Notes that there was too little memory for a run: for now, none is more than half as large. Returns the tokens,
    /// padding included, that are the most.
    pub fn too_large(&mut self, now: Instant, run: &Shape) -> usize {
        self.memory.shrink(now, self.costs.tokens_in_memory(run.rows, run.width));
        self.memory.tokens
    }

    /// A batch of the first of these texts and those after it with the same number in [`Entry::alone`], and the texts whose
    /// deadline has passed.
    pub fn alone(&mut self, waiting: &mut VecDeque<Entry<T>>, now: Instant) -> (Vec<Entry<T>>, Option<Batch<T>>) {
        let most_tokens = self.config.max_tokens.min(self.memory.tokens);
        // Nothing runs beside it, so whoever calls meanwhile waits for its end.
        let lane = waiting.front().map_or(Lane::Job, |entry| entry.lane);
        let longest = self.policy.bounds(&self.situation(lane, now)).time;
        let longest = longest.map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e6);
        let (mut expired, mut entries, mut width) = (Vec::new(), Vec::new(), 0);
        while let Some(entry) = waiting.pop_front() {
            if entry.has_expired(now) {
                expired.push(entry);
                continue;
            }
            let wider = width.max(entry.length);
            if entries.first().is_some_and(|first: &Entry<T>| {
                first.alone != entry.alone
                    || entries.len() >= self.config.max_texts
                    || (entries.len() + 1) * wider > most_tokens
                    || self.costs.micros(&Shape::full(entries.len() + 1, wider)) > longest
            }) {
                waiting.push_front(entry);
                break;
            }
            width = wider;
            entries.push(entry);
        }
        let batch = (!entries.is_empty()).then(|| self.batch(entries, Reason::Alone));
        (expired, batch)
    }

    /// Whether all cores are to compute this batch, of those that [`Planner::next`] gave, while nothing else is being computed: if it is a call whose time is
    /// not compared with that of others, nothing else waits, and they are done sooner. Then it is laid out for that, and how long it takes is given back.
    pub fn spread(&mut self, batch: &mut Batch<T>) -> Option<Duration> {
        if !self.is_empty() || !batch.entries.iter().all(|entry| entry.lane == Lane::Rpc && !entry.compared) {
            return None;
        }
        let shape = Shape::of(batch.entries.iter().map(|entry| entry.length));
        let ratio = self.costs.spread_ratio(&shape)?;
        if ratio > WORTH_ALL_CORES && self.not_spread < TRY_AGAIN {
            self.not_spread += 1;
            return None;
        }
        self.not_spread = 0;
        batch.form = Form::Spread;
        Some(Duration::try_from_secs_f64(self.costs.micros(&shape) * ratio / 1e6).unwrap_or_default())
    }

    fn batch(&self, mut entries: Vec<Entry<T>>, reason: Reason) -> Batch<T> {
        entries.sort_by_key(|entry| entry.length);
        let shape = Shape::of(entries.iter().map(|entry| entry.length));
        let form = self.costs.cheapest(&shape).0;
        Batch { entries, width: shape.width, form, reason }
    }

    /// Takes everything out.
    pub fn take_all(&mut self) -> Vec<Entry<T>> {
        self.lanes.iter_mut().flat_map(LaneQueue::take_all).collect()
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

    /// What a free engine is to do at `now`. `others` is the number of other devices, or cores, that are free: what waits
    /// is shared with them.
    pub fn next(&mut self, now: Instant, others: usize) -> Step<T> {
        self.next_of(now, others, true)
    }

    /// The same of an engine that leaves calls to others.
    pub fn next_stored(&mut self, now: Instant, others: usize) -> Step<T> {
        self.next_of(now, others, false)
    }

    fn next_of(&mut self, now: Instant, others: usize, calls: bool) -> Step<T> {
        let mut expired = Vec::new();
        loop {
            let (lane, reason) = match self.choose_lane(now, calls) {
                Ok(chosen) => chosen,
                Err(action) => return Step { expired, action },
            };
            let entries = self.gather(lane, reason, now, others, &mut expired);
            // All that was gathered may have expired: then choose again.
            if !entries.is_empty() {
                self.served_aged = reason == Reason::Aged;
                return Step { expired, action: Action::Run(self.batch(entries, reason)) };
            }
        }
    }

    /// What an engine is to do that takes calls alone. So many others of its kind are free.
    pub fn next_call(&mut self, now: Instant, others: usize) -> Step<T> {
        let mut expired = Vec::new();
        while self.len(Lane::Rpc) > 0 {
            let entries = self.gather(Lane::Rpc, Reason::Online, now, others, &mut expired);
            if !entries.is_empty() {
                return Step { expired, action: Action::Run(self.batch(entries, Reason::Online)) };
            }
        }
        Step { expired, action: Action::Idle }
    }

    /// The lane to serve now, or what to do if there is none.
    fn choose_lane(&mut self, now: Instant, calls: bool) -> Result<(Lane, Reason), Action<T>> {
        let max_age = [None, Some(self.config.job_max_age), Some(self.config.bulk_max_age)];
        if !self.served_aged {
            // The lowest lanes first: they are the ones that starve.
            for lane in Lane::ALL.into_iter().rev() {
                if let (Some(arrival), Some(age)) = (self.oldest_arrival(lane), max_age[lane.index()])
                    && now >= arrival + age
                {
                    return Ok((lane, Reason::Aged));
                }
            }
        }
        let mut ask_again = None;
        for lane in Lane::ALL.into_iter().filter(|lane| calls || *lane != Lane::Rpc) {
            let Some(arrival) = self.oldest_arrival(lane) else { continue };
            if lane == Lane::Rpc && self.policy.online_at_once() {
                return Ok((lane, Reason::Online));
            }
            let situation = self.situation(lane, now);
            if situation.lane_depth >= self.policy.bounds(&situation).texts {
                return Ok((lane, Reason::Full));
            }
            if self.draining {
                return Ok((lane, Reason::Draining));
            }
            let until = arrival + self.wait(&situation);
            if now >= until {
                return Ok((lane, Reason::Waited));
            }
            ask_again = Some(ask_again.map_or(until, |other: Instant| other.min(until)));
        }
        Err(ask_again.map_or(Action::Idle, Action::WaitUntil))
    }

    /// How long the oldest text of a lane waits for company. A backfill's texts wait no longer than it takes to compute what waits: as much would be lost by
    /// waiting as could be gained at most.
    fn wait(&self, situation: &Situation) -> Duration {
        let wait = self.policy.wait(situation);
        if situation.lane != Lane::Bulk || !self.policy.online_at_once() {
            return wait;
        }
        let (texts, tokens) = (situation.lane_depth, self.lanes[situation.lane.index()].tokens());
        let micros = self.costs.micros(&Shape::full(texts, tokens.div_ceil(texts.max(1))));
        wait.min(Duration::try_from_secs_f64(micros / 1e6).unwrap_or(wait))
    }

    fn situation(&self, lane: Lane, now: Instant) -> Situation {
        let last_call = self.lanes[Lane::Rpc.index()].last_arrival();
        let p95 = |lane: Lane| self.latency[lane.index()].p95(now);
        Situation {
            lane,
            depth: self.lanes.iter().map(LaneQueue::len).sum(),
            lane_depth: self.len(lane),
            online: last_call.is_some_and(|last| now.saturating_duration_since(last) < self.config.online_memory),
            arrivals_per_second: self.lanes[lane.index()].arrivals_per_second(now),
            p95: p95(Lane::Rpc).or_else(|| p95(Lane::Job)),
        }
    }

    /// Takes the texts of the next batch out of the lane. Expired ones are set aside.
    fn gather(
        &mut self,
        lane: Lane,
        reason: Reason,
        now: Instant,
        others: usize,
        expired: &mut Vec<Entry<T>>,
    ) -> Vec<Entry<T>> {
        let situation = self.situation(lane, now);
        let mut bounds = self.policy.bounds(&situation);
        bounds.tokens = bounds.tokens.min(self.memory.tokens);
        if let (Some(time), Some(longest)) = (&mut bounds.time, self.beside_calls)
            && (situation.online && lane != Lane::Rpc)
        {
            // Calls do not wait for its end.
            *time = longest.min(self.config.longest_run);
        }
        let queue = &mut self.lanes[lane.index()];
        // Two halves side by side are done sooner than one whole.
        bounds.texts = bounds.texts.min(queue.len().div_ceil(others + 1));
        let keys = if bounds.by_arrival {
            queue.first(bounds.texts)
        } else {
            // Whoever waits for a call is not to wait for somebody else's as well; of stored texts, as many as possible are to be done.
            let in_turn = lane == Lane::Rpc;
            // What has waited too long goes first whoever's turn it is, or many small jobs would keep a large one waiting for ever.
            let next = if reason == Reason::Aged { queue.oldest() } else { queue.next() };
            next.map_or_else(Vec::new, |next| queue.best_run(next, in_turn, &bounds, &self.costs))
        };
        self.take(lane, keys, now, expired)
    }

    /// What one engine more than there is room for is to do at `now`, while all others are at work: a short run for a caller who has
    /// nothing in any of them. So nobody waits for the end of somebody else's run that takes longer than its own. `excluded` tells who has.
    pub fn beside(&mut self, now: Instant, excluded: impl Fn(Owner) -> bool) -> Step<T> {
        let mut expired = Vec::new();
        while self.policy.online_at_once() {
            let (queue, costs, longest) = (&mut self.lanes[Lane::Rpc.index()], &self.costs, self.config.online_run);
            let is_short = |length| costs.micros(&Shape::full(1, length)) <= longest.as_secs_f64() * 1e6;
            let Some(next) = queue.next_of(|owner, length| !excluded(owner) && is_short(length)) else { break };
            let time = Some(longest / SHARE_OF_COMPANY);
            let tokens = self.config.max_tokens.min(self.memory.tokens);
            let bounds = Bounds { texts: self.config.max_texts, tokens, time, by_arrival: false };
            let keys = queue.best_run(next, true, &bounds, costs);
            let entries = self.take(Lane::Rpc, keys, now, &mut expired);
            if !entries.is_empty() {
                return Step { expired, action: Action::Run(self.batch(entries, Reason::Online)) };
            }
        }
        Step { expired, action: Action::Idle }
    }

    /// Takes texts out of a lane. Expired ones are set aside.
    fn take(&mut self, lane: Lane, keys: Vec<Key>, now: Instant, expired: &mut Vec<Entry<T>>) -> Vec<Entry<T>> {
        let queue = &mut self.lanes[lane.index()];
        let mut batch = Vec::with_capacity(keys.len());
        for entry in keys.into_iter().filter_map(|key| queue.take(key, now)) {
            if entry.has_expired(now) {
                expired.push(entry);
            } else {
                batch.push(entry);
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests;
