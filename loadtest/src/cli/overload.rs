//! `overload`: more online calls than can be answered. What can be answered must still be, and the rest refused at once.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use embed_connect::ConnectSettings;
use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use serde_json::json;

use super::{
    session::{Session, finish, notes},
    target::{Target, TargetArgs, parse_some_time},
};
use crate::{
    closed_loop,
    pattern::Profile,
    report::{Document, Named, Quantiles, call_plots, figures, memory_plot, summary},
    scenario::Observed,
};

/// How much of the peak's goodput must be left.
const LEAST_GOODPUT: f64 = 0.9;
/// Within which a refusal must come, at p99.
const SLOWEST_REFUSAL_MS: f64 = 10.0;
/// Shares of the capacity at which the peak goodput is looked for. Calls come at random moments, so a worker has all that it can do only
/// when more come than it can answer: the peak is above the knee.
const PEAK_AT: [f64; 4] = [0.8, 1.0, 1.2, 1.5];

/// One time of too many calls, and the peak around it. A machine's speed is not the same from one minute to the next, so each time is
/// compared with what the machine did right before and right after it, at the rate of the peak.
#[derive(Debug, Clone, Copy)]
struct Compared {
    goodput: f64,
    /// The mean of before and after.
    peak: f64,
}

impl Compared {
    fn left(self) -> f64 {
        if self.peak > 0.0 { self.goodput / self.peak } else { 0.0 }
    }
}

#[derive(Debug, Args)]
pub(super) struct OverloadArgs {
    /// Calls a second that can be answered [default: measured first]
    #[arg(long)]
    capacity: Option<f64>,
    /// Callers of the measurement of the capacity
    #[arg(long, default_value_t = 32)]
    callers: usize,
    /// How long to measure the capacity, each of four rates around it, and the peak again after each overload
    #[arg(long, default_value = "20", value_parser = parse_some_time, value_name = "DURATION")]
    peak_duration: Duration,
    /// How many times the capacity to offer
    #[arg(long, default_value_t = 3.0)]
    times: f64,
    /// How long to offer it: seconds, or such as 10m
    #[arg(long, short, default_value = "60", value_parser = parse_some_time)]
    duration: Duration,
    /// How often to offer it: the worst time counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    target: TargetArgs,
}

impl OverloadArgs {
    pub(super) fn run(self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        ensure!(self.times > 0.0 && self.times.is_finite(), "--times: must be above 0");
        ensure!(self.capacity.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "--capacity: must be above 0");
        ensure!(self.callers > 0, "--callers: must be above 0");
        ensure!(self.runs > 0, "--runs: must be above 0");
        // What comes later than the objective is worth nothing, and the worker is told.
        let target = self.target.prepare(false, Some(Duration::from_secs_f64(self.target.slo_ms / 1000.0)))?;
        let session = Session::open(nats)?;
        let capacity = match self.capacity {
            Some(capacity) => capacity,
            None => self.measure(&session, &target)?,
        };
        let target = target.with(json!({
            "capacity, calls/s": capacity,
            "capacity is": if self.capacity.is_some() { "given" } else { "measured" },
            "times": self.times,
            "duration, s": self.duration.as_secs_f64(),
            "duration of each rate below, s": self.peak_duration.as_secs_f64(),
        }));
        let title = format!("Overload test: {} times {} calls/s", self.times, significant(capacity, 3));
        let mut document = Document::begin("overload", title, target.parameters.clone());
        let play = |share: f64, duration: Duration, run: &str| {
            let profile = Profile::constant(capacity * share, duration).after(target.load.warm_up);
            let name = format!("at {:.0} %{run}", share * 100.0);
            anyhow::Ok((name, session.play(&target, profile, false, duration)?))
        };
        let mut phases =
            PEAK_AT.into_iter().map(|share| play(share, self.peak_duration, "")).collect::<Result<Vec<_>, _>>()?;
        let good: Vec<f64> = phases.iter().map(|(_, observed)| goodput(observed)).collect();
        let (mut before, peak_at) =
            good.iter().copied().zip(PEAK_AT).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are rates");
        let mut runs = Vec::new();
        for run in 1..=self.runs {
            phases.push(play(self.times, self.duration, &format!(", run {run}"))?);
            let over = goodput(&phases[phases.len() - 1].1);
            phases.push(play(peak_at, self.peak_duration, &format!(", after run {run}"))?);
            let after = goodput(&phases[phases.len() - 1].1);
            runs.push(Compared { goodput: over, peak: f64::midpoint(before, after) });
            before = after;
        }
        let worst = (0..runs.len()).min_by(|a, b| runs[*a].left().total_cmp(&runs[*b].left()));
        let worst = worst.expect("there is a run");
        let named: Vec<_> = phases.iter().map(|(name, observed)| Named(name, observed)).collect();
        let over = named[PEAK_AT.len() + 2 * worst];
        let overs: Vec<&Observed> = named[PEAK_AT.len()..].iter().step_by(2).map(|named| named.1).collect();
        document.verdicts = verdicts(&overs, &runs, runs[worst]);
        document.figures = figures(&named);
        document.plots = vec![rates_plot(&phases)];
        document.plots.extend(call_plots(over, self.target.slo_ms));
        document.plots.extend(memory_plot(over));
        document.notes = phases.iter().flat_map(|(name, observed)| notes(&format!("{name}: "), observed)).collect();
        document.detail = summary(over.1);
        document.detail.insert("peak_goodput_per_second".to_owned(), runs[worst].peak.into());
        finish(&document, self.target.out.as_deref(), json)
    }

