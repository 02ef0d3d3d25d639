//! A stage that is being watched: its windows are gathered, kept as they are judged, and judged one after the other.
//!
//! A controller that takes over, and whoever replays the record, has the same windows and comes to the same verdicts. While a rollout is
//! paused nothing is kept: its last windows are looked at, however long that lasts.

use std::collections::BTreeSet;

use embed_rollout::{
    Check, Decision, Evidence, Rollout, Rule, Verdict,
    evidence::Rejected,
    follow::{Follower, PausedFollower},
    record::{self, PausedWindows, Recorded, StageRecord},
    state::{Phase, Versions},
};
use embed_schemas::{VariantStats, wire::decode_stats};
use tokio::time::Instant;

use super::{
    RolloutError,
    known::Waiting,
    means::Means,
    milliseconds, probes,
    statistics::{From, Reader},
    weights,
    workers::Serving,
};

/// A stage that is being watched.
#[derive(Debug)]
pub(super) struct Watch {
    of: Watched,
    following: Following,
    rule: Rule,
    reader: Reader,
    /// Of workers that were not known when they came.
    waiting: Waiting<VariantStats>,
    texts: Vec<String>,
    probes: Option<Vec<f64>>,
    /// Since when nobody has served the candidate, by the server's time.
    gone_since_ms: Option<u64>,
}

/// A stage of a rollout, and whether that is paused in it: each is watched anew. Stages of two rollouts have the same numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watched {
    rollout: String,
    number: u32,
    paused: bool,
}

impl Watched {
    /// Where the rollout is. `None` if it is in no stage.
    fn of(rollout: &Rollout) -> Option<Self> {
        let (number, paused) = (rollout.stage()?.number, matches!(rollout.phase, Phase::Paused { .. }));
        Some(Self { rollout: rollout.id.clone(), number, paused })
    }
}

#[derive(Debug)]
enum Following {
    Holding(Follower),
    Paused(PausedFollower, StageRecord),
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
    /// Whether there is more to do at once. It was left for another turn, so that a sign is given in between.
    pub(super) more: bool,
}

impl Watch {
    /// Takes up a stage where it stands. `None` if the rollout is in none.
    pub(super) async fn begin(means: &Means<'_>, rollout: &Rollout) -> Result<Option<Self>, RolloutError> {
        let (Some(stage), Some(of)) = (rollout.stage(), Watched::of(rollout)) else { return Ok(None) };
        means.store.put_stage(rollout, stage).await?;
        let record = means.store.stage(rollout, stage.clone()).await?;
        let probes = record.verdicts.iter().rev().find_map(|recorded| recorded.probes.clone());
        let (step, now) = (stage.step, means.time.now_ms());
        let (following, from) = if of.paused {
            let Some(follower) = PausedFollower::new(rollout, now) else { return Ok(None) };
            (Following::Paused(follower, record), From::Time(now))
        } else {
            let from = match stage.windows {
                // What the server had before the stage began is nothing to it.
                0 => From::Sequence(stage.stats_after + 1),
                judged => From::Time(Follower::new(rollout, record.clone()).read_from_ms(judged)),
            };
            (Following::Holding(Follower::new(rollout, record)), from)
        };
        Ok(Some(Self {
            of,
            following,
            rule: Rule::new(rollout.config.at(step))?,
            reader: Reader::windows(means.client.nats().clone(), &rollout.model, from),
            waiting: Waiting::default(),
            texts: means.store.texts(rollout).await?.unwrap_or_default(),
            probes,
            gone_since_ms: None,
        }))
    }

    /// Whether this is the stage that the rollout is in.
    pub(super) fn is_of(&self, rollout: &Rollout) -> bool {
        Watched::of(rollout).as_ref() == Some(&self.of)
    }

