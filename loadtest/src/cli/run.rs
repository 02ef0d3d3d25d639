//! `run`: one pattern of load.

use std::time::Duration;

use clap::Args;
use embed_connect::ConnectSettings;
use embed_report::{Series, Verdict, significant};
use serde_json::json;

use super::{
    session::{Session, finish, notes},
    target::{TargetArgs, parse_some_time},
};
use crate::{
    pattern::{Pattern, Profile},
    report::{Document, Named, Quantiles, call_plots, figures, memory_plot, summary},
    scenario::Observed,
};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// What the load looks like
    #[arg(long, short, value_enum, default_value_t = Pattern::Constant)]
    pattern: Pattern,
    /// Calls a second [default: 50, or what the pattern has]
    #[arg(long, short)]
    rate: Option<f64>,
    /// How long to measure: seconds, or such as 10m
    #[arg(long, short, default_value = "10", value_parser = parse_some_time)]
    duration: Duration,
    #[command(flatten)]
    target: TargetArgs,
}

impl RunArgs {
    pub(super) fn run(self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        let rate = self.pattern.rate(self.rate).map_err(anyhow::Error::msg)?;
        let seconds = self.duration.as_secs_f64();
        let more = json!({ "pattern": self.pattern.name(), "rate, calls/s": rate, "duration, s": seconds });
        let target = self.target.prepare(self.pattern == Pattern::Mixed, None)?.with(more);
        let session = Session::open(nats)?;
        let title = format!("Load test: {}, {} calls/s for {} s", self.pattern.name(), rate, significant(seconds, 4));
        let mut document = Document::begin("run", title, target.parameters.clone());
        let profile = self.pattern.profile(rate, self.duration).after(target.load.warm_up);
        let planned = planned(&profile, target.load.warm_up, self.duration);
        let observed = session.play(&target, profile, self.pattern == Pattern::Mixed, self.duration)?;
        let named = Named("", &observed);
        document.verdicts = verdicts(&observed, self.target.slo_ms);
        document.figures = figures(&[named]);
        document.plots = call_plots(named, self.target.slo_ms);
        if self.pattern == Pattern::Ramp {
            document.plots[0].series.push(planned);
        }
        document.plots.extend(memory_plot(named));
        document.notes = notes("", &observed);
        document.detail = summary(&observed);
        finish(&document, self.target.out.as_deref(), json)
    }
}

/// The rate that was asked for, second by second.
fn planned(profile: &Profile, warm_up: Duration, duration: Duration) -> Series {
    let seconds = 0..duration.as_secs_f64().ceil() as u64;
    let rate = |second: u64| profile.rate_at(warm_up + Duration::from_secs(second));
    Series { name: "planned".to_owned(), points: seconds.map(|second| (second as f64, rate(second))).collect() }
}

fn verdicts(observed: &Observed, slo_ms: f64) -> Vec<Verdict> {
    let tally = &observed.tally;
    let (due, answered) = (tally.total(|second| second.offered), tally.total(|second| second.answered));
    let good = tally.total(|second| second.good) as f64;
    let latency = Quantiles::of(&tally.latency);
    let plain = |name: &str, value| Verdict { name: name.to_owned(), value, ..Verdict::default() };
    let ms = |value| format!("{} ms", significant(value, 3));
    let share = if due == 0 { "–".to_owned() } else { format!("{} %", significant(good / due as f64 * 100.0, 4)) };
    let mut verdicts = vec![
        Verdict {
            name: "Calls answered".to_owned(),
            value: format!("{answered} of {due}"),
            target: "all".to_owned(),
            passed: Some(answered == due),
        },
        plain(&format!("Answered within {} ms", significant(slo_ms, 4)), share),
        plain("Goodput", format!("{} calls/s", significant(good / observed.duration.as_secs_f64(), 3))),
        plain("Latency, median", ms(latency.p50)),
        plain("Latency, p99", ms(latency.p99)),
    ];
    if let Some(bulk) = &observed.bulk {
        verdicts.push(plain("Bulk throughput", format!("{} texts/s", significant(bulk.per_second(), 4))));
    }
    verdicts
}
