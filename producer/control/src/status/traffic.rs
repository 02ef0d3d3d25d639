//! What came in, from the windows that workers publish: those of all workers added up, as long as they are of interest. Pure.

use std::collections::{BTreeMap, VecDeque};

use embed_schemas::{ErrorCode, Lane, Slug, VariantStats, WindowCounts};
use serde::Serialize;

use crate::times::rfc3339;

/// What is told of traffic is told of so long.
pub(super) const RECENT_MS: u64 = 60_000;
/// Errors are told of for so long.
pub(super) const ERRORS_MS: u64 = 15 * 60_000;
/// Windows that begin within as long are one: however short they are, there is a bounded number.
const SLOT_MS: u64 = 5_000;
/// Pairs of variant and lane that are told of.
const MOST: usize = 512;
/// A window that is said to end later than this after what the server says of the time is nobody's.
const FUTURE_MS: u64 = 60_000;

/// What came in for one variant in one lane, over all workers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// The lane.
    pub lane: Lane,
    /// Jobs and calls that ended, in a second.
    pub requests_per_second: f64,
    /// Texts that were embedded, in a second.
    pub texts_per_second: f64,
    /// The share of the requests that failed, 0 to 1.
    pub failed: f64,
    /// Latency at the worker in milliseconds, of the requests that did not fail: half were faster.
    pub p50_ms: Option<f64>,
    /// As `p50_ms`, 95 of 100.
    pub p95_ms: Option<f64>,
    /// As `p50_ms`, 99 of 100.
    pub p99_ms: Option<f64>,
    /// Texts in a batch, on average.
    pub batch: Option<f64>,
}

/// How often something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// The lane.
    pub lane: Lane,
    /// The stable code.
    pub code: ErrorCode,
    /// How many requests.
    pub count: u64,
    /// How many of them failed for what their caller did.
    pub by_caller: u64,
    /// When the last of them did, about, RFC 3339.
    pub last: String,
}

type Series = (Slug, Slug, Lane);

/// The windows of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Windows {
    series: BTreeMap<Series, VecDeque<Slot>>,
    /// The end of the last window, by the servers' clock.
    now_ms: u64,
}

/// The windows that began within a few seconds.
#[derive(Debug)]
struct Slot {
    start_ms: u64,
    end_ms: u64,
    counts: WindowCounts,
}

impl Windows {
    /// Adds what a worker has published, and the server has stored at this moment.
    pub(super) fn add(&mut self, report: VariantStats, stored_ms: u64) {
        let (start_ms, end_ms) = (report.start_ms / SLOT_MS * SLOT_MS, report.end_ms());
        if end_ms > stored_ms.saturating_add(FUTURE_MS) || report.validate().is_err() {
            return;
        }
        self.now_ms = self.now_ms.max(end_ms);
        let VariantStats { model, variant, lane, mut counts, .. } = report;
        // When they were published is of no interest here.
        counts.earlier.clear();
        let key = (model, variant, lane);
        if !self.series.contains_key(&key) && self.series.len() >= MOST {
            return;
        }
        let slots = self.series.entry(key).or_default();
        let at = slots.partition_point(|slot| slot.start_ms < start_ms);
        match slots.get_mut(at).filter(|slot| slot.start_ms == start_ms) {
            Some(slot) => {
                slot.counts.merge(&counts);
                slot.end_ms = slot.end_ms.max(end_ms);
            }
            None => slots.insert(at, Slot { start_ms, end_ms, counts }),
        }
    }

    /// Forgets what is too old to be told of, at this moment of the server's.
    pub(super) fn forget(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let (recent, errors) = (self.now_ms.saturating_sub(2 * RECENT_MS), self.now_ms.saturating_sub(ERRORS_MS));
        self.series.retain(|_, slots| {
            while slots.front().is_some_and(|slot| slot.end_ms < errors) {
                slots.pop_front();
            }
            // Of what is older, only errors are told: latencies take the most room.
            for slot in slots.iter_mut().take_while(|slot| slot.end_ms < recent) {
                slot.counts.latency_us = Default::default();
            }
            !slots.is_empty()
        });
    }

    /// What came in within the last minute.
    pub(super) fn traffic(&self) -> Vec<Traffic> {
        let since = self.now_ms.saturating_sub(RECENT_MS);
        let tell = |((model, variant, lane), slots): (&Series, &VecDeque<Slot>)| {
            let recent = || slots.iter().filter(|slot| slot.end_ms > since);
            let mut sum = WindowCounts::default();
            recent().for_each(|slot| sum.merge(&slot.counts));
            let begin = recent().map(|slot| slot.start_ms).min()?;
            if sum.requests == 0 && sum.texts == 0 {
                return None;
            }
            // Less than a minute, if it has not been there for so long; the last window may not be here yet.
            let end = recent().map(|slot| slot.end_ms).max()?;
            let seconds = end.saturating_sub(begin).max(1) as f64 / 1000.0;
            let quantile = |share: f64| sum.latency_us.quantile(share).map(|us| us / 1000.0);
            Some(Traffic {
                model: model.clone(),
                variant: variant.clone(),
                lane: *lane,
                requests_per_second: sum.requests as f64 / seconds,
                texts_per_second: sum.texts as f64 / seconds,
                failed: sum.failed() as f64 / sum.requests.max(1) as f64,
                p50_ms: quantile(0.5),
                p95_ms: quantile(0.95),
                p99_ms: quantile(0.99),
                batch: sum.batch_mean(),
            })
        };
        self.series.iter().filter_map(tell).collect()
    }

