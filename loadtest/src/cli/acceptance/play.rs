//! The loads, repeat by repeat: candidate and baseline right after each other, so that both meet the same machine.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use embed_client::{CallOptions, Client};
use embed_schemas::{EmbedRequest, Slug};
use hdrhistogram::Histogram;

use super::{AcceptanceArgs, arm::Arm};
use crate::{
    acceptance::{
        BESIDE_BULK, Criteria, GpuUse, GpuWatch, MANY_CALLERS, Measure, Measured, ONE_CALLER, cost_per_million,
        mean_cosine,
    },
    cli::session::{Session, notes},
    closed_loop, memory,
    pattern::Profile,
    repeats::Repeats,
    report::Quantiles,
    tally::{Tally, latencies},
};

/// Parts of a load's time that each size of call takes in the comparison.
const SHARE_OF_A_SIZE: u32 = 6;
/// For one call to a model, which may have to be loaded first.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen.
pub(super) struct Played {
    pub(super) measured: Measured,
    pub(super) candidate: Arm,
    pub(super) baseline: Option<Arm>,
    /// Latencies by place, all repeats together.
    pub(super) latencies: BTreeMap<String, Histogram<u64>>,
    /// What candidate and baseline take, by texts in a call.
    pub(super) sizes: Vec<Compared>,
    /// What many callers get of each.
    pub(super) capacity: Compared,
    /// Texts a second in bulk, beside the last pattern.
    pub(super) bulk: Repeats,
    pub(super) notes: Vec<String>,
}

/// A figure of the candidate and of the baseline.
#[derive(Default)]
pub(super) struct Compared {
    /// Texts in a call.
    pub(super) texts: usize,
    pub(super) candidate: Repeats,
    pub(super) baseline: Repeats,
}

/// Plays everything.
pub(super) fn play(args: &AcceptanceArgs, criteria: &Criteria, session: &Session) -> anyhow::Result<Played> {
    let workers = session.wait_for(session.client.workers())?;
    let arm = |variant: Option<&Slug>| Arm::find(&workers, &args.target, variant, &criteria.batches);
    let candidate = arm(args.target.variant.as_ref())?;
    let baseline = args.baseline.as_ref().map(|variant| arm(Some(variant))).transpose()?;
    if let Some(baseline) = &baseline {
        ensure!(
            baseline.variant != candidate.variant,
            "--baseline {}: it is the variant that is measured; name another with --variant",
            baseline.variant
        );
    }
    let size = |texts: &usize| Compared { texts: *texts, ..Compared::default() };
    let mut played = Played {
        measured: Measured::new(),
        candidate,
        baseline,
        latencies: BTreeMap::new(),
        sizes: criteria.batches.iter().map(size).collect(),
        capacity: Compared { texts: args.target.texts_per_call, ..Compared::default() },
        bulk: Repeats::default(),
        notes: Vec::new(),
    };
    played.say_what_cannot_be_known(args);
    for repeat in 0..args.repeats {
        played.models(session)?;
        played.patterns(args, criteria, session)?;
        played.callers(args, criteria, session)?;
        played.sizes(args, session)?;
        played.vectors(session, repeat)?;
    }
    Ok(played)
}

/// What one variant did under many callers.
struct Busy {
    answered: f64,
    errors: f64,
    tally: Tally,
    gpu: Option<GpuUse>,
}

impl Played {
    fn say_what_cannot_be_known(&mut self, args: &AcceptanceArgs) {
        let no_device =
            if args.metrics.is_empty() { "--metrics was not given" } else { "no worker's metrics show a GPU" };
        self.measured.cannot(Measure::GpuUtilisation, no_device);
        self.measured.cannot(Measure::MemoryPerRequest, &format!("{no_device}, and --pid was not given"));
        self.measured.cannot(Measure::Cost, "--price was not given");
        let compared = [Measure::Cosine, Measure::P95SpeedUp, Measure::CostReduction, Measure::ErrorRateDifference];
        let reason = match &self.baseline {
            None => Some("--baseline was not given".to_owned()),
            Some(baseline) => baseline.is_no_fp32_on_cpu(),
        };
        if let Some(reason) = reason {
            compared.into_iter().for_each(|measure| self.measured.cannot(measure, &reason));
        }
        self.measured.cannot(Measure::CostReduction, "--price and --baseline-price were not both given");
    }

    /// Whether the baseline is what comparisons are to be made with.
    fn is_comparable(&self) -> bool {
        self.baseline.as_ref().is_some_and(|baseline| baseline.is_no_fp32_on_cpu().is_none())
    }

    fn models(&mut self, session: &Session) -> anyhow::Result<()> {
        let answer = session.wait_for(models_that_answer(&session.client))?;
        self.measured.add(Measure::Models, "", answer as f64);
        Ok(())
    }

    fn patterns(&mut self, args: &AcceptanceArgs, criteria: &Criteria, session: &Session) -> anyhow::Result<()> {
        let last = criteria.patterns.len() - 1;
        let loads = criteria.patterns.iter().map(|pattern| (pattern.name.as_str(), pattern.rate, false));
        for (name, rate, bulk) in loads.chain([(BESIDE_BULK, criteria.patterns[last].rate, true)]) {
            let target = &self.candidate.target;
            let profile = Profile::constant(rate, args.duration).after(target.load.warm_up);
            let watch = session.within(|| GpuWatch::start(&args.metrics))?;
            let observed = session.play(target, profile, bulk, args.duration)?;
            let gpu = watch.stop();
            self.notes.extend(notes(&format!("{name}: "), &observed));
            self.bulk.push(observed.bulk.as_ref().map_or(f64::NAN, |bulk| bulk.per_second()));
            self.count(name, &observed.tally, observed.duration, gpu);
        }
        Ok(())
    }

