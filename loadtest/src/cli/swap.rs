//! `swap`: what callers notice when other versions of a model go live.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use embed_connect::ConnectSettings;
use embed_registry::Registry;
use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use embed_schemas::Slug;
use serde_json::{Value, json};

use super::{
    session::{Session, finish, notes, swap_bar},
    target::{Target, TargetArgs, parse_duration, parse_some_time},
};
use crate::{
    end::End,
    pattern::Profile,
    report::{Better, Document, Figure, Group, Named, Quantiles, call_plots, figures, memory_plot, summary},
    scenario::{Observed, Scenario},
    swaps::{Phase, Phases, Plan, Swap},
    tally::Done,
};

/// How many times the p99 without swaps the p99 during swaps may be.
const MOST_RATIO: f64 = 2.0;
/// Within which a version that was kept warm must be live again, seconds.
const SLOWEST_ROLLBACK: f64 = 1.0;
/// No run is longer; it ends with the last swap.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Args)]
pub(super) struct SwapArgs {
    /// The workers' model registry: its pointer is moved, and put back in the end
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    registry: String,
    /// The versions that go live in turn [default: all of the model]
    #[arg(long, value_delimiter = ',', value_name = "VERSION,…")]
    versions: Vec<String>,
    /// How many times another version goes live
    #[arg(long, default_value_t = 20)]
    swaps: usize,
    /// How many times, after that, the version before goes live again at once
    #[arg(long, default_value_t = 5)]
    rollbacks: usize,
    /// Before each swap. Longer than the workers' models.keep_previous, or nothing has to be loaded
    #[arg(long, default_value = "3", value_parser = parse_duration, value_name = "DURATION")]
    pause: Duration,
    /// Before the first swap and after the last, for comparison
    #[arg(long, default_value = "30", value_parser = parse_some_time, value_name = "DURATION")]
    quiet: Duration,
    /// Calls a second
    #[arg(long, short, default_value_t = 20.0)]
    rate: f64,
    /// Bulk jobs beside them, as many as the workers take
    #[arg(long)]
    bulk: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What was seen.
struct Seen {
    observed: Observed,
    swaps: Vec<Swap>,
    phases: Phases,
}

impl SwapArgs {
    pub(super) fn run(self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        ensure!(self.rate > 0.0 && self.rate.is_finite(), "--rate: must be above 0");
        ensure!(self.swaps > 0, "--swaps: must be above 0");
        let target = self.target.prepare(self.bulk, None)?;
        let session = Session::open(nats)?;
        let plan = session.wait_for(self.plan(&target))?;
        let target = target.with(json!({
            "rate, calls/s": self.rate, "bulk": self.bulk, "versions": plan.versions.join(", "), "swaps": self.swaps,
            "rollbacks": self.rollbacks, "pause, s": self.pause.as_secs_f64(), "quiet, s": self.quiet.as_secs_f64(),
        }));
        session.wait_for(plan.workers(&session.client))?;
        let beside = if self.bulk { " beside bulk jobs" } else { "" };
        let title = format!("Swap test: {} swaps under {} calls/s{beside}", self.swaps, self.rate);
        let mut document = Document::begin("swap", title, target.parameters.clone());
        let seen = self.play(&session, &target, &plan)?;
        let named = Named("", &seen.observed);
        document.verdicts = verdicts(&seen);
        document.figures = figures(&[named]);
        document.figures.extend(
            phases(&seen.phases)
                .map(|(name, phase)| Quantiles::of(&phase.latency).group(format!("latency, {name}"), Better::Lower)),
        );
        document.figures.push(times(&seen.swaps));
        document.plots = vec![plot(&seen.swaps)];
        document.plots.extend(call_plots(named, self.target.slo_ms));
        document.plots.extend(memory_plot(named));
        document.notes = notes("", &seen.observed);
        if loaded(&seen.swaps).count() < self.swaps {
            document.notes.push(format!(
                "{} of {} swaps had to load a version; for the others the workers had kept it. Set models.keep_previous \
                 below --pause, and all load.",
                loaded(&seen.swaps).count(),
                self.swaps
            ));
        }
        document.detail = summary(&seen.observed);
        document.detail.extend([
            (
                "phases".to_owned(),
                phases(&seen.phases).map(|(name, phase)| (name, detail(phase))).into_iter().collect(),
            ),
            ("p99_ratio".to_owned(), json!(ratio(&seen.phases.during, &seen.phases.without))),
            ("swaps".to_owned(), json!(seen.swaps)),
        ]);
        finish(&document, self.target.out.as_deref(), json)
    }

    async fn plan(&self, target: &Target) -> anyhow::Result<Plan> {
        let model: Slug = target.bulk.model.clone();
        let registry = Registry::open(&self.registry)?;
        let there = registry.versions(&model).await?;
        let versions = if self.versions.is_empty() { there.clone() } else { self.versions.clone() };
        for version in &versions {
            ensure!(
                there.contains(version),
                "--versions: {model} has no version {version}; it has {}",
                there.join(", ")
            );
        }
        ensure!(versions.len() >= 2, "--versions: {model} has one version only, {}", versions.join(", "));
        let variant = target.bulk.variant.clone();
        let (swaps, rollbacks, pause, quiet) = (self.swaps, self.rollbacks, self.pause, self.quiet);
        Ok(Plan { registry, model, variant, versions, swaps, rollbacks, pause, quiet })
    }

