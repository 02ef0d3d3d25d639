//! A simulated step as a controller sees it: through reports of several workers, some of them late, with clocks that are off, and with
//! work that had been waiting before the step began.

use std::time::Duration;

use embed_schemas::{Earlier, ErrorCode, Lane, VariantStats, WindowCounts};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::{Run, Scenario, Source};
use crate::{
    Check, Collector, Config, Decision, Evidence, Moved, Rollout, Rule,
    follow::{Follower, LATE_MS},
    record::StageRecord,
    state::{Start, Versions},
};

/// Workers of each arm.
const WORKERS: usize = 3;
/// When the simulated step begins, a whole number of windows.
const BEGIN_MS: u64 = 1_000_000_000;
/// Requests that were waiting are slower by this factor, and so many of them fail: that is why they were waiting.
const WAITED: (u64, f64) = (8, 0.2);

/// What makes evidence hard to read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Disturbance {
    /// How long each arm, baseline and candidate, works on what had been waiting before the step, as fast as on what is new.
    pub backlog: [Duration; 2],
    /// Share of the reports that come up to a minute late.
    pub late: f64,
    /// How far workers' clocks are off at most, to either side.
    pub clock: Duration,
    /// Everything that is reported counts, for the window that it is said to be of, if it comes within two seconds: to compare with.
    pub naive: bool,
}

impl Scenario {
    /// As [`Scenario::run`], with such a disturbance.
    ///
    /// # Panics
    /// Never: what is simulated is a rollout that makes sense.
    #[must_use]
    pub fn run_disturbed(&self, rule: &Rule, disturbance: &Disturbance, seed: u64) -> Run {
        let plan = &rule.config().plan;
        let mut world = World::new(self, rule.config(), *disturbance, seed);
        let windows = plan.windows();
        let mut look = 1;
        for judged in 0..windows {
            let evidence = world.evidence(judged);
            let due = judged + 1 >= plan.windows_at(look);
            let check = if due { Check::Look(look) } else { Check::Window };
            look += u32::from(due);
            let verdict = rule.verdict(&evidence, check, seed);
            if verdict.decision != Decision::Hold || judged + 1 == windows {
                return Run { verdict, windows: judged as usize + 1 };
            }
        }
        unreachable!("a plan has windows")
    }
}

/// Workers, the stream of their reports, and a controller that reads it.
struct World {
    source: Source,
    evidence: Evidence,
    disturbance: Disturbance,
    rollout: Rollout,
    follower: Follower,
    naive: Collector,
    /// Reports that are under way, with the time at which the server will have them.
    under_way: Vec<(u64, VariantStats)>,
    /// How far each worker's clock is off, in milliseconds; baseline's first.
    clocks: [[i64; WORKERS]; 2],
    length: u64,
    now_ms: u64,
    rng: Pcg64,
}

impl World {
    fn new(scenario: &Scenario, config: &Config, disturbance: Disturbance, seed: u64) -> Self {
        let mut config = config.clone();
        config.plan.steps = vec![scenario.candidate_percent.round()];
        let source = Source::new(scenario, &config.plan, seed);
        let evidence = source.empty();
        let start = Start {
            id: "simulated".into(),
            model: "m".parse().expect("a slug"),
            from: evidence.baseline.variant.clone(),
            to: evidence.candidate.variant.clone(),
            lanes: vec![Lane::Job],
            config,
            who: "simulation".into(),
            note: None,
        };
        let mut rollout = Rollout::begin(start, 0).expect("a configuration that is in use");
        rollout.checked("", 0, 0);
        rollout.moved(Moved { from_ms: BEGIN_MS, route_revision: 0, stats_after: 0, versions: Versions::default() }, 0);
        let stage = rollout.stage().expect("a stage").clone();
        let record = StageRecord { stage, windows: Vec::new(), late: Vec::new(), verdicts: Vec::new() };
        let mut rng = Pcg64::seed_from_u64(seed ^ 0x51_7e_a5);
        let off = disturbance.clock.as_millis() as i64;
        let clocks = [(); 2].map(|()| [(); WORKERS].map(|()| if off > 0 { rng.random_range(-off..=off) } else { 0 }));
        let (model, from, to) = (rollout.model.clone(), rollout.from.clone(), rollout.to.clone());
        Self {
            follower: Follower::new(&rollout, record),
            naive: Collector::new(model, from, to, evidence.window_ms, &[]),
            length: u64::from(evidence.window_ms),
            now_ms: BEGIN_MS,
            source,
            evidence,
            disturbance,
            rollout,
            under_way: Vec::new(),
            clocks,
            rng,
        }
    }

