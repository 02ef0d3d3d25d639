//! What must be so before any traffic moves: both variants are served, warm and verified, in one space; statistics come from both;
//! the traffic is at the baseline, and there is enough of it to decide by; and the vectors agree.

use std::time::Duration;

use embed_rollout::{
    Collector, ConfigError, Finding, Rollout, agreement,
    power::{self, Answer, Traffic},
};
use embed_schemas::{
    Slug, VariantStats,
    serving::{VariantState, VariantStatus},
    streams::STATS_STREAM,
    subjects, wire,
};
use serde_json::json;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    RolloutError,
    means::Means,
    milliseconds, probes,
    statistics::{From, Reader},
    weights,
    workers::statuses,
};

use crate::{Error, bucket};

/// Windows after which a report is no sign of life any more.
const RECENT: u64 = 4;

/// How far back a window is looked for, if the last is nobody's that is known.
const LOOK_BACK: Duration = Duration::from_secs(60);
/// How far back the traffic is looked at, and in how many requests at most.
const LATELY: Duration = Duration::from_secs(600);
const MOST_BATCHES: usize = 200;

/// Whether a plan can decide, while that is being found out: see [`power::check`].
pub(super) type Checking = JoinHandle<Result<Answer, ConfigError>>;

/// What the checks have found.
#[derive(Debug)]
pub(super) enum Found {
    /// All is well. Traffic may move, over this revision of the route.
    Ready {
        /// For the record.
        sentence: String,
        /// The route's revision.
        route_revision: u64,
        /// Length of the windows that workers publish, in milliseconds.
        window_ms: u32,
    },
    /// Not yet: something is still being computed here, and will come by itself.
    Busy(String),
    /// Not yet: this may come by itself.
    NotYet(String),
    /// It will not come by itself.
    Never(String),
}

/// `power` is kept from one check to the next.
pub(super) async fn check(
    means: &Means<'_>,
    rollout: &Rollout,
    power: &mut Option<Checking>,
) -> Result<Found, RolloutError> {
    let Means { client, router, store, .. } = means;
    let workers = means.known.ask(client, means.time.now_ms()).await?;
    let [from, to] = [&rollout.from, &rollout.to].map(|variant| statuses(&workers, &rollout.model, variant));
    let (from, to) = (from.as_slice(), to.as_slice());
    for (variant, statuses) in [(&rollout.from, from), (&rollout.to, to)] {
        if let Some(why) = not_live(variant, statuses) {
            return Ok(Found::NotYet(why));
        }
    }
    if rollout.config.probes.required
        && let Some(why) = two_spaces(rollout, from, to)
    {
        return Ok(Found::Never(why));
    }
    let window_ms = match windows(means, rollout).await? {
        Ok(length) => length,
        Err(why) => return Ok(Found::NotYet(why)),
    };
    router.can_put().await?;
    let (route_revision, record) = router.current(&rollout.model).await?;
    let default = from.iter().all(|status| status.default);
    if let Some(why) = weights::elsewhere(rollout, record.as_ref(), default) {
        return Ok(Found::Never(why));
    }
    let uncertain = match can_decide(means, rollout, window_ms, power).await? {
        Some(Ok(uncertain)) => uncertain,
        Some(Err(why)) => return Ok(Found::NotYet(why)),
        None => return Ok(Found::Busy("the plan is being checked against the traffic".to_owned())),
    };
    let mut sentence = format!("{} is live, verified and warm on {} workers", rollout.to, to.len());
    if rollout.config.probes.required {
        let texts = store.texts(rollout).await?.unwrap_or_default();
        let cosines = match probes::cosines(client, rollout, &texts, means.lease / 2).await {
            Ok(cosines) => cosines,
            Err(error) => return Ok(Found::NotYet(format!("the variants cannot be probed: {error}"))),
        };
        let agreement = agreement(&rollout.config, &cosines, 0);
        if agreement.finding != Finding::Pass {
            return Ok(Found::Never(agreement.sentence));
        }
        sentence = format!("{sentence}; {}", agreement.sentence);
    }
    if let Some(uncertain) = uncertain {
        sentence = format!("{sentence}; {uncertain}");
    }
    Ok(Found::Ready { sentence, route_revision, window_ms })
}

/// Live means loaded, warm, and that it has reproduced its golden vectors: a worker lets no version go live otherwise.
fn not_live(variant: &Slug, statuses: &[&VariantStatus]) -> Option<String> {
    if statuses.is_empty() {
        return Some(format!("no worker serves {variant}"));
    }
    let not = statuses.iter().find(|status| status.state != VariantState::Live)?;
    let why = not.failed.as_ref().map(|failed| format!(" ({}: {})", failed.version, failed.reason)).unwrap_or_default();
    Some(format!("{variant} is {} on a worker{why}", not.state.as_str()))
}

fn two_spaces(rollout: &Rollout, from: &[&VariantStatus], to: &[&VariantStatus]) -> Option<String> {
    let spaces = |statuses: &[&VariantStatus]| -> Vec<String> {
        let mut spaces: Vec<_> =
            statuses.iter().filter_map(|status| Some(status.live.as_ref()?.space.clone())).collect();
        spaces.sort();
        spaces.dedup();
        spaces
    };
    let (a, b) = (spaces(from), spaces(to));
    (a != b || a.len() != 1).then(|| {
        format!(
            "{} is in space {}, {} in {}: their vectors cannot be compared, and would end up in one index. --across-spaces \
             goes on all the same",
            rollout.from,
            a.join(", "),
            rollout.to,
            b.join(", ")
        )
    })
}

