//! A stage's windows: gathered from what workers publish, kept as they are judged, and judged one after the other.
//!
//! A window is judged a moment after its end, and never again: a controller that takes over, and whoever replays the record, has
//! the same windows and comes to the same verdicts.

use std::collections::BTreeSet;

use embed_rollout::{
    Check, Decision, Rollout, Rule, Verdict,
    evidence::Collector,
    record::{self, Recorded, StageRecord, Window},
    state::{Phase, Versions},
};

use super::{RolloutError, now_ms, probes, statistics::Reader, store::Store, weights};
use embed_client::Client;

use crate::route::Router;

/// How long after its end a window may still be added to: a report has to come from the worker, through the stream.
const LATE_MS: u64 = 2_000;
/// Looks in a row that must find nobody who serves the candidate. One may miss the answer of a busy worker.
const LOST: u32 = 2;

/// A stage that is being watched.
#[derive(Debug)]
pub(super) struct Watch {
    record: StageRecord,
    rule: Rule,
    collector: Collector,
    reader: Reader,
    texts: Vec<String>,
    probes: Option<Vec<f64>>,
    lost: u32,
}

/// What a turn has come to.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Windows that were judged.
    pub(super) windows: u32,
    /// Requests of both arms in the stage so far.
    pub(super) requests: [u64; 2],
    /// The last verdict at a look, if there was one.
    pub(super) verdict: Option<Verdict>,
}

impl Watch {
    /// Takes up a stage where it stands. `None` if the rollout is in none.
    pub(super) async fn begin(client: &Client, store: &Store, rollout: &Rollout) -> Result<Option<Self>, RolloutError> {
        let Some(stage) = rollout.stage() else { return Ok(None) };
        let record = store.stage(rollout, stage.clone()).await?;
        let length = record::window_ms(rollout);
        let (model, from, to) = (rollout.model.clone(), rollout.from.clone(), rollout.to.clone());
        Ok(Some(Self {
            rule: Rule::new(rollout.config.clone())?,
            collector: Collector::new(model, from, to, length, &rollout.lanes),
            reader: Reader::new(client.nats().clone(), &rollout.model, stage.stats_after),
            texts: store.texts(rollout).await?.unwrap_or_default(),
            probes: record.verdicts.iter().rev().find_map(|recorded| recorded.probes.clone()),
            lost: 0,
            record,
        }))
    }

    /// Whether this is the stage that the rollout is in.
    pub(super) fn is_of(&self, rollout: &Rollout) -> bool {
        rollout.stage().is_some_and(|stage| stage.number == self.record.stage.number)
    }

    /// Looks at everything once: the route, who serves what, and the windows that have ended since.
    pub(super) async fn turn(
        &mut self,
        client: &Client,
        router: &Router,
        store: &Store,
        rollout: &mut Rollout,
    ) -> Result<Turn, RolloutError> {
        if let Some(reason) = weights::changed_since(router, rollout).await? {
            rollout.interrupted(reason, now_ms());
        }
        self.look_at_workers(weights::versions(client, rollout).await?, rollout);
        self.reader.read_into(&mut self.collector).await?;
        let mut turn = Turn::default();
        while self.is_of(rollout) && self.is_over(rollout) {
            let verdict = self.window(client, store, rollout).await?;
            turn.windows += 1;
            turn.verdict = verdict.or(turn.verdict);
        }
        for window in &self.record.windows {
            turn.requests[0] += window.baseline.requests;
            turn.requests[1] += window.candidate.requests;
        }
        Ok(turn)
    }

