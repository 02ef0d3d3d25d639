//! The bucket of rollouts.
//!
//! | key | holds |
//! |---|---|
//! | `<model>` | the last rollout; changed only by whoever has read what it replaces |
//! | `<model>.<id>.texts` | the texts that both variants are probed with |
//! | `<model>.<id>.power` | whether its plan can decide at the traffic there is, as it was last found out |
//! | `<model>.<id>.shadow.<n>` | what a shadow came to |
//! | `<model>.<id>.stage.<n>` | a stage as it began |
//! | `<model>.<id>.window.<n>.<i>` | its window number `i`, as it was when it was judged |
//! | `<model>.<id>.late.<n>.<windows>` | what late reports had made of the windows before by the time when there were so many |
//! | `<model>.<id>.verdict.<n>.<windows>` | a verdict on its first windows; `paused-<time>` for one in a pause |
//! | `<model>.<id>.end` | the rollout as it ended |
//!
//! All but the first and `power` are written once: whoever comes second goes on with what is there. A controller that takes over finds what the one
//! before has judged, and judges the same.

use async_nats::Client;
use embed_rollout::{
    Rollout,
    power::Answer,
    record::{Late, Record, Recorded, StageRecord, Window},
    shadow::ShadowRecord,
    state::Stage,
};
use embed_schemas::{Slug, streams::ROLLOUTS_BUCKET};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, bucket::Bucket};

/// Rollouts of a model whose record is kept.
const KEPT: usize = 20;
/// Entries that are read at the same time.
const READS: usize = 32;

/// The bucket.
#[derive(Debug, Clone)]
pub(super) struct Store(Bucket);

impl Store {
    pub(super) const fn new(client: Client) -> Self {
        Self(Bucket::new(client, ROLLOUTS_BUCKET))
    }

    /// The last rollout of a model, with its revision; 0 if there never was one.
    pub(super) async fn get(&self, model: &Slug) -> Result<(u64, Option<Rollout>), Error> {
        self.0.get(model.as_str()).await
    }

    /// The last rollout of each model.
    pub(super) async fn all(&self) -> Result<Vec<Rollout>, Error> {
        let mut all = Vec::new();
        // A model's slug has no dot.
        for key in self.0.keys("*").await? {
            all.extend(self.0.get::<Rollout>(&key).await?.1);
        }
        all.sort_by(|a, b| a.model.cmp(&b.model));
        Ok(all)
    }

    /// Writes a rollout if `after` is still its last revision, and returns the new one. `None` if somebody else was faster.
    pub(super) async fn put(&self, rollout: &Rollout, after: u64) -> Result<Option<u64>, Error> {
        let put = self.0.put(rollout.model.as_str(), rollout, Some(after)).await?;
        if put.is_some() && rollout.outcome().is_some() {
            self.0.put(&key(rollout, "end"), rollout, None).await?;
        }
        Ok(put)
    }

    /// Keeps the end of a rollout that another takes the place of: whoever ended it may not have lived to write it down twice.
    pub(super) async fn keep_end(&self, rollout: &Rollout) -> Result<(), Error> {
        self.0.put(&key(rollout, "end"), rollout, Some(0)).await.map(drop)
    }