    /// What failed within the last quarter of an hour, the most frequent first.
    pub(super) fn errors(&self) -> Vec<ErrorCount> {
        let mut all = Vec::new();
        for ((model, variant, lane), slots) in &self.series {
            let mut codes: BTreeMap<ErrorCode, (u64, u64, u64)> = BTreeMap::new();
            for slot in slots {
                for (code, n) in &slot.counts.errors {
                    let (count, by_caller, last_ms) = codes.entry(*code).or_default();
                    *count += n;
                    *by_caller += slot.counts.by_caller.get(code).copied().unwrap_or_default();
                    *last_ms = slot.end_ms;
                }
            }
            all.extend(codes.into_iter().map(|(code, (count, by_caller, last_ms))| ErrorCount {
                model: model.clone(),
                variant: variant.clone(),
                lane: *lane,
                code,
                count,
                by_caller,
                last: rfc3339(last_ms),
            }));
        }
        all.sort_by_key(|error| std::cmp::Reverse(error.count));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(worker: &str, start_ms: u64, counts: WindowCounts) -> VariantStats {
        let slug = |name: &str| name.parse().unwrap();
        let (version, worker) = ("v1".to_owned(), worker.to_owned());
        VariantStats {
            model: slug("m"),
            variant: slug("v"),
            version,
            lane: Lane::Rpc,
            worker,
            start_ms,
            length_ms: 5_000,
            counts,
        }
    }

    fn answered(n: u64, us: u64) -> WindowCounts {
        let latency_us = (0..n).map(|_| us).collect();
        WindowCounts {
            requests: n,
            texts: 2 * n,
            batches: n,
            batch_texts: 2 * n,
            latency_us,
            ..WindowCounts::default()
        }
    }

    #[test]
    fn windows_of_all_workers_make_one_rate() {
        let mut windows = Windows::default();
        for start in (0..60_000).step_by(5_000) {
            windows.add(report("a", start, answered(10, 4_000)), start + 5_000);
            windows.add(report("b", start, answered(20, 4_000)), start + 5_000);
        }
        windows.forget(60_000);
        let [traffic] = windows.traffic().try_into().unwrap();
        assert_eq!((traffic.requests_per_second, traffic.texts_per_second, traffic.failed), (6.0, 12.0, 0.0));
        assert!(traffic.p95_ms.is_some_and(|ms| (ms - 4.0).abs() < 0.1) && traffic.batch == Some(2.0), "{traffic:?}");
        // Nothing has come since.
        windows.forget(180_000);
        assert_eq!(windows.traffic(), []);
    }

    #[test]
    fn errors_are_told_of_for_longer_and_then_forgotten() {
        let mut windows = Windows::default();
        let failed = |code, n| WindowCounts { requests: n, errors: [(code, n)].into(), ..WindowCounts::default() };
        windows.add(report("a", 0, failed(ErrorCode::EngineFailed, 2)), 5_000);
        let mut by_caller = failed(ErrorCode::UnknownPrompt, 3);
        by_caller.by_caller = by_caller.errors.clone();
        windows.add(report("a", 60_000, by_caller), 65_000);
        windows.forget(600_000);
        let told: Vec<_> = windows.errors().iter().map(|e| (e.code, e.count, e.by_caller)).collect();
        assert_eq!(told, [(ErrorCode::UnknownPrompt, 3, 3), (ErrorCode::EngineFailed, 2, 0)]);
        assert_eq!(windows.errors()[0].last, "1970-01-01T00:01:05Z");
        windows.forget(2_000_000);
        assert_eq!(windows.errors(), []);
        assert!(windows.series.is_empty());
    }

    #[test]
    fn what_somebody_makes_up_takes_a_bounded_place() {
        let mut windows = Windows::default();
        windows.add(report("a", 900_000_000_000, answered(1, 1)), 5_000);
        assert!(windows.series.is_empty(), "a window of tomorrow");
        for n in 0..2 * MOST {
            let mut made_up = report("a", 0, answered(1, 1));
            made_up.variant = format!("v{n}").parse().unwrap();
            windows.add(made_up, 5_000);
        }
        assert_eq!(windows.series.len(), MOST);
    }
}