    fn measure(&self, session: &Session, target: &Target) -> anyhow::Result<f64> {
        let nats = session.client.nats();
        let capacity = session.wait_for(closed_loop::capacity(nats, &target.load, self.callers, self.peak_duration));
        ensure!(capacity > 0.0, "no call was answered: does a worker serve {}?", target.load.subject);
        Ok(capacity)
    }
}

fn goodput(observed: &Observed) -> f64 {
    observed.tally.total(|second| second.good) as f64 / observed.duration.as_secs_f64()
}

fn verdicts(overs: &[&Observed], runs: &[Compared], worst: Compared) -> Vec<Verdict> {
    let none = overs.iter().any(|over| over.tally.refusal.is_empty());
    let slowest =
        |of: fn(Quantiles) -> f64| overs.iter().map(|over| of(Quantiles::of(&over.tally.refusal))).fold(0.0, f64::max);
    let (p50, p99) = (slowest(|refusals| refusals.p50), slowest(|refusals| refusals.p99));
    let all = runs.iter().map(|run| format!("{:.0} %", 100.0 * run.left())).collect::<Vec<_>>().join(", ");
    let mut verdicts = vec![
        Verdict {
            name: "Goodput under overload".to_owned(),
            value: format!(
                "{:.0} % (the worst of {all}): {} calls/s, with {} at the peak before and after",
                100.0 * worst.left(),
                significant(worst.goodput, 3),
                significant(worst.peak, 3)
            ),
            target: format!("{:.0} % of the peak", LEAST_GOODPUT * 100.0),
            passed: Some(worst.left() >= LEAST_GOODPUT),
        },
        Verdict {
            name: "Refusals, p99".to_owned(),
            value: if none { "none".to_owned() } else { format!("{} ms", significant(p99, 3)) },
            target: format!("within {SLOWEST_REFUSAL_MS} ms"),
            passed: Some(!none && p99 <= SLOWEST_REFUSAL_MS),
        },
    ];
    let plain = |name: String, value| Verdict { name, value, ..Verdict::default() };
    if !none {
        verdicts.push(plain("Refusals, median".to_owned(), format!("{} ms", significant(p50, 3))));
    }
    let failed: u64 = overs.iter().map(|over| over.tally.total(|second| second.failed)).sum();
    verdicts.push(plain("Neither answered nor refused".to_owned(), format!("{failed} calls")));
    verdicts.extend(overs.iter().flat_map(|over| &over.processes).map(|process| {
        plain(format!("{}: highest memory", process.label()), format!("{} MB", significant(process.max(), 4)))
    }));
    verdicts
}

/// What became of what was offered, from phase to phase.
fn rates_plot(phases: &[(String, Observed)]) -> Plot {
    let series = |name: &str, of: fn(&Observed) -> f64| {
        let mut points: Vec<_> =
            phases.iter().map(|(_, seen)| (rate(seen, |second| second.offered), of(seen))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), points }
    };
    Plot {
        title: "Answered by what was offered".to_owned(),
        x: Axis { label: "offered, calls/s".to_owned(), log: false },
        y: Axis { label: "calls/s".to_owned(), log: false },
        series: vec![
            series("answered", |seen| rate(seen, |second| second.answered)),
            series("in time", goodput),
            series("refused", |seen| rate(seen, |second| second.refused)),
        ],
        kind: PlotKind::Line,
    }
}

fn rate(observed: &Observed, of: fn(&crate::tally::Second) -> u64) -> f64 {
    observed.tally.total(of) as f64 / observed.duration.as_secs_f64()
}