/// What the plan comes to at the traffic of the last minutes: what is uncertain, or why nothing can come of it. `None` if that
/// takes longer than others may be left without a sign: to be asked again.
async fn can_decide(
    means: &Means<'_>,
    rollout: &Rollout,
    window_ms: u32,
    checking: &mut Option<Checking>,
) -> Result<Option<Result<Option<String>, String>>, RolloutError> {
    let mut config = rollout.config.clone();
    config.plan.window = Duration::from_millis(u64::from(window_ms));
    if config.plan.any_traffic || config.validate().is_err() {
        // What makes no sense is refused for that.
        return Ok(Some(Ok(None)));
    }
    let mut running = match checking.take() {
        Some(running) => running,
        None => {
            let traffic = traffic(means, rollout, window_ms).await?;
            if let Some(known) = means.store.power(rollout).await?
                && known.is_about(window_ms, traffic)
            {
                // Found out before, perhaps by a controller before this one.
                return Ok(Some(known.found));
            }
            // It simulates, which takes a while.
            tokio::task::spawn_blocking(move || {
                Ok(Answer { window_ms, traffic, found: power::check(&config, traffic)? })
            })
        }
    };
    let Ok(checked) = tokio::time::timeout(means.lease / 3, &mut running).await else {
        *checking = Some(running);
        return Ok(None);
    };
    let failed = |error| Error::Settings(format!("the plan could not be checked: {error}"));
    let answer = checked.map_err(failed)??;
    means.store.put_power(rollout, &answer).await?;
    Ok(Some(answer.found))
}

/// The baseline's traffic in the last minutes, as far back as its workers report.
async fn traffic(means: &Means<'_>, rollout: &Rollout, window_ms: u32) -> Result<Traffic, Error> {
    let (now, length) = (means.time.now_ms(), u64::from(window_ms));
    let (model, from, to) = (rollout.model.clone(), rollout.from.clone(), rollout.to.clone());
    let mut collector = Collector::new(model, from, to, window_ms, &rollout.lanes);
    let mut reader =
        Reader::windows(means.client.nats().clone(), &rollout.model, From::Time(now - milliseconds(LATELY).min(now)));
    let (mut begin, mut end) = (now, now);
    let until = Instant::now() + means.lease / 6;
    for batch in 1.. {
        let Some(reports) = reader.batch(wire::decode_stats).await? else {
            // That is all there is.
            end = now;
            break;
        };
        for (stored_ms, report) in reports.into_iter().filter(|(_, report)| means.known.counts(report)) {
            end = stored_ms.min(now);
            if report.variant == rollout.from {
                begin = begin.min(stored_ms.saturating_sub(length));
            }
            // What is no part of it does not matter here.
            drop(collector.add(report, Some(stored_ms)));
        }
        if batch >= MOST_BATCHES || Instant::now() >= until {
            // Of what came later nothing is known: it is no time without traffic.
            break;
        }
    }
    let windows = collector.evidence(0.0, 0, begin.min(end), end).baseline.windows;
    Ok(Traffic::of(&windows, Duration::from_millis(length), &rollout.config))
}

/// The length of both variants' windows, in milliseconds; or why there are none.
async fn windows(means: &Means<'_>, rollout: &Rollout) -> Result<Result<u32, String>, Error> {
    let now_ms = means.time.now_ms();
    let mut lengths = Vec::new();
    for variant in [&rollout.from, &rollout.to] {
        let recent = last_window(means, rollout, variant, now_ms)
            .await?
            .filter(|report| report.end_ms() + u64::from(report.length_ms).max(1_000) * RECENT > now_ms);
        match recent {
            Some(report) => lengths.push(report.length_ms),
            None => return Ok(Err(format!("no worker publishes statistics of {variant} (worker.stats_window)"))),
        }
    }
    if lengths[0] != lengths[1] {
        return Ok(Err(format!(
            "windows of {} have {} ms, those of {} {} ms: set worker.stats_window alike on all workers",
            rollout.from, lengths[0], rollout.to, lengths[1]
        )));
    }
    Ok(Ok(lengths[0]))
}

/// The last window of a variant that a worker has published which discovery knows.
async fn last_window(
    means: &Means<'_>,
    rollout: &Rollout,
    variant: &Slug,
    now_ms: u64,
) -> Result<Option<VariantStats>, Error> {
    let subject = subjects::stats(&rollout.model, variant);
    let found = bucket::message(means.client.nats(), STATS_STREAM, &json!({"last_by_subj": subject})).await?;
    let counts = |report: &VariantStats| means.known.counts(report);
    let last = found.and_then(|found| wire::decode_stats(&found.payload).ok()).filter(counts);
    if last.is_some() {
        return Ok(last);
    }
    // Somebody else's may stand before it.
    let from = From::Time(now_ms - milliseconds(LOOK_BACK).min(now_ms));
    let mut reader = Reader::new(means.client.nats().clone(), subject, from);
    let (mut last, until) = (None, Instant::now() + means.lease / 6);
    while let Some(reports) = reader.batch(wire::decode_stats).await? {
        last = reports.into_iter().map(|(_, report)| report).rfind(counts).or(last);
        if Instant::now() >= until {
            break;
        }
    }
    Ok(last)
}
