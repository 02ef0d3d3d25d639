//! A worker as the first version was, on the wire: it stores results on their own subject, and knows of nothing that has come since. What it answers are
//! the golden vectors of the model, so that nobody can tell it from one of now by them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap,
    jetstream::{self, AckKind, consumer::PullConsumer, context::PublishErrorKind},
};
use embed_schemas::{
    EmbedRequest, EmbedResult, Encoding, Format, Item, JobId, Lane, Outcome, Slug, Timing, headers, streams, subjects,
    wire::decode_request,
};
use futures::{FutureExt, StreamExt};
use tokio::{sync::watch, task::JoinHandle};

/// What it knows of the model: vectors by text, and their space.
pub(crate) type Vectors = Arc<(HashMap<String, Vec<f32>>, String)>;

/// A running worker.
pub(crate) struct FirstWorker {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl FirstWorker {
    /// Serves the default variant of a model.
    pub(crate) async fn start(server: &str, model: &Slug, vectors: &Vectors) -> Self {
        let client = async_nats::connect(server).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for lane in Lane::STORED {
            let (client, model, vectors) = (client.clone(), model.clone(), Arc::clone(vectors));
            tasks.push(tokio::spawn(jobs(client, model, lane, vectors, stopped.clone())));
        }
        let fp32: Slug = "fp32".parse().unwrap();
        for subject in [subjects::bare(Lane::Rpc, model), subjects::pinned(Lane::Rpc, model, &fp32)] {
            let calls = client.queue_subscribe(subject, "workers".to_owned()).await.unwrap();
            tasks.push(tokio::spawn(serve(client.clone(), calls, model.clone(), Arc::clone(vectors), stopped.clone())));
        }
        client.flush().await.unwrap();
        Self { stop, tasks }
    }

    /// Takes nothing more, and finishes what it has.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn answer(model: &Slug, request: EmbedRequest, vectors: &Vectors) -> Outcome {
    let mut bytes = Vec::new();
    for text in &request.texts {
        Encoding::F32.storage().encode_row(&vectors.0[text], &mut bytes);
    }
    Outcome::Result(EmbedResult {
        id: request.id.unwrap_or_else(embed_client::new_id),
        model: model.clone(),
        variant: "fp32".parse().unwrap(),
        version: "v1.0.0".to_owned(),
        space: vectors.1.clone(),
        dim: 384,
        encoding: Encoding::F32,
        vectors: bytes.into(),
        items: request.texts.iter().map(|_| Item { tokens: 1, truncated: false, error: None }).collect(),
        timing: Timing::default(),
    })
}

async fn serve(
    client: Client,
    mut calls: async_nats::Subscriber,
    model: Slug,
    vectors: Vectors,
    mut stopped: watch::Receiver<bool>,
) {
    let mut draining = false;
    loop {
        let call = tokio::select! {
            call = calls.next() => call,
            _ = async { stopped.wait_for(|stopped| *stopped).await.is_ok() }, if !draining => {
                draining = true;
                // No more come after this; those on their way still do, and then the subscription ends.
                calls.drain().await.unwrap();
                continue;
            }
        };
        let Some(call) = call else { return client.flush().await.unwrap() };
        let (request, format) = decode_request(&call.payload, None).unwrap();
        client.publish(call.reply.unwrap(), format.encode(&answer(&model, request, &vectors))).await.unwrap();
    }
}

async fn jobs(client: Client, model: Slug, lane: Lane, vectors: Vectors, stopped: watch::Receiver<bool>) {
    let context = jetstream::new(client);
    let name = streams::consumer(&"fp32".parse().unwrap(), lane);
    let consumer: PullConsumer = context.get_consumer_from_stream(name, streams::jobs_stream(&model)).await.unwrap();
    while !*stopped.borrow() {
        let batch = consumer.fetch().max_messages(4).expires(Duration::from_millis(200)).messages().await;
        let Ok(mut batch) = batch else { continue };
        while let Some(Ok(job)) = batch.next().await {
            let (request, format) = decode_request(&job.payload, None).unwrap();
            let id = request.id.clone().expect("the test's jobs have ids");
            let outcome = answer(&model, request, &vectors);
            store(&context, &model, &id, &outcome, format).await;
            job.ack_with(AckKind::Ack).now_or_never().expect("it only goes into the connection").unwrap();
        }
    }
    context.client().flush().await.unwrap();
}

/// As it stored them: once, under the subject on which results are heard.
async fn store(context: &jetstream::Context, model: &Slug, id: &JobId, outcome: &Outcome, format: Format) {
    let mut header = HeaderMap::new();
    header.insert(headers::CONTENT_TYPE, format.content_type());
    let message = jetstream::message::PublishMessage::build()
        .payload(format.encode(outcome))
        .headers(header)
        .expected_stream(streams::results_stream(model))
        .expected_last_subject_sequence(0);
    let stored = async { context.send_publish(subjects::result(model, id), message).await?.await };
    match stored.await {
        Ok(_) => {}
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
        Err(error) => panic!("{id}: {error}"),
    }
}
