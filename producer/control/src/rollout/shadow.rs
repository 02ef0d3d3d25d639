//! The shadow step: tells workers what is wanted, gathers what the candidate's workers have found, and has it judged.
//!
//! What is wanted is said again with every turn, and holds for a moment only: a shadow whose controller is gone ends by itself, and goes on with
//! the next controller, which finds all reports in the stream.

use embed_client::Client;
use embed_rollout::{
    Decision, Rollout,
    shadow::{ShadowRecord, ShadowVerdict, judge},
    state::ShadowStage,
};
use embed_schemas::{
    Format,
    shadow::{SHADOW_SUBJECT, ShadowCounts, ShadowStats, ShadowWish},
    subjects,
    wire::decode_shadow_stats,
};
use tokio::time::Instant;

use super::{
    RolloutError,
    known::Waiting,
    means::Means,
    milliseconds,
    statistics::{From, Reader},
    workers::Serving,
};
use crate::Error;

/// How long workers go on without hearing of it again.
const TTL_MS: u64 = 15_000;

/// A shadow that is being watched.
#[derive(Debug)]
pub(super) struct Shadowing {
    rollout: String,
    client: Client,
    wish: ShadowWish,
    stage: ShadowStage,
    reader: Reader,
    /// Of workers that were not known when they came.
    waiting: Waiting<ShadowStats>,
    counts: ShadowCounts,
    /// Since when nobody has served the candidate, by the server's time.
    gone_since_ms: Option<u64>,
}

/// What a turn has come to.
#[derive(Debug)]
pub(super) struct Found {
    /// What is said of it, if there is anything new.
    pub(super) verdict: Option<ShadowVerdict>,
    /// Whether there is more to read at once.
    pub(super) more: bool,
}

/// Begins a shadow. `sentence` says what was found before, `last` is the last message of the stream of statistics.
pub(super) async fn begin(
    means: &Means<'_>,
    rollout: &mut Rollout,
    sentence: String,
    route_revision: u64,
    last: u64,
) -> Result<(), RolloutError> {
    let versions = Serving::ask(means, rollout).await?.versions;
    let now = means.time.now_ms();
    let stage = ShadowStage {
        number: 0,
        from_ms: now,
        route_revision,
        stats_after: last,
        versions,
        said_ms: None,
        lasted_ms: 0,
    };
    rollout.shadow_begins(sentence, stage, now);
    Ok(())
}

impl Shadowing {
    /// Takes a shadow up where it stands.
    pub(super) fn take_up(client: &Client, rollout: &Rollout, stage: &ShadowStage) -> Self {
        let settings = &rollout.config.shadow;
        let wish = ShadowWish {
            id: format!("{}.{}", rollout.id, stage.number),
            model: rollout.model.clone(),
            from: rollout.from.clone(),
            to: rollout.to.clone(),
            lanes: rollout.lanes.clone(),
            share: settings.share / 100.0,
            tell_texts: settings.tell_texts,
            ttl_ms: TTL_MS,
        };
        let from = From::Sequence(stage.stats_after + 1);
        let reader = Reader::new(client.nats().clone(), subjects::shadow_stats(&wish.model, &wish.to), from);
        let (client, stage) = (client.clone(), stage.clone());
        Self {
            rollout: rollout.id.clone(),
            client,
            wish,
            stage,
            reader,
            waiting: Waiting::default(),
            counts: ShadowCounts::default(),
            gone_since_ms: None,
        }
    }

    /// Whether this is the shadow that the rollout is in.
    pub(super) fn is_of(&self, rollout: &Rollout) -> bool {
        rollout.id == self.rollout && rollout.shadow().is_some_and(|stage| stage.number == self.stage.number)
    }