    /// Looks at everything once: the route, who serves what, and the windows that have ended since. `last` is the last message of the stream
    /// of statistics. No longer than a third of the lease, or a step of it.
    pub(super) async fn turn(
        &mut self,
        means: &Means<'_>,
        rollout: &mut Rollout,
        last: u64,
    ) -> Result<Turn, RolloutError> {
        let until = Instant::now() + means.lease / 3;
        if let Some(reason) = weights::changed_since(means.router, rollout).await? {
            // Nothing is done about what is seen while another's route stands. It stays paused until a person says how it goes on.
            rollout.interrupted(reason, means.time.now_ms());
            return Ok(Turn::default());
        }
        self.look_at_workers(&Serving::ask(means, rollout).await?, rollout, means.time.now_ms());
        self.waiting.settle(means.known).into_iter().for_each(|(stored_ms, report)| self.add(report, stored_ms));
        let mut turn = Turn::default();
        // What is over by now is here once all that the server has now is read.
        let now = means.time.now_ms();
        while !self.reader.has_read(last) {
            if Instant::now() >= until {
                turn.more = true;
                return Ok(turn);
            }
            let Some(reports) = self.reader.batch(decode_stats).await? else { break };
            let is_ours = |report: &VariantStats| [&rollout.from, &rollout.to].contains(&&report.variant);
            let reports = reports.into_iter().filter(|(_, report)| is_ours(report)).collect();
            let known = self.waiting.sort(reports, means.known);
            known.into_iter().for_each(|(stored_ms, report)| self.add(report, stored_ms));
        }
        while self.is_of(rollout) {
            if Instant::now() >= until {
                turn.more = true;
                break;
            }
            let judged = match &self.following {
                Following::Holding(_) => self.window(means, rollout, now).await?,
                Following::Paused(..) => self.paused_window(means, rollout, now).await?,
            };
            let Some(verdict) = judged else { break };
            turn.windows += 1;
            turn.verdict = matches!(verdict.check, Check::Look(_)).then_some(verdict).or(turn.verdict);
        }
        if let Following::Holding(follower) = &self.following {
            for window in follower.record().all() {
                turn.requests[0] += window.baseline.requests;
                turn.requests[1] += window.candidate.requests;
            }
        }
        Ok(turn)
    }

    fn add(&mut self, report: VariantStats, stored_ms: u64) {
        let added = match &mut self.following {
            Following::Holding(follower) => follower.add(report, stored_ms),
            Following::Paused(follower, _) => follower.add(report, stored_ms),
        };
        match added {
            // Other variants of the model, and lanes that are not judged.
            Ok(()) | Err(Rejected::Foreign { .. }) => (),
            Err(error) => tracing::warn!(%error, "a report is left out"),
        }
    }

    fn look_at_workers(&mut self, serving: &Serving, rollout: &mut Rollout, now_ms: u64) {
        if serving.candidate {
            self.gone_since_ms = None;
        } else {
            let since = *self.gone_since_ms.get_or_insert(now_ms);
            let patience = rollout.config.fast.restart;
            if now_ms.saturating_sub(since) >= milliseconds(patience) {
                let patience = humantime::format_duration(patience);
                let reason = format!("no worker has served {} for {patience}", rollout.to);
                return rollout.candidate_lost(reason, now_ms);
            }
        }
        let Some(stage) = rollout.stage() else { return };
        let (now, then): (&Versions, _) = (&serving.versions, &stage.versions);
        let new = |now: &BTreeSet<String>, then: &BTreeSet<String>| now.difference(then).next().cloned();
        // Versions that are gone are not new evidence: a worker may just have been too busy to answer.
        let changed = [(&rollout.from, new(&now.from, &then.from)), (&rollout.to, new(&now.to, &then.to))];
        let say = |(variant, version): (&_, Option<String>)| {
            Some(format!("{variant} now serves version {}: the step begins anew", version?))
        };
        let sentence = changed.into_iter().find_map(say);
        if let Some(sentence) = sentence {
            rollout.version_changed(sentence, now_ms);
        }
    }

    /// Keeps the next window, and judges all up to it, if it is due.
    async fn window(
        &mut self,
        means: &Means<'_>,
        rollout: &mut Rollout,
        now_ms: u64,
    ) -> Result<Option<Verdict>, RolloutError> {
        let judged = rollout.stage().map_or(0, |stage| stage.windows);
        let Following::Holding(follower) = &mut self.following else { return Ok(None) };
        if !follower.is_due(judged, now_ms) {
            return Ok(None);
        }
        let due = follower.due(judged);
        if let Some(late) = due.late {
            let late = means.store.put_late(rollout, self.of.number, late).await?;
            follower.record_mut().late.push(late);
        }
        if let Some(window) = due.window {
            let window = means.store.put_window(rollout, self.of.number, judged, window).await?;
            follower.record_mut().windows.push(window);
        }
        let windows = judged + 1;
        let known = |recorded: &&Recorded| recorded.paused.is_none() && recorded.verdict.windows == windows;
        let recorded = match follower.record().verdicts.iter().find(known).cloned() {
            Some(recorded) => recorded,
            None => self.judge(means, rollout, windows).await?,
        };
        let Following::Holding(follower) = &self.following else { return Ok(None) };
        rollout.judged(windows, &recorded.verdict, || follower.record().baseline(), means.time.now_ms());
        Ok(Some(recorded.verdict))
    }