    /// Calls all the time; swaps after the warm-up.
    fn play(&self, session: &Session, target: &Target, plan: &Plan) -> anyhow::Result<Seen> {
        let bar = swap_bar((self.swaps + self.rollbacks) as u64);
        let end = End::when_called();
        let warm_up = target.load.warm_up;
        let scenario = Scenario {
            schedule: target.schedule(Profile::constant(self.rate, LONGEST_RUN)),
            load: target.load.clone(),
            bulk: self.bulk.then(|| target.bulk.clone()),
            processes: target.processes.clone(),
            end: end.clone(),
        };
        let mut calls: Vec<Done> = Vec::new();
        let start = Instant::now();
        let swapping = async {
            tokio::time::sleep(warm_up).await;
            let swaps = plan.run(&session.client, start, |_| bar.inc(1)).await;
            end.call();
            swaps
        };
        let playing = scenario.play(&session.client, &session.bulk, start, |done| calls.push(done.clone()));
        let (observed, swaps) = session.wait_for(async { tokio::try_join!(playing, swapping) })?;
        bar.finish_and_clear();
        let phases = Phases::of(&calls, &swaps, warm_up);
        Ok(Seen { observed, swaps, phases })
    }
}

fn loaded(swaps: &[Swap]) -> impl Iterator<Item = &Swap> {
    swaps.iter().filter(|swap| !swap.kept && !swap.rollback)
}

fn kept(swaps: &[Swap]) -> impl Iterator<Item = &Swap> {
    swaps.iter().filter(|swap| swap.kept)
}

fn phases(phases: &Phases) -> [(&'static str, &Phase); 3] {
    [("during swaps", &phases.during), ("between swaps", &phases.between), ("without swaps", &phases.without)]
}

fn detail(phase: &Phase) -> Value {
    json!({ "calls": phase.calls, "errors": phase.errors, "latency_ms": Quantiles::of(&phase.latency) })
}

/// How many times the p99 of the one the p99 of the other is.
fn ratio(phase: &Phase, to: &Phase) -> f64 {
    Quantiles::of(&phase.latency).p99 / Quantiles::of(&to.latency).p99
}

/// The middle one and the longest, seconds.
fn middle_and_longest<'a>(swaps: impl Iterator<Item = &'a Swap>) -> Option<(f64, f64)> {
    let mut seconds: Vec<f64> = swaps.map(Swap::seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Some((*seconds.get(seconds.len() / 2)?, *seconds.last()?))
}

fn verdicts(seen: &Seen) -> Vec<Verdict> {
    let Seen { observed, swaps, phases: Phases { during, between, without } } = seen;
    let plain = |name: &str, value| Verdict { name: name.to_owned(), value, ..Verdict::default() };
    let ms = |phase: &Phase| {
        let more =
            if phase.errors > 0 { format!(", {} of which were not answered", phase.errors) } else { String::new() };
        format!("{} ms, of {} calls{more}", significant(Quantiles::of(&phase.latency).p99, 3), phase.calls)
    };
    let errors = observed.tally.total(|second| second.refused + second.failed);
    let due = observed.tally.total(|second| second.offered);
    let times = ratio(during, without);
    let seconds =
        |(middle, longest)| format!("{} s, the longest {} s", significant(middle, 3), significant(longest, 3));
    let none = || "none".to_owned();
    let rollback = middle_and_longest(kept(swaps));
    let mut verdicts = vec![
        Verdict {
            name: "Calls not answered".to_owned(),
            value: format!("{errors} of {due}"),
            target: "0".to_owned(),
            passed: Some(errors == 0 && due > 0),
        },
        plain("Latency without swaps, p99", ms(without)),
        plain("Latency during swaps, p99", ms(during)),
        Verdict {
            name: "The same, to that without swaps".to_owned(),
            value: format!("{} x", significant(times, 3)),
            target: format!("at most {MOST_RATIO} x"),
            passed: Some(times <= MOST_RATIO),
        },
        plain("Latency between swaps, p99", ms(between)),
        plain("From promotion to live", middle_and_longest(loaded(swaps)).map_or_else(none, seconds)),
        Verdict {
            name: "From rollback to live".to_owned(),
            value: rollback.map_or_else(none, seconds),
            target: format!("under {SLOWEST_ROLLBACK} s"),
            passed: rollback.map(|(_, longest)| longest < SLOWEST_ROLLBACK),
        },
    ];
    if let Some(bulk) = &observed.bulk {
        let failed = bulk.errors.values().sum::<u64>();
        verdicts.push(Verdict {
            name: "Bulk jobs failed".to_owned(),
            value: failed.to_string(),
            target: "0".to_owned(),
            passed: Some(failed == 0),
        });
        verdicts.push(plain("Bulk throughput", format!("{} texts/s", significant(bulk.per_second(), 4))));
    }
    verdicts
}

fn times(swaps: &[Swap]) -> Group {
    let figure = |name, value: Option<f64>| Figure::new(name, "s", value.unwrap_or(f64::NAN), Better::Lower);
    let (load, back) = (middle_and_longest(loaded(swaps)), middle_and_longest(kept(swaps)));
    let figures = vec![
        figure("loaded, median", load.map(|(middle, _)| middle)),
        figure("loaded, longest", load.map(|(_, longest)| longest)),
        figure("kept, median", back.map(|(middle, _)| middle)),
        figure("kept, longest", back.map(|(_, longest)| longest)),
    ];
    Group { name: "promotion to live".to_owned(), figures }
}

fn plot(swaps: &[Swap]) -> Plot {
    let points =
        |kept: bool| swaps.iter().filter(move |swap| swap.kept == kept).map(|swap| (swap.promoted, swap.seconds()));
    let series = |name: &str, kept| Series { name: name.to_owned(), points: points(kept).collect() };
    Plot {
        title: "From promotion to live".to_owned(),
        x: Axis { label: "seconds, warm-up included".to_owned(), log: false },
        y: Axis { label: "seconds".to_owned(), log: true },
        series: vec![series("loaded", false), series("kept warm", true)],
        kind: PlotKind::Line,
    }
}
