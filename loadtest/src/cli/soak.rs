//! `soak`: everything busy for long, and whether memory grows.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use embed_connect::ConnectSettings;
use embed_report::{Verdict, significant};
use serde_json::json;

use super::{
    session::{Session, finish, notes},
    target::{TargetArgs, parse_some_time},
};
use crate::{
    memory::{Process, growth::growth},
    pattern::Profile,
    report::{Document, Named, call_plots, figures, memory_plot, summary},
    scenario::Observed,
};

/// How much memory may grow after it has settled.
const MOST_GROWTH: f64 = 0.05;

#[derive(Debug, Args)]
pub(super) struct SoakArgs {
    /// How long: seconds, or such as 10m
    #[arg(long, short, default_value = "10m", value_parser = parse_some_time)]
    duration: Duration,
    /// Calls a second, beside the bulk jobs
    #[arg(long, short, default_value_t = 5.0)]
    rate: f64,
    #[command(flatten)]
    target: TargetArgs,
}

impl SoakArgs {
    pub(super) fn run(self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        ensure!(!self.target.pid.is_empty(), "--pid: whose memory is to be watched?");
        ensure!(self.rate > 0.0 && self.rate.is_finite(), "--rate: must be above 0");
        let seconds = self.duration.as_secs_f64();
        let target =
            self.target.prepare(true, None)?.with(json!({ "rate, calls/s": self.rate, "duration, s": seconds }));
        let session = Session::open(nats)?;
        let title = format!("Soak test: bulk jobs and {} calls/s for {} s", self.rate, significant(seconds, 4));
        let mut document = Document::begin("soak", title, target.parameters.clone());
        let profile = Profile::constant(self.rate, self.duration).after(target.load.warm_up);
        let observed = session.play(&target, profile, true, self.duration)?;
        let named = Named("", &observed);
        document.verdicts = verdicts(&observed);
        document.figures = figures(&[named]);
        document.plots = memory_plot(named).into_iter().collect();
        document.plots.extend(call_plots(named, self.target.slo_ms));
        document.notes = notes("", &observed);
        document.detail = summary(&observed);
        finish(&document, self.target.out.as_deref(), json)
    }
}

fn verdicts(observed: &Observed) -> Vec<Verdict> {
    let mut verdicts: Vec<_> =
        observed.processes.iter().flat_map(|process| judge(process, observed.duration)).collect();
    if let Some(bulk) = &observed.bulk {
        let value = format!("{} texts/s", significant(bulk.per_second(), 4));
        verdicts.push(Verdict { name: "Bulk throughput".to_owned(), value, ..Verdict::default() });
    }
    verdicts
}

/// The trend tells of a leak; the peak, of what a trend hides.
fn judge(process: &Process, duration: Duration) -> Vec<Verdict> {
    let growth = growth(&process.samples, duration).filter(|_| process.alive);
    let verdict = |what: &str, value: Option<f64>, more: String| Verdict {
        name: format!("{}: {what}", process.label()),
        value: value.map_or_else(|| "not measured".to_owned(), |share| format!("{:+.1} %", share * 100.0)),
        target: format!("less than {:.0} %{more}", MOST_GROWTH * 100.0),
        passed: Some(value.is_some_and(|share| share < MOST_GROWTH)),
    };
    let from = growth.map_or_else(String::new, |growth| format!(" of {} MB", significant(growth.settled, 4)));
    let highest = format!("; it was {} MB", significant(process.max(), 4));
    vec![
        verdict("growth after settling", growth.map(|growth| growth.share), from),
        verdict("highest above settled", growth.map(|growth| growth.peak_share), highest),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_and_a_death_are_seen() {
        let process = |slope: f64, alive| Process {
            id: 7,
            name: "w".into(),
            samples: (0..600).map(|second| (f64::from(second), 100.0 + slope * f64::from(second))).collect(),
            alive,
        };
        let passed = |slope, alive| {
            judge(&process(slope, alive), Duration::from_secs(600)).iter().map(|v| v.passed).collect::<Vec<_>>()
        };
        assert_eq!(passed(0.0, true), [Some(true); 2]);
        assert_eq!(passed(0.02, true), [Some(false); 2]);
        assert_eq!(passed(0.0, false), [Some(false); 2]);
    }
}