    async fn judge(&mut self, means: &Means<'_>, rollout: &Rollout, windows: u32) -> Result<Recorded, RolloutError> {
        let plan = &self.rule.config().plan;
        let look = (1..=plan.looks).find(|look| plan.windows_at(*look) == windows);
        let check = look.map_or(Check::Window, Check::Look);
        if look.is_some() && rollout.config.probes.required {
            // Without an answer nothing is known: that is no agreement, and no promotion.
            self.probes = probes::cosines(means.client, rollout, &self.texts, means.lease / 2)
                .await
                .inspect_err(|error| tracing::warn!(%error, "the variants cannot be probed"))
                .ok();
        }
        let Following::Holding(follower) = &self.following else { unreachable!("only what is held is judged") };
        let evidence = follower.evidence(rollout, windows, self.probes.as_deref());
        let verdict = self.verdict(rollout, evidence, check, windows).await?;
        let recorded = Recorded { when_ms: means.time.now_ms(), probes: self.probes.clone(), paused: None, verdict };
        if look.is_none() && recorded.verdict.decision == Decision::Hold {
            return Ok(recorded);
        }
        let recorded = means.store.put_verdict(rollout, self.of.number, recorded).await?;
        if let Following::Holding(follower) = &mut self.following {
            follower.record_mut().verdicts.push(recorded.clone());
        }
        Ok(recorded)
    }

    /// Looks at the last windows of a paused rollout, if another one is over. Nothing is kept, unless something is done about it.
    async fn paused_window(
        &mut self,
        means: &Means<'_>,
        rollout: &mut Rollout,
        now_ms: u64,
    ) -> Result<Option<Verdict>, RolloutError> {
        let Following::Paused(follower, record) = &mut self.following else { return Ok(None) };
        let Some(paused) = follower.next(now_ms) else { return Ok(None) };
        let windows = u32::try_from(paused.windows.len()).unwrap_or(u32::MAX);
        let evidence = record.paused(rollout, &paused, self.probes.as_deref());
        let verdict = self.verdict(rollout, evidence, Check::Paused, windows).await?;
        if verdict.decision != Decision::Hold {
            self.keep_paused(means, rollout, paused, verdict.clone()).await?;
            rollout.judged(windows, &verdict, Default::default, means.time.now_ms());
        }
        Ok(Some(verdict))
    }

    async fn keep_paused(
        &self,
        means: &Means<'_>,
        rollout: &Rollout,
        paused: PausedWindows,
        verdict: Verdict,
    ) -> Result<(), RolloutError> {
        let (when_ms, probes) = (means.time.now_ms(), self.probes.clone());
        let recorded = Recorded { when_ms, probes, paused: Some(paused), verdict };
        means.store.put_verdict(rollout, self.of.number, recorded).await?;
        Ok(())
    }

    async fn verdict(
        &self,
        rollout: &Rollout,
        evidence: Evidence,
        check: Check,
        windows: u32,
    ) -> Result<Verdict, RolloutError> {
        let (rule, seed) = (self.rule.clone(), record::seed(&rollout.id, self.of.number, windows));
        // Resampling takes a while; whatever else runs here must not wait for it.
        let verdict = tokio::task::spawn_blocking(move || rule.verdict(&evidence, check, seed)).await;
        Ok(verdict.map_err(|error| crate::Error::Settings(format!("the verdict failed: {error}")))?)
    }
}

#[cfg(test)]
mod tests {
    use embed_rollout::{Config, Moved, state::Start};

    use super::*;

    /// In its first stage.
    fn holding(id: &str) -> Rollout {
        let [model, from, to] = ["m", "a", "b"].map(|name| name.parse().unwrap());
        let (config, who) = (Config::default(), "me".to_owned());
        let start = Start { id: id.to_owned(), model, from, to, lanes: Vec::new(), config, who, note: None };
        let mut rollout = Rollout::begin(start, 0).unwrap();
        rollout.checked("all is well", 1, 0);
        rollout.moved(Moved { from_ms: 0, route_revision: 2, stats_after: 0, versions: Versions::default() }, 0);
        rollout
    }

    #[test]
    fn what_is_watched_is_one_stage_of_one_rollout() {
        let (one, next) = (holding("1"), holding("2"));
        assert_eq!(one.stage().map(|stage| stage.number), next.stage().map(|stage| stage.number));
        let watched = Watched::of(&one).unwrap();
        assert_eq!(Watched::of(&one).as_ref(), Some(&watched));
        assert_ne!(Watched::of(&next).as_ref(), Some(&watched), "the rollout that has followed");
        let mut paused = one.clone();
        paused.pause("me", 1).unwrap();
        assert_ne!(Watched::of(&paused).as_ref(), Some(&watched));
        let mut over = one;
        over.abort("me", 1).unwrap();
        assert_eq!(Watched::of(&over), None);
    }
}