    /// Lives on until window number `judged` can be judged. Returns the evidence of all up to it.
    fn evidence(&mut self, judged: u32) -> Evidence {
        if self.disturbance.naive {
            let until = BEGIN_MS + u64::from(judged + 1) * self.length;
            while self.now_ms < until + LATE_MS {
                self.live();
            }
            let evidence = self.naive.evidence(self.source.scenario.candidate_percent, 0, BEGIN_MS, until);
            return Evidence { probes: self.evidence.probes.clone(), ..evidence };
        }
        while !self.follower.is_due(judged, self.now_ms) {
            self.live();
        }
        let due = self.follower.due(judged);
        let record = self.follower.record_mut();
        record.late.extend(due.late);
        record.windows.extend(due.window);
        self.follower.evidence(&self.rollout, judged + 1, self.evidence.probes.as_deref())
    }

    /// A second passes.
    fn live(&mut self) {
        self.now_ms += 1_000;
        let begun = (self.now_ms - BEGIN_MS) / self.length;
        while (self.evidence.windows() as u64) < begun {
            self.source.extend(&mut self.evidence);
            self.report();
        }
        let now = self.now_ms;
        self.under_way.sort_by_key(|(at, _)| *at);
        let arrived = self.under_way.partition_point(|(at, _)| *at <= now);
        for (at, report) in self.under_way.drain(..arrived) {
            let added =
                if self.disturbance.naive { self.naive.add(report, None) } else { self.follower.add(report, at) };
            added.expect("a report of this rollout");
        }
    }

    /// The workers report the window that has just ended.
    fn report(&mut self) {
        let window = self.evidence.windows() - 1;
        let begin = BEGIN_MS + window as u64 * self.length;
        for arm in 0..2 {
            let whole = [&self.evidence.baseline, &self.evidence.candidate][arm];
            let (variant, counts) = (whole.variant.clone(), whole.windows[window].clone());
            let waiting = (window as u64 * self.length) < self.disturbance.backlog[arm].as_millis() as u64;
            let counts = if waiting { self.with_backlog(counts) } else { counts };
            // One worker has what happened, the others were idle: how it is dealt out is another test's.
            let busy = self.rng.random_range(0..WORKERS);
            for (worker, clock) in self.clocks[arm].into_iter().enumerate() {
                let shift = (clock + clock.signum() * self.length as i64 / 2) / self.length as i64 * self.length as i64;
                let held_up =
                    if self.rng.random_bool(self.disturbance.late) { self.rng.random_range(2_000..60_000) } else { 0 };
                let under_way = self.rng.random_range(5..200) + held_up;
                // A worker whose clock is half a window fast reports half a window early.
                let stored = (begin + self.length + under_way).saturating_add_signed(shift - clock);
                let report = VariantStats {
                    model: self.rollout.model.clone(),
                    variant: variant.clone(),
                    version: "1".into(),
                    lane: Lane::Job,
                    worker: format!("{arm}-{worker}"),
                    start_ms: begin.saturating_add_signed(shift),
                    length_ms: self.evidence.window_ms,
                    counts: if worker == busy { counts.clone() } else { WindowCounts::default() },
                };
                self.under_way.push((stored, report));
            }
        }
    }

    /// As much again of what had been published before the step.
    fn with_backlog(&mut self, mut counts: WindowCounts) -> WindowCounts {
        let (slower, failing) = WAITED;
        let failed = (counts.requests as f64 * failing) as u64;
        let mut part = Earlier {
            published_ms: BEGIN_MS - self.rng.random_range(1..120) * self.length,
            requests: counts.latency_us.count() + failed,
            ..Earlier::default()
        };
        if failed > 0 {
            part.errors.insert(ErrorCode::EngineFailed, failed);
            *counts.errors.entry(ErrorCode::EngineFailed).or_default() += failed;
        }
        for (bucket, n) in counts.latency_us.buckets() {
            let us = u64::from(embed_schemas::latency::bucket_bounds(bucket).0) * slower;
            part.latency_us.record_n(us, n);
        }
        counts.latency_us.merge(&part.latency_us);
        counts.requests += part.requests;
        for n in
            [&mut counts.texts, &mut counts.tokens, &mut counts.batches, &mut counts.batch_texts, &mut counts.busy_us]
        {
            *n *= 2;
        }
        counts.earlier.push(part);
        counts
    }
}