    /// What a load came to, at a place.
    fn count(&mut self, at: &str, tally: &Tally, duration: Duration, gpu: Option<GpuUse>) {
        let quantiles = Quantiles::of(&tally.latency);
        if !tally.latency.is_empty() {
            for (measure, value) in [
                (Measure::P50, quantiles.p50),
                (Measure::P75, quantiles.p75),
                (Measure::P95, quantiles.p95),
                (Measure::P99, quantiles.p99),
                (Measure::P999, quantiles.p999),
            ] {
                self.measured.add(measure, at, value);
            }
        }
        self.measured.add(Measure::Answered, at, tally.total(|second| second.answered) as f64 / duration.as_secs_f64());
        self.measured.add(Measure::ErrorRate, at, tally.error_percent());
        self.measured.add(Measure::BatchSize, at, tally.texts_per_run());
        if let Some(gpu) = gpu {
            self.measured.add(Measure::GpuUtilisation, at, gpu.utilisation);
        }
        let all = self.latencies.entry(at.to_owned()).or_insert_with(latencies);
        all.add(&tally.latency).expect("all have the same bounds");
    }

    fn callers(&mut self, args: &AcceptanceArgs, criteria: &Criteria, session: &Session) -> anyhow::Result<()> {
        let run = |arm: &Arm| -> anyhow::Result<Busy> {
            let watch = session.within(|| GpuWatch::start(&args.metrics))?;
            let load = &arm.target.load;
            let tally =
                session.wait_for(closed_loop::run(session.client.nats(), load, criteria.callers, args.duration));
            let answered = tally.total(|second| second.answered) as f64 / args.duration.as_secs_f64();
            Ok(Busy { answered, errors: tally.error_percent(), tally, gpu: watch.stop() })
        };
        let candidate = run(&self.candidate)?;
        let resident: f64 = args.target.pid.iter().filter_map(|id| memory::now_and_most(*id)).map(|(now, _)| now).sum();
        self.count(MANY_CALLERS, &candidate.tally, args.duration, candidate.gpu);
        let in_use = candidate.gpu.map(|gpu| gpu.memory_mb).or((resident > 0.0).then_some(resident));
        if let Some(megabytes) = in_use {
            self.measured.add(Measure::MemoryPerRequest, MANY_CALLERS, megabytes / criteria.callers as f64);
        }
        let texts = self.capacity.texts as f64;
        self.capacity.candidate.push(candidate.answered * texts);
        let cost = |price: f64, answered: f64| cost_per_million(price, answered) / 1e6;
        if let Some(price) = args.price {
            self.measured.add(Measure::Cost, MANY_CALLERS, cost(price, candidate.answered));
        }
        if let Some(baseline) = &self.baseline {
            let seen = run(baseline)?;
            self.capacity.baseline.push(seen.answered * texts);
            if self.is_comparable() {
                let apart = (candidate.errors - seen.errors).abs();
                self.measured.add(Measure::ErrorRateDifference, MANY_CALLERS, apart);
                if let Some((ours, theirs)) = args.price.zip(args.baseline_price) {
                    let share = cost(ours, candidate.answered) / cost(theirs, seen.answered);
                    self.measured.add(Measure::CostReduction, MANY_CALLERS, (1.0 - share) * 100.0);
                }
            }
        }
        Ok(())
    }

    /// One caller, who waits for each answer, with so many texts in a call.
    fn sizes(&mut self, args: &AcceptanceArgs, session: &Session) -> anyhow::Result<()> {
        let duration = args.duration / SHARE_OF_A_SIZE;
        let run = |arm: &Arm, n: usize| {
            let load = &arm.batches[n].1.load;
            session.wait_for(closed_loop::run(session.client.nats(), load, 1, duration))
        };
        for n in 0..self.sizes.len() {
            let candidate = run(&self.candidate, n);
            let ours = Quantiles::of(&candidate.latency);
            if !candidate.latency.is_empty() {
                self.sizes[n].candidate.push(ours.p50);
            }
            if self.sizes[n].texts == 1 {
                self.count(ONE_CALLER, &candidate, duration, None);
            }
            let Some(baseline) = &self.baseline else { continue };
            let seen = run(baseline, n);
            let theirs = Quantiles::of(&seen.latency);
            if !seen.latency.is_empty() {
                self.sizes[n].baseline.push(theirs.p50);
            }
            if self.sizes[n].texts == 1 && self.is_comparable() {
                self.measured.add(Measure::P95SpeedUp, ONE_CALLER, theirs.p95 / ours.p95);
            }
        }
        Ok(())
    }

    fn vectors(&mut self, session: &Session, repeat: usize) -> anyhow::Result<()> {
        if let Some(baseline) = self.baseline.as_ref().filter(|_| self.is_comparable()) {
            let both = async {
                let client = &session.client;
                tokio::try_join!(self.candidate.vectors(client, repeat), baseline.vectors(client, repeat))
            };
            let (ours, theirs) = session.wait_for(both)?;
            self.measured.add(Measure::Cosine, "", mean_cosine(&ours, &theirs).unwrap_or(f64::NAN));
        }
        Ok(())
    }
}

/// Asks each model that workers say they serve.
async fn models_that_answer(client: &Client) -> anyhow::Result<usize> {
    let mut answer = 0;
    for served in client.served().await? {
        let options = CallOptions::default().timeout(PATIENCE);
        let asked = client.embed(&served.model, EmbedRequest::new(["hello world"]), &options).await;
        answer += usize::from(asked.is_ok_and(|result| result.vector(0).is_ok()));
    }
    Ok(answer)
}
