//! Texts that another variant has served, to be compared with what this one makes of them. Whoever asked for them has their answer.
//!
//! They run after everything else: one request at a time, and while the worker has anything else to do, for a tenth of the time at most.
//! What waits for that is bounded, and what does not fit is dropped and counted.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, SubscribeError, Subscriber};
use embed_engine::pipeline::{Embedded, Request};
use embed_schemas::{
    EmbedResult, ErrorCode, Format, Lane, ModelMetadata, Outcome,
    encoding::cosine,
    shadow::{MOST_CHARACTERS, ShadowCounts, ShadowText, ShadowTexts},
    subjects,
    wire::decode_shadow_texts,
};
use futures::{StreamExt, stream::FuturesUnordered};
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::IntakeContext;
use crate::variant::Deployment;

/// Requests that may wait.
const MOST_WAITING: usize = 64;
/// While there is other work, a run is followed by a pause so many times as long.
const PAUSES: u32 = 9;
/// The longest pause: whatever held a run up, such as a model that was loaded beside it, does not do so again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Takes what a variant is to be compared by.
#[derive(Debug)]
pub struct ShadowIntake {
    deployment: Arc<Deployment>,
    context: IntakeContext,
    subscriber: Subscriber,
}

impl ShadowIntake {
    /// Subscribes. Of several workers that serve the variant, one takes each message.
    ///
    /// # Errors
    /// If the subscription fails.
    pub async fn subscribe(deployment: &Arc<Deployment>, context: &IntakeContext) -> Result<Self, SubscribeError> {
        let variant = &deployment.variant;
        let subject = subjects::shadow(&variant.model, &variant.name);
        let client = &context.connections.stored.client;
        let subscriber = client.queue_subscribe(subject, subjects::RPC_QUEUE_GROUP.to_owned()).await?;
        Ok(Self { deployment: Arc::clone(deployment), context: context.clone(), subscriber })
    }

    /// Takes and compares until `stop` is cancelled; what is left then is dropped.
    pub async fn run(self, stop: CancellationToken) {
        let Self { deployment, context, mut subscriber } = self;
        let mut waiting: VecDeque<Message> = VecDeque::new();
        let mut running = FuturesUnordered::new();
        loop {
            if running.is_empty()
                && let Some(message) = waiting.pop_front()
            {
                running.push(compare_one(&deployment, &context, message));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = running.next() => {}
                message = subscriber.next() => match message {
                    Some(message) if waiting.len() < MOST_WAITING => waiting.push_back(message),
                    // Whichever it is that has no time: a new one tells as much as an old one.
                    Some(message) => dropped(&deployment, &message),
                    None => return,
                },
            }
        }
    }
}

fn dropped(deployment: &Deployment, message: &Message) {
    let Ok(texts) = decode_shadow_texts(&message.payload) else { return };
    let found = ShadowCounts { dropped: 1 + texts.dropped, ..ShadowCounts::default() };
    deployment.variant.metrics.shadow().add(&texts.id, &found);
}

/// Runs the texts of one message, counts what comes of them, and makes room for others.
async fn compare_one(deployment: &Deployment, context: &IntakeContext, message: Message) {
    let texts = match decode_shadow_texts(&message.payload) {
        Ok(texts) => texts,
        Err(error) => return tracing::warn!(%error, "texts of a shadow cannot be read"),
    };
    let (began, before) = (Instant::now(), context.publisher.taken());
    let was_busy = context.publisher.is_busy();
    let found = compare(deployment, &texts).await;
    deployment.variant.metrics.shadow().add(&texts.id, &found);
    // Whoever came and went meanwhile was held up as well.
    if was_busy || context.publisher.is_busy() || context.publisher.taken() != before {
        sleep((began.elapsed() * PAUSES).min(LONGEST_PAUSE)).await;
    }
}

async fn compare(deployment: &Deployment, texts: &ShadowTexts) -> ShadowCounts {
    let ShadowTexts { lane, request, served, dropped, tell_texts, .. } = texts;
    let mut counts = ShadowCounts { dropped: *dropped, ..ShadowCounts::default() };
    // Not as a use: a variant that nobody asks for is not to be loaded for this.
    let (Some(version), Outcome::Result(served)) = (deployment.peek(), served) else {
        counts.dropped += 1;
        return counts;
    };
    if let Err(error) = version.check(request, Format::MessagePack, usize::MAX) {
        counted(&mut counts, served);
        served.items.iter().for_each(|item| counts.failed(*lane, item.tokens, error.code));
        return counts;
    }
    let to_engine = Request {
        lane: Lane::Bulk,
        prompt: version.prompt(request),
        truncate: request.truncate,
        ..Request::new(request.texts.iter())
    };
    let embedded = version.pipeline.embed(to_engine).await;
    let Some(embedded) = embedded.filter(|embedded| !unavailable(embedded)) else {
        // The worker's trouble, and no word about the texts.
        counts.dropped += 1;
        return counts;
    };
    counted(&mut counts, served);
    // A call whose run went before all others on its device took another way than this one.
    let same_way = *lane != Lane::Rpc || !version.report().urgent;
    if same_way && (served.timing.batch_size, embedded.timing.batch_size) == (1, 1) {
        counts.baseline_us.record(served.timing.infer_us);
        counts.candidate_us.record(embedded.timing.infer_us);
    }
    let rows = embedded.texts.iter().zip(&served.items).zip(&request.texts).enumerate();
    for (row, ((one, item), text)) in rows {
        if let Some(error) = &one.item.error {
            counts.failed(*lane, item.tokens, error.code);
            continue;
        }
        let vector = one.vector(version.metadata().dimension as usize).unwrap_or_default();
        let cosine = agreement(vector, served, row, request.dimensions, version.metadata());
        counts.compared(*lane, item.tokens, cosine, || describe(*lane, item.tokens, cosine, served, text, *tell_texts));
    }
    counts
}

fn counted(counts: &mut ShadowCounts, served: &EmbedResult) {
    counts.requests += 1;
    counts.versions.insert(served.version.clone(), 1);
}

/// Whether no engine could take it.
fn unavailable(embedded: &Embedded) -> bool {
    let code = |text: &embed_engine::pipeline::EmbeddedText| text.item.error.as_ref().map(|error| error.code);
    embedded.texts.iter().any(|text| code(text) == Some(ErrorCode::ModelUnavailable))
}

/// The cosine of what this variant has made of a text and what was served, of as many components as were asked for.
fn agreement(
    vector: &[f32],
    served: &EmbedResult,
    row: usize,
    dimensions: Option<u32>,
    metadata: &ModelMetadata,
) -> f64 {
    let dim = dimensions.unwrap_or(metadata.dimension) as usize;
    match (vector.get(..dim), served.vector(row)) {
        (Some(own), Ok(served)) => cosine(own, &served),
        _ => 0.0,
    }
}

fn describe(lane: Lane, tokens: u32, cosine: f64, served: &EmbedResult, text: &str, tell: bool) -> ShadowText {
    let digest = Sha256::digest(text.as_bytes());
    ShadowText {
        lane,
        tokens,
        cosine,
        request: served.id.to_string(),
        digest: digest[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
        text: tell.then(|| text.chars().take(MOST_CHARACTERS).collect()),
    }
}
