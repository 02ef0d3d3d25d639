//! What a run came to, for people and for programs.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::open_loop::Tally;

/// The result of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where the calls went.
    pub subject: String,
    /// Calls a second that were meant to be made.
    pub offered_per_second: f64,
    /// Texts in a call.
    pub texts_per_call: usize,
    /// Calls that were due.
    pub due: u64,
    /// Calls that were answered with vectors.
    pub answered: u64,
    /// Those, a second.
    pub answered_per_second: f64,
    /// Calls that failed, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Milliseconds from the intended moment to the answer, over all calls that were due.
    pub latency_ms: Quantiles,
    /// Milliseconds by which the generator itself was late: where this is large, the machine was too busy to tell.
    pub generator_late_ms: Quantiles,
    /// Seconds that were counted.
    pub seconds: f64,
}

/// Quantiles of a distribution.
#[derive(Debug, Clone, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1000.0 }
    }
}

impl Report {
    /// Sums a run up.
    #[must_use]
    pub fn new(subject: String, offered_per_second: f64, texts_per_call: usize, tally: &Tally) -> Self {
        let seconds = tally.took.as_secs_f64();
        Self {
            subject,
            offered_per_second,
            texts_per_call,
            due: tally.due,
            answered: tally.answered,
            answered_per_second: tally.answered as f64 / seconds,
            errors: tally.errors.clone(),
            latency_ms: Quantiles::of(&tally.latency),
            generator_late_ms: Quantiles::of(&tally.lateness),
            seconds,
        }
    }

    /// Whether every call was answered.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.answered == self.due
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} calls of {} text(s) in {:.1} s",
            self.subject, self.due, self.texts_per_call, self.seconds
        )?;
        writeln!(
            f,
            "  offered {:.1}/s   answered {:.1}/s   failed {}",
            self.offered_per_second,
            self.answered_per_second,
            self.due - self.answered
        )?;
        for (reason, count) in &self.errors {
            writeln!(f, "    {count} x {reason}")?;
        }
        writeln!(f, "               {:>9} {:>9} {:>9} {:>9} {:>9}", "p50", "p95", "p99", "p99.9", "max")?;
        for (name, q) in [("latency, ms", &self.latency_ms), ("late, ms", &self.generator_late_ms)] {
            writeln!(f, "  {name:<12} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", q.p50, q.p95, q.p99, q.p999, q.max)?;
        }
        Ok(())
    }
}
