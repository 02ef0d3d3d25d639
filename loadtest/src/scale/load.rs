//! Jobs and calls, and what they cost meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use embed_client::{Client, PublishOptions, new_id};
use embed_schemas::{EmbedRequest, Format, Lane, subjects};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};

use super::stack::{Stack, Used};
use crate::{
    bulk::{self, BulkLoad, BulkTally},
    call::{self, Load},
    end::End,
    tally::Tally,
    texts,
};

/// Connections of the load: one alone would be what is measured.
const CONNECTIONS: usize = 4;
/// Jobs that are published at the same time, where nobody waits for their results.
const PUBLISHED_AT_ONCE: usize = 256;
/// So often it is looked how many texts are done.
const LOOK: Duration = Duration::from_millis(50);
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What was seen between two moments.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// How long that was.
    pub(super) seconds: f64,
    /// What everybody used.
    pub(super) used: Used,
    /// Texts that each worker has embedded, by device.
    pub(super) embedded: Vec<Vec<u64>>,
    /// Messages that the servers had.
    pub(super) messages: f64,
}

impl Seen {
    /// Of all workers.
    pub(super) fn texts(&self) -> f64 {
        self.embedded.iter().flatten().sum::<u64>() as f64
    }

    /// What each worker had.
    pub(super) fn of_each(&self) -> Vec<f64> {
        self.embedded.iter().map(|devices| devices.iter().sum::<u64>() as f64).collect()
    }
}

/// What was so at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    at: Instant,
    used: Used,
    embedded: Vec<Vec<u64>>,
    messages: f64,
}

impl Moment {
    pub(super) async fn now(stack: &mut Stack) -> anyhow::Result<Self> {
        let embedded = stack.fleet.embedded()?;
        let (at, used) = (Instant::now(), stack.used());
        Ok(Self { at, used, embedded, messages: stack.messages().await? })
    }

    /// From an earlier moment to this one.
    pub(super) fn since(&self, before: &Self) -> Seen {
        let more = |(now, before): (&Vec<u64>, &Vec<u64>)| now.iter().zip(before).map(|(a, b)| a - b).collect();
        Seen {
            seconds: (self.at - before.at).as_secs_f64(),
            used: self.used.since(before.used),
            embedded: self.embedded.iter().zip(&before.embedded).map(more).collect(),
            messages: self.messages - before.messages,
        }
    }

    pub(super) fn texts(&self) -> u64 {
        self.embedded.iter().flatten().sum()
    }
}

/// Distinct texts, so that none is computed for another: a sentence and a number.
pub(super) fn distinct(count: usize) -> anyhow::Result<Arc<[String]>> {
    let sentences = texts::load(None, 1)?;
    Ok((0..count).map(|n| format!("{} {n}", sentences[n % sentences.len()])).collect())
}

/// Jobs of all models, so many in flight together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jobs {
    pub(super) in_flight: usize,
    pub(super) texts: usize,
}

/// Keeps jobs in flight. After the warm-up, `watch` looks on until it is done, and what it saw is returned with how many jobs failed.
pub(super) async fn jobs<T>(
    stack: &mut Stack,
    jobs: Jobs,
    warm_up: Duration,
    watch: impl AsyncFnOnce(&mut Stack) -> anyhow::Result<T>,
) -> anyhow::Result<(T, u64)> {
    let (start, end) = (Instant::now(), End::when_called());
    // Each model has some of the connections, or each connection some of the models.
    let count = CONNECTIONS.max(stack.models().len()).min(jobs.in_flight);
    let clients: Vec<Client> = try_join_all((0..CONNECTIONS.min(count)).map(|n| stack.client(n))).await?;
    let distinct = distinct(jobs.in_flight * jobs.texts)?;
    let (mut rest, mut lanes) = (&distinct[..], Vec::new());
    for n in 0..count {
        // What does not divide evenly is more for the first.
        let window = jobs.in_flight / count + usize::from(n < jobs.in_flight % count);
        let (texts, others) = rest.split_at(window * jobs.texts);
        rest = others;
        let (client, model) = (clients[n % clients.len()].clone(), stack.models()[n % stack.models().len()].clone());
        let load = BulkLoad { model, variant: None, texts: texts.into(), texts_per_job: jobs.texts, window };
        let end = end.clone();
        lanes.push(async move { bulk::run(&client, load, start, Duration::ZERO, &end).await });
    }
    let watching = async {
        tokio::time::sleep(warm_up).await;
        let seen = watch(stack).await;
        end.call();
        seen
    };
    let (seen, tallies) = tokio::join!(watching, try_join_all(lanes));
    let failed = tallies?.iter().flat_map(|BulkTally { errors, .. }| errors.values()).sum();
    Ok((seen?, failed))
}

/// Looks at the beginning and at the end of a time.
pub(super) async fn for_a_while(stack: &mut Stack, duration: Duration) -> anyhow::Result<Seen> {
    let before = Moment::now(stack).await?;
    tokio::time::sleep(duration).await;
    Ok(Moment::now(stack).await?.since(&before))
}

/// Waits until so many texts are embedded.
pub(super) async fn until_embedded(stack: &mut Stack, texts: u64, within: Duration) -> anyhow::Result<Moment> {
    let begun = Instant::now();
    loop {
        let moment = Moment::now(stack).await?;
        if moment.texts() >= texts {
            return Ok(moment);
        }
        ensure!(begun.elapsed() < within, "{} of {texts} texts are embedded after {within:?}", moment.texts());
        tokio::time::sleep(LOOK).await;
    }
}

/// Stores so many jobs, and waits for no result.
pub(super) async fn publish(stack: &Stack, jobs: u64, texts_per_job: usize) -> anyhow::Result<()> {
    let texts = distinct(4096)?;
    let (client, model) = (stack.client(0).await?, stack.models()[0].clone());
    let one = |n: u64| {
        let (client, model, texts) = (&client, &model, &texts);
        let first = usize::try_from(n).unwrap_or_default() * texts_per_job;
        let of_job = (first..first + texts_per_job).map(|n| texts[n % texts.len()].clone());
        let job = EmbedRequest { id: Some(new_id()), ..EmbedRequest::new(of_job) };
        async move {
            let options = PublishOptions::default();
            client.publish_job(model, Lane::Bulk, &job, &options).await.map(drop)
        }
    };
    stream::iter((0..jobs).map(one)).buffer_unordered(PUBLISHED_AT_ONCE).try_collect::<()>().await?;
    Ok(())
}

/// Calls of one text to the first model.
pub(super) fn calls(stack: &Stack, warm_up: Duration) -> anyhow::Result<Load> {
    Ok(Load {
        subject: subjects::bare(Lane::Rpc, &stack.models()[0]),
        payloads: call::payloads(&distinct(4096)?, 1, Format::MessagePack, None),
        timeout: CALL_TIMEOUT,
        warm_up,
        slo: CALL_TIMEOUT,
        most_in_flight: usize::MAX,
    })
}

/// Calls that were answered with vectors, and those that were not.
pub(super) fn answered(tally: &Tally) -> (u64, u64) {
    (tally.total(|second| second.answered), tally.total(|second| second.refused + second.failed))
}