    /// Says what is wanted once more, looks at who serves what and at what was found since, and has it judged. `last` is the last message of
    /// the stream of statistics. No longer than a third of the lease, or a step of it.
    pub(super) async fn turn(
        &mut self,
        means: &Means<'_>,
        rollout: &mut Rollout,
        last: u64,
    ) -> Result<Found, RolloutError> {
        self.say(TTL_MS).await?;
        let over = rollout.shadow_said(means.time.now_ms(), TTL_MS);
        let until = Instant::now() + means.lease / 3;
        let serving = Serving::ask(means, rollout).await?;
        let before = self.waiting.settle(means.known);
        let mut any = self.count(before);
        while !self.reader.has_read(last) {
            if Instant::now() >= until {
                return Ok(Found { verdict: None, more: true });
            }
            let Some(mut reports) = self.reader.batch(decode_shadow_stats).await? else { break };
            // Not of a shadow before this one.
            reports.retain(|(_, stats)| stats.id == self.wish.id);
            let known = self.waiting.sort(reports, means.known);
            any |= self.count(known);
        }
        let (settings, now) = (&rollout.config.shadow, means.time.now_ms());
        let mut verdict = judge(settings, &self.counts, over);
        if verdict.decision != Decision::Hold {
            let counts = self.counts.clone();
            let record = ShadowRecord { stage: self.stage.clone(), when_ms: now, over, counts, verdict };
            // Whoever was here before, and did not live to tell, has said it already.
            verdict = means.store.put_shadow(rollout, record).await?.verdict;
        }
        rollout.shadow_judged(&verdict, now);
        if self.is_of(rollout) {
            self.look_at_workers(&serving, means, rollout, last).await?;
        }
        if !self.is_of(rollout) {
            self.end().await?;
        }
        Ok(Found { verdict: any.then_some(verdict), more: false })
    }

    /// Adds reports. Whether there were any.
    fn count(&mut self, reports: Vec<(u64, ShadowStats)>) -> bool {
        reports.iter().for_each(|(_, stats)| self.counts.merge(&stats.counts));
        !reports.is_empty()
    }

    /// What was compared so far.
    pub(super) const fn counts(&self) -> &ShadowCounts {
        &self.counts
    }

    /// Tells workers that nothing more is wanted. If they do not hear it, they end by themselves.
    pub(super) async fn end(&self) -> Result<(), Error> {
        self.say(0).await
    }

    async fn say(&self, ttl_ms: u64) -> Result<(), Error> {
        let wish = ShadowWish { ttl_ms, ..self.wish.clone() };
        let said = self.client.nats().publish(SHADOW_SUBJECT, Format::MessagePack.encode(&wish)).await;
        said.map_err(|error| Error::nats("cannot tell workers of the shadow", error))
    }

    async fn look_at_workers(
        &mut self,
        serving: &Serving,
        means: &Means<'_>,
        rollout: &mut Rollout,
        last: u64,
    ) -> Result<(), RolloutError> {
        let now = means.time.now_ms();
        let since = if serving.candidate { None } else { Some(self.gone_since_ms.unwrap_or(now)) };
        self.gone_since_ms = since;
        // Its only worker may just be restarted.
        if since.is_some_and(|since| now >= since.saturating_add(milliseconds(rollout.config.fast.restart))) {
            let patience = humantime::format_duration(rollout.config.fast.restart);
            let reason = format!("no worker has served {} for {patience}; nobody was served by it", rollout.to);
            rollout.shadow_lost(reason, now);
            return Ok(());
        }
        let (then, now) = (&self.stage.versions, &serving.versions);
        let changed = [(&rollout.from, &now.from, &then.from), (&rollout.to, &now.to, &then.to)]
            .into_iter()
            .find_map(|(variant, now, then)| Some((variant.clone(), now.difference(then).next()?.clone())));
        if let Some((variant, version)) = changed {
            let sentence = format!("{variant} now serves version {version}: the shadow begins anew");
            begin(means, rollout, sentence, self.stage.route_revision, last).await?;
        }
        Ok(())
    }
}
