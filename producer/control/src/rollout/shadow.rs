//! The shadow step: tells workers what is wanted, gathers what the candidate's workers have found, and has it judged.
//!
//! What is wanted is said again with every turn, and holds for a moment only: a shadow whose controller is gone ends by itself, and goes on with
//! the next controller, which finds all reports in the stream.

use embed_client::Client;
use embed_rollout::{
    Decision, Rollout,
    shadow::{ShadowRecord, ShadowStage, ShadowVerdict, judge},
};
use embed_schemas::{
    Format,
    shadow::{SHADOW_SUBJECT, ShadowCounts, ShadowWish},
    streams::STATS_STREAM,
    subjects,
    wire::decode_shadow_stats,
};
use serde_json::json;

use super::{RolloutError, milliseconds, now_ms, statistics::Reader, store::Store, weights};
use crate::{Error, bucket};

/// How long workers go on without hearing of it again.
const TTL_MS: u64 = 15_000;
/// Looks in a row that must find nobody who serves the candidate. One may miss the answer of a busy worker.
const LOST: u32 = 3;

/// A shadow that is being watched.
#[derive(Debug)]
pub(super) struct Shadowing {
    client: Client,
    wish: ShadowWish,
    stage: ShadowStage,
    /// The next message of the stream of statistics.
    next: u64,
    counts: ShadowCounts,
    lost: u32,
}

/// Begins a shadow. `sentence` says what was found before.
pub(super) async fn begin(
    client: &Client,
    rollout: &mut Rollout,
    sentence: String,
    route_revision: u64,
) -> Result<(), RolloutError> {
    let stage = ShadowStage {
        number: 0,
        from_ms: now_ms(),
        route_revision,
        stats_after: Reader::last(client.nats()).await?,
        versions: weights::versions(client, rollout).await?,
    };
    rollout.shadow_begins(sentence, stage, now_ms());
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
        let (client, stage, next) = (client.clone(), stage.clone(), stage.stats_after + 1);
        Self { client, wish, stage, next, counts: ShadowCounts::default(), lost: 0 }
    }

    /// Whether this is the shadow that the rollout is in.
    pub(super) fn is_of(&self, rollout: &Rollout) -> bool {
        rollout.shadow() == Some(&self.stage)
    }

    /// Says what is wanted once more, looks at who serves what and at what was found since, and has it judged.
    pub(super) async fn turn(&mut self, store: &Store, rollout: &mut Rollout) -> Result<ShadowVerdict, RolloutError> {
        self.say(TTL_MS).await?;
        let new = self.read().await?;
        let settings = &rollout.config.shadow;
        let over = now_ms() >= self.stage.from_ms.saturating_add(milliseconds(settings.hold));
        let mut verdict = judge(settings, &self.counts, over);
        if verdict.decision != Decision::Hold {
            let counts = self.counts.clone();
            let record = ShadowRecord { stage: self.stage.clone(), when_ms: now_ms(), over, counts, verdict };
            // Whoever was here before, and did not live to tell, has said it already.
            verdict = store.put_shadow(rollout, record).await?.verdict;
        }
        rollout.shadow_judged(&verdict, now_ms());
        if self.is_of(rollout) {
            self.look_at_workers(rollout).await?;
        }
        if !self.is_of(rollout) {
            self.end().await?;
        }
        // Only what is new is told.
        Ok(if new { verdict } else { ShadowVerdict { reasons: Vec::new(), ..verdict } })
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

    /// Reads what was found since. Whether there was anything.
    async fn read(&mut self) -> Result<bool, Error> {
        let subject = subjects::shadow_stats(&self.wish.model, &self.wish.to);
        let mut any = false;
        loop {
            let query = json!({"seq": self.next, "next_by_subj": subject});
            let Some(found) = bucket::message(self.client.nats(), STATS_STREAM, &query).await? else { return Ok(any) };
            self.next = found.sequence + 1;
            match decode_shadow_stats(&found.payload) {
                Ok(stats) if stats.id == self.wish.id => {
                    self.counts.merge(&stats.counts);
                    any = true;
                }
                // Of a shadow before this one.
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, sequence = found.sequence, "a report that cannot be read is left out");
                }
            }
        }
    }

    async fn look_at_workers(&mut self, rollout: &mut Rollout) -> Result<(), RolloutError> {
        let now = weights::versions(&self.client, rollout).await?;
        self.lost = if now.to.is_empty() { self.lost + 1 } else { 0 };
        if self.lost >= LOST {
            let reason = format!("no worker serves {} any more; nobody was served by it", rollout.to);
            rollout.shadow_lost(reason, now_ms());
            return Ok(());
        }
        let then = &self.stage.versions;
        let changed = [(&rollout.from, &now.from, &then.from), (&rollout.to, &now.to, &then.to)]
            .into_iter()
            .find_map(|(variant, now, then)| Some((variant.clone(), now.difference(then).next()?.clone())));
        if let Some((variant, version)) = changed {
            let sentence = format!("{variant} now serves version {version}: the shadow begins anew");
            begin(&self.client, rollout, sentence, self.stage.route_revision).await?;
        }
        Ok(())
    }
}