    /// What its plan was last found to come to. What cannot be read is found out anew.
    pub(super) async fn power(&self, rollout: &Rollout) -> Result<Option<Answer>, Error> {
        match self.0.get(&key(rollout, "power")).await {
            Ok((_, answer)) => Ok(answer),
            Err(Error::Client(embed_client::Error::BadAnswer { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers it, for whoever asks next.
    pub(super) async fn put_power(&self, rollout: &Rollout, answer: &Answer) -> Result<(), Error> {
        self.0.put(&key(rollout, "power"), answer, None).await.map(drop)
    }

    pub(super) async fn put_texts(&self, rollout: &Rollout, texts: &[String]) -> Result<(), Error> {
        self.0.put(&key(rollout, "texts"), &texts, None).await.map(drop)
    }

    pub(super) async fn texts(&self, rollout: &Rollout) -> Result<Option<Vec<String>>, Error> {
        Ok(self.0.get(&key(rollout, "texts")).await?.1)
    }

    /// A stage as it began: whoever has written its number into the rollout knows.
    pub(super) async fn put_stage(&self, rollout: &Rollout, stage: &Stage) -> Result<(), Error> {
        let (key, begun) = (key(rollout, &format!("stage.{:04}", stage.number)), Stage { windows: 0, ..stage.clone() });
        let (revision, found) = self.0.get::<Stage>(&key).await?;
        if found.as_ref() != Some(&begun) {
            self.0.put(&key, &begun, Some(revision)).await?;
        }
        Ok(())
    }

    /// Keeps a window, and gives back what is kept: another's, if that was faster.
    pub(super) async fn put_window(
        &self,
        rollout: &Rollout,
        stage: u32,
        at: u32,
        window: Window,
    ) -> Result<Window, Error> {
        self.once(&key(rollout, &format!("window.{stage:04}.{at:06}")), window).await
    }

    /// As [`Store::put_window`].
    pub(super) async fn put_late(&self, rollout: &Rollout, stage: u32, late: Late) -> Result<Late, Error> {
        self.once(&key(rollout, &format!("late.{stage:04}.{:06}", late.windows)), late).await
    }

    /// As [`Store::put_window`].
    pub(super) async fn put_verdict(
        &self,
        rollout: &Rollout,
        stage: u32,
        recorded: Recorded,
    ) -> Result<Recorded, Error> {
        let last = match &recorded.paused {
            Some(paused) => format!("paused-{}", paused.from_ms),
            None => format!("{:06}", recorded.verdict.windows),
        };
        self.once(&key(rollout, &format!("verdict.{stage:04}.{last}")), recorded).await
    }

    /// Keeps what a shadow came to, as [`Store::put_window`].
    pub(super) async fn put_shadow(&self, rollout: &Rollout, record: ShadowRecord) -> Result<ShadowRecord, Error> {
        self.once(&key(rollout, &format!("shadow.{:04}", record.stage.number)), record).await
    }

    /// Writes what is written once. If somebody was faster, theirs is what there is.
    async fn once<T: Serialize + DeserializeOwned>(&self, key: &str, value: T) -> Result<T, Error> {
        if self.0.put(key, &value, Some(0)).await?.is_some() {
            return Ok(value);
        }
        tracing::debug!(key, "another controller has written this before");
        let theirs = self.0.get(key).await?.1;
        theirs.ok_or_else(|| Error::bad_answer(key, "it was written, and is not there"))
    }

    /// One stage with all that is known of it.
    pub(super) async fn stage(&self, rollout: &Rollout, stage: Stage) -> Result<StageRecord, Error> {
        let number = stage.number;
        let windows = self.values(rollout, &format!("window.{number:04}.*")).await?;
        let late = self.values(rollout, &format!("late.{number:04}.*")).await?;
        let verdicts = self.values(rollout, &format!("verdict.{number:04}.*")).await?;
        Ok(StageRecord { stage, windows, late, verdicts })
    }

    /// Everything that is known of a rollout: the last one of the model, or an earlier one.
    pub(super) async fn record(&self, model: &Slug, id: Option<&str>) -> Result<Option<Record>, Error> {
        let last = self.get(model).await?.1;
        let rollout = match id {
            Some(id) if last.as_ref().is_none_or(|last| last.id != id) => {
                self.0.get(&format!("{model}.{id}.end")).await?.1
            }
            _ => last,
        };
        let Some(rollout) = rollout else { return Ok(None) };
        let mut stages = Vec::new();
        for stage in self.values::<Stage>(&rollout, "stage.*").await? {
            stages.push(self.stage(&rollout, stage).await?);
        }
        let shadows = self.values(&rollout, "shadow.*").await?;
        Ok(Some(Record { rollout, shadows, stages }))
    }

    /// The ids of a model's rollouts that have ended, oldest first.
    pub(super) async fn ended(&self, model: &Slug) -> Result<Vec<String>, Error> {
        let keys = self.0.keys(&format!("{model}.*.end")).await?;
        let mut ids: Vec<String> = keys.iter().filter_map(|key| Some(key.split('.').nth(1)?.to_owned())).collect();
        ids.sort();
        Ok(ids)
    }

    /// A model's rollouts that have ended, oldest first.
    pub(super) async fn history(&self, model: &Slug) -> Result<Vec<Rollout>, Error> {
        let mut rollouts = Vec::new();
        for id in self.ended(model).await? {
            rollouts.extend(self.0.get::<Rollout>(&format!("{model}.{id}.end")).await?.1);
        }
        // Those of one second have ids in no order.
        rollouts.sort_by_key(|rollout| rollout.started_ms);
        Ok(rollouts)
    }

    /// Removes the records of rollouts that ended long ago.
    pub(super) async fn forget_old(&self, model: &Slug) -> Result<(), Error> {
        let ids = self.ended(model).await?;
        for id in &ids[..ids.len().saturating_sub(KEPT)] {
            self.0.purge(&format!("{model}.{id}.>")).await?;
        }
        Ok(())
    }

    async fn values<T: DeserializeOwned>(&self, rollout: &Rollout, filter: &str) -> Result<Vec<T>, Error> {
        let mut keys = self.0.keys(&key(rollout, filter)).await?;
        // Numbers in keys have leading zeros.
        keys.sort();
        let read = |key: String| {
            let bucket = self.0.clone();
            async move { Ok::<_, Error>(bucket.get::<T>(&key).await?.1) }
        };
        let reads = keys.into_iter().map(read);
        let values: Vec<Option<T>> = stream::iter(reads).buffered(READS).try_collect().await?;
        Ok(values.into_iter().flatten().collect())
    }
}

fn key(rollout: &Rollout, rest: &str) -> String {
    format!("{}.{}.{rest}", rollout.model, rollout.id)
}
