//! The three ways to decide how large a batch is and how long it waits for company.

use std::time::Duration;

use embed_schemas::Lane;

use crate::settings::{BatchConfig, BatchPolicy, FixedConfig, TableConfig};

/// What a decision goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Situation {
    /// The lane to be served.
    pub(super) lane: Lane,
    /// Texts that wait, in all lanes.
    pub(super) depth: usize,
    /// Texts of this lane that wait.
    pub(super) lane_depth: usize,
    /// Whether online calls have come lately.
    pub(super) online: bool,
    /// Texts of this lane that arrive in a second, lately.
    pub(super) arrivals_per_second: u64,
    /// The recent 95th percentile of online calls in the worker, from arrival to vector; without any, of jobs.
    pub(super) p95: Option<Duration>,
}

/// Bounds of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Most texts.
    pub(super) texts: usize,
    /// Most tokens, padding included; a single text may exceed it.
    pub(super) tokens: usize,
    /// Longest run; a single text may exceed it.
    pub(super) time: Option<Duration>,
    /// Whether texts go in order of arrival, whatever their lengths.
    pub(super) by_arrival: bool,
}

/// A policy with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Policy {
    /// By measured costs.
    Adaptive(BatchConfig),
    /// By the number of waiting texts.
    Table(BatchConfig, TableConfig),
    /// Always the same, in order of arrival.
    Fixed(FixedConfig),
}

impl Policy {
    pub(super) fn new(config: &BatchConfig) -> Self {
        match config.policy {
            BatchPolicy::Adaptive => Self::Adaptive(config.clone()),
            BatchPolicy::Table => Self::Table(config.clone(), config.table.clone()),
            BatchPolicy::Fixed => Self::Fixed(config.fixed.clone()),
        }
    }

    /// How large the next batch may be.
    pub(super) fn bounds(&self, now: &Situation) -> Bounds {
        match self {
            Self::Adaptive(config) => Bounds {
                texts: config.max_texts,
                tokens: config.max_tokens,
                // Whoever calls next waits behind this run.
                time: Some(if now.online { config.online_run } else { config.longest_run }),
                by_arrival: false,
            },
            Self::Table(config, table) => {
                let step = table.step(now.depth, now.p95, config.target_p95);
                Bounds { texts: table.sizes[step], tokens: config.max_tokens, time: None, by_arrival: false }
            }
            Self::Fixed(fixed) => Bounds { texts: fixed.texts, tokens: usize::MAX, time: None, by_arrival: true },
        }
    }

    /// How long the oldest text waits for company before a free engine takes it. Not asked for online calls under the
    /// adaptive policy: those never wait for a free engine.
    pub(super) fn wait(&self, now: &Situation) -> Duration {
        match self {
            Self::Adaptive(config) => adaptive_wait(config, now),
            Self::Table(config, table) => table.waits[table.step(now.depth, now.p95, config.target_p95)],
            Self::Fixed(fixed) => fixed.wait,
        }
    }

    /// Whether a free engine takes an online call at once, or lets it wait for company as well.
    pub(super) const fn online_at_once(&self) -> bool {
        matches!(self, Self::Adaptive(_))
    }
}

/// None when idle, more under load, less as the percentile comes close to its target.
fn adaptive_wait(config: &BatchConfig, now: &Situation) -> Duration {
    // Nobody watches the latency of a backfill; for jobs, waiting may use up what is left of the target.
    let room = match (now.lane, now.p95) {
        (Lane::Bulk, _) | (_, None) => config.max_wait,
        (_, Some(p95)) => config.target_p95.saturating_sub(p95).min(config.max_wait),
    };
    // Waiting is only worth it if somebody is likely to come within that time.
    let company = room.as_secs_f64() * now.arrivals_per_second as f64;
    if company >= 1.0 { room } else { Duration::ZERO }
}

impl TableConfig {
    /// The step for this many waiting texts; one more if the percentile is above its target, since larger batches serve
    /// more.
    fn step(&self, depth: usize, p95: Option<Duration>, target: Duration) -> usize {
        let step = self.depths.iter().take_while(|most| depth > **most).count();
        let late = p95.is_some_and(|p95| p95 > target);
        (step + usize::from(late)).min(self.sizes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn situation(lane: Lane, depth: usize, arrivals_per_second: u64, p95: Option<u64>) -> Situation {
        let p95 = p95.map(Duration::from_millis);
        Situation { lane, depth, lane_depth: depth, online: false, arrivals_per_second, p95 }
    }

    #[test]
    fn the_table_is_the_users_own() {
        let config = BatchConfig { policy: BatchPolicy::Table, ..BatchConfig::default() };
        let policy = Policy::new(&config);
        for (depth, texts, wait) in [
            (0, 1, 0),
            (5, 1, 0),
            (6, 8, 5),
            (20, 8, 5),
            (21, 16, 10),
            (50, 16, 10),
            (51, 32, 10),
            (100, 32, 10),
            (101, 64, 15),
            (100_000, 64, 15),
        ] {
            let now = situation(Lane::Rpc, depth, 0, None);
            assert_eq!(policy.bounds(&now).texts, texts, "{depth}");
            assert_eq!(policy.wait(&now), Duration::from_millis(wait), "{depth}");
        }
        // Above the target, one step up; at the top there is none.
        assert_eq!(policy.bounds(&situation(Lane::Rpc, 3, 0, Some(11))).texts, 8);
        assert_eq!(policy.bounds(&situation(Lane::Rpc, 3, 0, Some(10))).texts, 1);
        assert_eq!(policy.bounds(&situation(Lane::Rpc, 500, 0, Some(11))).texts, 64);
    }

    #[test]
    fn the_adaptive_wait_follows_load_and_latency() {
        let config = BatchConfig::default();
        let wait = |lane, arrivals, p95| adaptive_wait(&config, &situation(lane, 1, arrivals, p95));
        assert_eq!(wait(Lane::Job, 0, None), Duration::ZERO, "idle");
        assert_eq!(wait(Lane::Job, 10, None), Duration::ZERO, "nobody comes within the longest wait");
        assert_eq!(wait(Lane::Job, 1000, None), config.max_wait);
        assert_eq!(wait(Lane::Job, 1000, Some(8)), Duration::from_millis(2), "what is left of the target");
        assert_eq!(wait(Lane::Job, 1000, Some(50)), Duration::ZERO);
        assert_eq!(wait(Lane::Bulk, 1000, Some(50)), config.max_wait, "a backfill has no latency to keep");
    }

    #[test]
    fn runs_are_shorter_while_there_is_online_traffic() {
        let config = BatchConfig::default();
        let policy = Policy::new(&config);
        let quiet = situation(Lane::Bulk, 500, 0, None);
        assert_eq!(policy.bounds(&quiet).time, Some(config.longest_run));
        assert_eq!(policy.bounds(&Situation { online: true, ..quiet }).time, Some(config.online_run));
    }
}
