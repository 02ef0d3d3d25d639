//! What was measured of one setting.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::stack::Setting;
use crate::repeats::Repeats;

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Jobs, on more and more workers.
    Workers,
    /// Jobs of more and more models.
    Models,
    /// Jobs, on one worker with more and more devices.
    Devices,
    /// Jobs, on devices that take no time: what everything else can do.
    Ceiling,
    /// Calls, on more and more workers.
    Calls,
    /// Nothing to do: what consumers and variants cost.
    Idle,
    /// Jobs that wait, and results that are kept.
    Backlog,
    /// More and more rows, one after the other.
    Rows,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Workers, Self::Models, Self::Devices, Self::Ceiling, Self::Calls, Self::Idle, Self::Backlog, Self::Rows];

    /// What it is, for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Workers => "Jobs by workers",
            Self::Models => "Jobs by models",
            Self::Devices => "Jobs by devices of one worker",
            Self::Ceiling => "Jobs on devices that take no time",
            Self::Calls => "Calls by workers",
            Self::Idle => "Nothing to do",
            Self::Backlog => "Jobs that wait, and results that are kept",
            Self::Rows => "Row after row",
        }
    }
}

/// A name of a figure, with its unit.
pub(super) type Name = &'static str;

/// Names of figures.
pub(super) mod names {
    use super::Name;

    pub(in super::super) const RATE: Name = "stored, texts/s";
    pub(in super::super) const OF_SUM: Name = "of the sum of the engines, %";
    pub(in super::super) const ALL_CPU: Name = "CPU, µs/text";
    pub(in super::super) const SERVER_CPU: Name = "server, µs/text";
    pub(in super::super) const WORKER_CPU: Name = "workers, µs/text";
    pub(in super::super) const LOAD_CPU: Name = "load, µs/text";
    pub(in super::super) const CORES: Name = "cores in use";
    pub(in super::super) const LEAST_SHARE: Name = "least share, % of an even one";
    pub(in super::super) const MOST_SHARE: Name = "largest share, % of an even one";
    pub(in super::super) const FAILED: Name = "failed";
    pub(in super::super) const MESSAGES: Name = "messages to the servers, 1/text";

    pub(in super::super) const CALLS: Name = "answered, calls/s";
    pub(in super::super) const OFFERED: Name = "offered for the latencies, calls/s";
    pub(in super::super) const P50: Name = "p50, ms";
    pub(in super::super) const P99: Name = "p99, ms";
    pub(in super::super) const CALL_CPU: Name = "CPU, µs/call";
    pub(in super::super) const CALL_SERVER_CPU: Name = "server, µs/call";
    pub(in super::super) const CALL_WORKER_CPU: Name = "workers, µs/call";
    pub(in super::super) const CALL_LOAD_CPU: Name = "load, µs/call";

    pub(in super::super) const IDLE_SERVER: Name = "servers, % of a core";
    pub(in super::super) const IDLE_WORKERS: Name = "workers, % of a core";
    pub(in super::super) const IDLE_MESSAGES: Name = "messages to the servers, 1/s";
    pub(in super::super) const SERVER_MB: Name = "servers' memory, MB";
    pub(in super::super) const WORKERS_MB: Name = "workers' memory, MB";
    pub(in super::super) const LOAD_MB: Name = "load's memory, MB";
    pub(in super::super) const DISK_MB: Name = "servers' disk, MB";

    pub(in super::super) const PUBLISHED: Name = "published, jobs/s";
    pub(in super::super) const PUBLISH_SERVER_CPU: Name = "server's CPU to take one, µs/job";
    pub(in super::super) const KEPT_SERVER_MB: Name = "servers' memory with the results, MB";
    pub(in super::super) const KEPT_DISK_MB: Name = "servers' disk with the results, MB";
}

/// What was measured of one setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Of which part.
    pub part: Part,
    /// With what.
    pub setting: Setting,
    /// How many jobs wait, or rows have been done. 0 where that is no question.
    pub count: u64,
    /// Texts in a job; 0 where there are none.
    pub texts_per_job: usize,
    /// The figures by name, each as often as it was measured.
    pub figures: BTreeMap<String, Repeats>,
    /// When: RFC 3339, UTC.
    pub measured: String,
}

impl Row {
    pub(super) fn new(part: Part, setting: Setting, count: u64, texts_per_job: usize) -> Self {
        let now = time::OffsetDateTime::now_utc().replace_nanosecond(0);
        let now = now.ok().and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok());
        Self { part, setting, count, texts_per_job, figures: BTreeMap::new(), measured: now.unwrap_or_default() }
    }

    /// Adds a value to a figure.
    pub(super) fn add(&mut self, name: Name, value: f64) {
        self.figures.entry(name.to_owned()).or_default().push(value);
    }

    /// The median of a figure; NaN without one.
    #[must_use]
    pub fn median(&self, name: &str) -> f64 {
        self.figures.get(name).map_or(f64::NAN, Repeats::median)
    }

    fn key(&self) -> (Part, Setting, u64, usize) {
        (self.part, self.setting, self.count, self.texts_per_job)
    }
}

/// What was measured now takes the place of what was measured before with the same setting. In the order of parts and settings.
#[must_use]
pub fn merge(before: Vec<Row>, now: Vec<Row>) -> Vec<Row> {
    let replaced = |row: &Row| now.iter().any(|new| new.key() == row.key());
    let mut all: Vec<Row> = before.into_iter().filter(|row| !replaced(row)).chain(now.iter().cloned()).collect();
    all.sort_by_key(Row::key);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_measured_again_is_there_once() {
        let row = |part, workers, value| {
            let setting = Setting { servers: 1, workers, models: 1, devices: 1, text_us: 1 };
            let mut row = Row::new(part, setting, 0, 64);
            row.add(names::RATE, value);
            row
        };
        let before = vec![row(Part::Calls, 1, 1.0), row(Part::Workers, 4, 2.0), row(Part::Workers, 1, 3.0)];
        let all = merge(before, vec![row(Part::Workers, 4, 4.0), row(Part::Workers, 16, 5.0)]);
        let seen: Vec<_> = all.iter().map(|row| (row.part, row.setting.workers, row.median(names::RATE))).collect();
        let expected =
            [(Part::Workers, 1, 3.0), (Part::Workers, 4, 4.0), (Part::Workers, 16, 5.0), (Part::Calls, 1, 1.0)];
        assert_eq!(seen, expected);
    }
}