    fn look_at_workers(&mut self, now: Versions, rollout: &mut Rollout) {
        self.lost = if now.to.is_empty() { self.lost + 1 } else { 0 };
        if self.lost >= LOST {
            let reason = format!("no worker serves {} any more", rollout.to);
            return rollout.candidate_lost(reason, now_ms());
        }
        let Some(stage) = rollout.stage() else { return };
        let then = &stage.versions;
        let new = |now: &BTreeSet<String>, then: &BTreeSet<String>| now.difference(then).next().cloned();
        // Versions that are gone are not new evidence: a worker may just have been too busy to answer.
        let changed = [(&rollout.from, new(&now.from, &then.from)), (&rollout.to, new(&now.to, &then.to))];
        let say = |(variant, version): (&_, Option<String>)| {
            Some(format!("{variant} now serves version {}: the step begins anew", version?))
        };
        let sentence = changed.into_iter().find_map(say);
        if let Some(sentence) = sentence {
            rollout.version_changed(sentence, now_ms());
        }
    }

    /// Whether the next window can be judged.
    fn is_over(&self, rollout: &Rollout) -> bool {
        let Some(stage) = rollout.stage() else { return false };
        let length = u64::from(record::window_ms(rollout));
        now_ms() >= stage.from_ms + u64::from(stage.windows + 1) * length + LATE_MS
    }

    /// Keeps the next window, and judges all up to it. The verdict is returned if it is one of a look.
    async fn window(
        &mut self,
        client: &Client,
        store: &Store,
        rollout: &mut Rollout,
    ) -> Result<Option<Verdict>, RolloutError> {
        let (number, judged) = (self.record.stage.number, rollout.stage().map_or(0, |stage| stage.windows));
        let length = u64::from(record::window_ms(rollout));
        if self.record.windows.len() <= judged as usize {
            let from = self.record.stage.from_ms + u64::from(judged) * length;
            let mut evidence = self.collector.evidence(rollout.percent(), from, from + length);
            let take = |arm: &mut embed_rollout::Arm| arm.windows.pop().unwrap_or_default();
            let (baseline, candidate) = (take(&mut evidence.baseline), take(&mut evidence.candidate));
            let window = Window { baseline, candidate };
            store.put_window(rollout, number, judged, &window).await?;
            self.record.windows.push(window);
            self.collector.forget_before(from);
        }
        let windows = judged + 1;
        let known = self.record.verdicts.iter().find(|recorded| recorded.verdict.windows == windows).cloned();
        let recorded = match known {
            Some(recorded) => recorded,
            None => self.judge(client, store, rollout, windows).await?,
        };
        let record = &self.record;
        rollout.judged(windows, &recorded.verdict, || record.baseline(), now_ms());
        Ok(matches!(recorded.verdict.check, Check::Look(_)).then_some(recorded.verdict))
    }

    async fn judge(
        &mut self,
        client: &Client,
        store: &Store,
        rollout: &Rollout,
        windows: u32,
    ) -> Result<Recorded, RolloutError> {
        let plan = &rollout.config.plan;
        let paused = matches!(rollout.phase, Phase::Paused { .. });
        let look = (1..=plan.looks).find(|look| !paused && plan.windows_at(*look) == windows);
        let check = look.map_or(Check::Window, Check::Look);
        if look.is_some() && rollout.config.probes.required {
            // Without an answer nothing is known: that is no agreement, and no promotion.
            self.probes = probes::cosines(client, rollout, &self.texts)
                .await
                .inspect_err(|error| tracing::warn!(%error, "the variants cannot be probed"))
                .ok();
        }
        let evidence = self.record.evidence(rollout, windows, self.probes.as_deref());
        let number = self.record.stage.number;
        let (rule, seed) = (self.rule.clone(), record::seed(&rollout.id, number, windows));
        // Resampling takes a while; whatever else runs here must not wait for it.
        let verdict = tokio::task::spawn_blocking(move || rule.verdict(&evidence, check, seed)).await;
        let verdict = verdict.map_err(|error| crate::Error::Settings(format!("the verdict failed: {error}")))?;
        let recorded = Recorded { when_ms: now_ms(), probes: self.probes.clone(), verdict };
        if look.is_some() || recorded.verdict.decision != Decision::Hold {
            store.put_verdict(rollout, number, &recorded).await?;
            self.record.verdicts.push(recorded.clone());
        }
        Ok(recorded)
    }
}
