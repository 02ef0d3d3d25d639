//! Bulk jobs, as many as the workers take: what online calls have to get past.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use embed_client::{Client, Error, PublishOptions, new_id};

use embed_schemas::{EmbedRequest, Lane, Outcome, Slug};
use tokio::task::JoinSet;

use crate::end::End;

/// For the outcome of one job.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a job that could not be published.
const PAUSE: Duration = Duration::from_millis(200);

/// What to publish.
#[derive(Debug, Clone)]
pub struct BulkLoad {
    /// The model.
    pub model: Slug,
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
    /// The texts, in turn.
    pub texts: Arc<[String]>,
    /// Texts in a job.
    pub texts_per_job: usize,
    /// Jobs in flight.
    pub window: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BulkTally {
    /// Texts whose vectors were stored, by second; the warm-up is left out.
    pub seconds: Vec<u64>,
    /// Jobs that failed, by reason.
    pub errors: BTreeMap<String, u64>,
}

/// A job that is over.
struct Done {
    at: Duration,
    outcome: Result<u64, String>,
}

impl BulkTally {
    /// For `duration` after the warm-up.
    fn new(duration: Duration) -> Self {
        Self { seconds: vec![0; duration.as_secs_f64().ceil() as usize], errors: BTreeMap::new() }
    }

    /// What was stored in the warm-up, or after the end, is not counted.
    fn count(&mut self, done: Done, warm_up: Duration) {
        match (done.outcome, done.at.checked_sub(warm_up)) {
            (Ok(texts), Some(at)) => {
                if let Some(second) = self.seconds.get_mut(at.as_secs() as usize) {
                    *second += texts;
                }
            }
            (Ok(_), None) => {}
            (Err(reason), _) => *self.errors.entry(reason).or_default() += 1,
        }
    }

    /// Texts per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.seconds.iter().sum::<u64>() as f64 / self.seconds.len().max(1) as f64
    }
}

/// Keeps the window full from `start` on, for `warm_up` and then until the end. Then waits for what is in flight, so that
/// nothing is left for the next run.
///
/// # Errors
/// If no stream takes jobs for the model.
pub async fn run(
    client: &Client,
    load: BulkLoad,
    start: Instant,
    warm_up: Duration,
    end: &End,
) -> Result<BulkTally, Error> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut lanes = JoinSet::new();
    for _ in 0..load.window {
        let (client, load, next, end) = (client.clone(), load.clone(), next.clone(), end.clone());
        lanes.spawn(async move {
            let mut all = Vec::new();
            while !end.is_over(start, warm_up) {
                let first = next.fetch_add(load.texts_per_job, Ordering::Relaxed);
                let texts = (first..first + load.texts_per_job).map(|n| load.texts[n % load.texts.len()].clone());
                let outcome = job(&client, &load, texts.collect()).await;
                let at = start.elapsed();
                if let Err(error @ Error::NoStream { .. }) = outcome {
                    return Err(error);
                }
                if outcome.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
                all.push(Done { at, outcome: outcome.map_err(|error| error.code().to_owned()) });
            }
            Ok(all)
        });
    }
    let mut all = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        all.extend(lane.expect("lanes do not panic")?);
    }
    let mut tally = BulkTally::new(end.length(start, warm_up));
    all.into_iter().for_each(|done| tally.count(done, warm_up));
    Ok(tally)
}

/// Publishes a job and waits for its outcome: how many of its texts have vectors.
pub(crate) async fn job(client: &Client, load: &BulkLoad, texts: Vec<String>) -> Result<u64, Error> {
    let id = new_id();
    let expected = client.expect(&load.model, id.clone()).await?;
    let job = EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new(texts) };
    let options = PublishOptions::default().variant(load.variant.clone()).timeout(PATIENCE);
    client.publish_job(&load.model, Lane::Bulk, &job, &options).await?;
    match expected.wait(PATIENCE).await? {
        Outcome::Result(result) => {
            // A long run must not fill the stream; what cannot be removed expires.
            let _ = client.remove_result(&load.model, &id).await;
            Ok(result.items.iter().filter(|item| item.error.is_none()).count() as u64)
        }
        Outcome::Failure(failure) => Err(failure.error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted_where_they_were_stored() {
        let mut tally = BulkTally::new(Duration::from_millis(1500));
        let stored = |ms, texts| Done { at: Duration::from_millis(ms), outcome: Ok(texts) };
        for done in [stored(900, 64), stored(1000, 64), stored(1999, 10), stored(2100, 5), stored(9000, 64)] {
            tally.count(done, Duration::from_secs(1));
        }
        tally.count(Done { at: Duration::ZERO, outcome: Err("timeout".into()) }, Duration::from_secs(1));
        assert_eq!((tally.seconds.as_slice(), tally.errors["timeout"]), (&[74, 5][..], 1));
        assert_eq!(tally.per_second(), 39.5);
    }
}
