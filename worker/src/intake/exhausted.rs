//! Jobs that the server delivers no more: their consumer bounds deliveries, and nobody has ended them. Whatever it is about them, no worker can
//! read them, so they are read by their sequence, and become dead letters.
//!
//! The server says so once, in an advisory, which a stream keeps until the job is buried. Hearing it wakes the worker; what counts is the stream, which is
//! looked at again and again. Of several workers that come to the same job, one letter and one outcome are stored, as of a job that was delivered twice.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_nats::Subscriber;
use embed_schemas::{ErrorCode, Format, WireError, streams, subjects, wire::decode_request};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    jobs::{JobIntake, identity, readable_identity},
    malformed,
};
use crate::{
    jetstream::api::{self, ApiError, StoredMessage},
    lease::{Attempts, Delivery, Lease},
};

/// So often it is looked for what was not heard.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What is heard is in the stream a moment later, and seldom comes alone.
const SETTLE: Duration = Duration::from_millis(250);

/// What the server says of a message that has had all its deliveries.
#[derive(Debug, Deserialize)]
struct Advisory {
    stream_seq: u64,
    deliveries: u64,
}

impl JobIntake {
    /// Buries the jobs of this lane that are delivered no more, until `stop` is cancelled.
    pub async fn bury_exhausted(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            never = self.watch_exhausted() => match never {},
        }
    }

    async fn watch_exhausted(&self) -> Infallible {
        let connection = &self.context.connections.stored;
        let (stream, consumer) = self.names();
        let subject = streams::exhausted_subject(&stream, &consumer);
        // One of the workers wakes at once, the others look later whether it has died.
        let workers = subjects::RPC_QUEUE_GROUP.to_owned();
        let mut heard = connection.client.queue_subscribe(subject.clone(), workers).await.ok();
        let mut trouble = String::new();
        loop {
            if connection.is_up() {
                let now = self.bury_all(&subject).await.err().map(|error| error.to_string()).unwrap_or_default();
                if now != trouble && !now.is_empty() {
                    tracing::warn!(
                        stream,
                        error = now,
                        "it cannot be told which jobs are delivered no more; if there is no stream for that yet, run `embed init`"
                    );
                }
                trouble = now;
            }
            if timeout(LOOK_AGAIN, next(&mut heard)).await.is_ok() {
                sleep(SETTLE).await;
            }
        }
    }

    /// Looks through the advisories that there are.
    async fn bury_all(&self, subject: &str) -> Result<(), ApiError> {
        let client = &self.context.connections.stored.client;
        let stream = streams::exhausted_stream(&self.deployment.variant.model);
        let mut from = 1;
        loop {
            let query = json!({"seq": from, "next_by_subj": subject});
            let Some(advisory) = api::stored_message(client, &stream, &query).await? else { return Ok(()) };
            if self.bury_one(&advisory).await? {
                api::delete_message(client, &stream, advisory.sequence).await?;
            }
            from = advisory.sequence + 1;
        }
    }

    /// Ends the job that an advisory is about. `false`: not yet.
    async fn bury_one(&self, advisory: &StoredMessage) -> Result<bool, ApiError> {
        let Ok(Advisory { stream_seq, deliveries }) = serde_json::from_slice(&advisory.message.payload) else {
            return Ok(true);
        };
        let client = &self.context.connections.stored.client;
        let (stream, consumer) = self.names();
        let job = api::stored_message(client, &stream, &json!({"seq": stream_seq})).await?;
        let Some(StoredMessage { sequence, stored, message }) = job else { return Ok(true) };
        // A subject that is none of ours is in the stream all the same, and the consumer that delivered it is this lane's.
        let is_ours = subjects::parse(&message.subject).is_none_or(|target| target.lane == self.lane);
        // A stream that was made anew has other messages at the same sequences.
        if !is_ours || stored > advisory.stored {
            return Ok(true);
        }
        let delivery = Delivery { stream: stream.clone(), consumer, sequence, deliveries, published: stored };
        let defect = malformed(&message).map(|error| format!("; {}", error.message)).unwrap_or_default();
        let (lease, is_done) = Lease::of_undelivered(message, delivery);
        self.end_exhausted(lease, &defect).await;
        if is_done.await.is_err() {
            return Ok(false);
        }
        api::delete_message(client, &stream, sequence).await?;
        Ok(true)
    }

    /// Ends a job that is delivered no more, unless it has its result.
    async fn end_exhausted(&self, lease: Lease, defect: &str) {
        let (variant, publisher) = (&self.deployment.variant, &self.context.publisher);
        let content_type = lease.header(embed_schemas::headers::CONTENT_TYPE);
        let (job, format) = match decode_request(lease.payload(), content_type) {
            Ok((request, format)) => (Some(identity(&lease, &request)), format),
            Err(_) => (readable_identity(&lease), Format::sniff(lease.payload()).unwrap_or(Format::Json)),
        };
        // Without its digest, an outcome of its id may be another job's.
        if let Some(job) = job.as_ref().filter(|job| job.digest.is_some()) {
            match publisher.is_stored(variant, job).await {
                Ok(true) => return lease.ack(),
                Ok(false) => {}
                Err(error) => return tracing::warn!(%error, "it cannot be told whether a job has its result"),
            }
        }
        let attempts = publisher.attempts().read(&variant.model, lease.delivery()).await;
        let attempts = attempts.unwrap_or_else(|_| Attempts::default()).count();
        let deliveries = lease.delivery().deliveries;
        let error = WireError::new(
            ErrorCode::TooManyDeliveries,
            format!("delivered {deliveries} times, and no worker has ended it; its consumer allows no more{defect}"),
        );
        // It takes no room from what is delivered: there is one at a time.
        self.refuse(lease, job, error, format, attempts, None);
    }
}

/// Waits until something is heard: for ever, if nothing can be.
async fn next(heard: &mut Option<Subscriber>) {
    if let Some(subscriber) = heard {
        if subscriber.next().await.is_some() {
            return;
        }
        *heard = None;
    }
    std::future::pending::<()>().await;
}
