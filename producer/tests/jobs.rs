//! Single jobs: their results waited for together, who holds them, and dead letters that are sent once more.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::support::{
    PATIENCE, Server, slug, stored, until,
    worker::{Worker, embed, failure, store},
};
use async_nats::{HeaderMap, jetstream};
use embed_client::{Client, PublishOptions, outcomes};
use embed_control::{
    dead::{self, DeadLetter, DeadLetters, Filter, Retried},
    jobs::{self, JobState},
};
use embed_schemas::{EmbedRequest, ErrorCode, Format, JobId, Lane, Outcome, WireError, headers, streams, subjects};
use futures::StreamExt;
use serde_json::json;

fn job(id: &str, text: &str) -> EmbedRequest {
    EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new([text]) }
}

/// Counts what is published on a subject.
async fn counting(client: &Client, subject: &'static str) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let mut heard = client.nats().subscribe(subject).await.unwrap();
    client.nats().request("$JS.API.INFO", "".into()).await.unwrap();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while heard.next().await.is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_results_are_waited_for_one_subscription_and_one_look_serve_them() {
    const JOBS: usize = 200;
    let server = Server::with("http: \"127.0.0.1:-1\"");
    let client = server.provisioned().await;
    let observer = server.client().await;
    let looks = counting(&observer, "$JS.API.DIRECT.GET.*").await;
    let single = counting(&observer, "$JS.API.DIRECT.GET.*.>").await;
    let ids: Vec<JobId> = (0..JOBS).map(|n| format!("job-{n}").parse().unwrap()).collect();
    let mut expected = Vec::new();
    for id in &ids {
        expected.push(client.expect(&slug("m"), id.clone()).await.unwrap());
    }
    // All have been looked for several times. The first of them may have been looked for before there were others.
    let (looked, before) = (looks.load(Ordering::SeqCst), single.load(Ordering::SeqCst));
    until("several looks", async || looks.load(Ordering::SeqCst) >= looked + 5).await;
    let connections = server.monitor("/connz")["connections"].clone();
    let subscriptions: Vec<_> =
        connections.as_array().unwrap().iter().map(|one| one["subscriptions"].clone()).collect();
    assert!(subscriptions.iter().all(|count| count.as_u64() <= Some(3)), "{subscriptions:?}");
    let context = jetstream::new(client.nats().clone());
    for id in &ids {
        store(&context, &slug("m"), &embed(&job(id.as_str(), "abc"))).await.unwrap();
    }
    let mut found = BTreeSet::new();
    let mut all = std::pin::pin!(outcomes(expected));
    while let Some(outcome) = tokio::time::timeout(PATIENCE, all.next()).await.unwrap() {
        found.insert(outcome.unwrap().0.to_string());
    }
    assert_eq!(found.len(), JOBS);
    let single = single.load(Ordering::SeqCst) - before;
    assert!(single < JOBS as u64 / 10, "{single} looks for one of {JOBS} results");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_a_reason_to_look_and_no_result() {
    let server = Server::start();
    let client = server.provisioned().await;
    let mut expected = client.expect(&slug("m"), "a".parse().unwrap()).await.unwrap();
    // Whoever can guess the subject can send what it likes: nothing is stored, and nothing comes of it.
    let forged = Format::MessagePack.encode(&embed(&job("a", "forged")));
    client.nats().publish(expected.reply_to(), forged).await.unwrap();
    let looks = counting(&server.client().await, "$JS.API.DIRECT.GET.>").await;
    until("a few looks", async || looks.load(Ordering::SeqCst) > 3).await;
    assert!(futures::FutureExt::now_or_never(expected.outcome()).is_none());
    let real = embed(&job("a", "real"));
    store(&jetstream::new(client.nats().clone()), &slug("m"), &real).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, expected.outcome()).await.unwrap().unwrap(), real);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_id_is_a_conflict_while_the_other_job_waits_as_well() {
    let server = Server::start();
    let client = server.provisioned().await;
    let options = PublishOptions::default();
    let publish = async |text: &str| client.publish(&slug("m"), Lane::Job, job("a", text), &options).await;
    let first = publish("cat").await.unwrap();
    assert!(!first[0].duplicate);
    let again = publish("cat").await.unwrap();
    assert!(again[0].duplicate && again[0].sequence == first[0].sequence, "{again:?}");
    let error = publish("quantum chromodynamics").await.unwrap_err();
    assert_eq!(error.code(), "id_conflict", "{error}");
    assert_eq!(stored(&client, "EMBED_m").await, 1);
}

/// Writes a dead letter as a worker does.
async fn bury(client: &Client, request: &EmbedRequest, error: &WireError, published_on: &str) {
    let mut header = HeaderMap::new();
    header.insert(headers::CONTENT_TYPE, Format::MessagePack.content_type());
    header.insert(headers::DEAD_CODE, error.code.as_str());
    header.insert(headers::DEAD_REASON, error.message.as_str());
    header.insert(headers::DEAD_SUBJECT, "embed.job.m.fp32");
    header.insert(headers::SUBJECT, published_on);
    let context = jetstream::new(client.nats().clone());
    let subject = subjects::dead(&slug("m"), &slug("fp32"));
    let payload = Format::MessagePack.encode(request);
    context.publish_with_headers(subject, header, payload).await.unwrap().await.unwrap();
}

async fn letters(client: &Client) -> Vec<DeadLetter> {
    let mut letters = DeadLetters::new(client, Filter::default());
    let mut all = Vec::new();
    while let Some(page) = letters.page().await.unwrap() {
        all.extend(page);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_result_of_a_job_that_is_sent_once_more_replaces_its_failure() {
    let server = Server::start();
    let client = server.provisioned().await;
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let error = WireError::new(ErrorCode::EngineFailed, "out of memory");
    let failing = error.clone();
    let _worker = Worker::jobs(
        &client,
        1,
        Arc::new(move |request| {
            Some(if is_broken.load(Ordering::SeqCst) { failure(request, failing.clone()) } else { embed(request) })
        }),
    );
    let request = job("doc", "abc");
    client.publish(&slug("m"), Lane::Job, request.clone(), &PublishOptions::default()).await.unwrap();
    let result = async || client.result(&slug("m"), &"doc".parse().unwrap(), PATIENCE).await.unwrap();
    assert!(matches!(result().await, Outcome::Failure(_)));
    bury(&client, &request, &error, "embed.job.m").await;

    let mut on_the_way = client.nats().subscribe("embed.job.m").await.unwrap();
    let [letter] = &letters(&client).await[..] else { panic!("one letter") };
    assert_eq!((letter.code.as_str(), letter.subject.as_str()), ("engine_failed", "embed.job.m"));
    broken.store(false, Ordering::SeqCst);
    let would = dead::retry(&client, letter, false, true).await.unwrap();
    assert!(matches!(would, Retried::Would { .. }), "{would:?}");
    assert!(matches!(result().await, Outcome::Failure(_)), "nothing has happened yet");
    let retried = dead::retry(&client, letter, false, false).await.unwrap();
    assert!(matches!(retried, Retried::Published { .. }), "{retried:?}");
    let again = tokio::time::timeout(PATIENCE, on_the_way.next()).await.unwrap().unwrap();
    assert_eq!(again.subject.as_str(), "embed.job.m", "where its producer sent it, not where a route had led it");
    assert_eq!(result().await, embed(&request));
    assert!(letters(&client).await.is_empty());

    // Of a job that has its result, the letter is all that is left.
    bury(&client, &request, &error, "embed.job.m").await;
    let letter = letters(&client).await.remove(0);
    let done = dead::retry(&client, &letter, false, false).await.unwrap();
    assert!(matches!(done, Retried::Done { .. }), "{done:?}");
    assert_eq!((result().await, letters(&client).await.len()), (embed(&request), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_told_who_holds_a_job_and_what_is_cancelled_stays_so() {
    let server = Server::start();
    let client = server.provisioned().await;
    let model = slug("m");
    let publish = async |id: &str| client.publish(&model, Lane::Job, job(id, "abc"), &PublishOptions::default()).await;
    publish("waits").await.unwrap();
    let held = publish("held").await.unwrap()[0].sequence;
    let mut stats = client.nats().subscribe(format!("$SRV.STATS.{}", subjects::SERVICE_NAME)).await.unwrap();
    let nats = client.nats().clone();
    tokio::spawn(async move {
        while let Some(question) = stats.next().await {
            let endpoint = json!({"subject": "embed.rpc.m.fp32", "data": {"job": [[held, held + 3]], "bulk": []}});
            let answer = json!({"name": "embed-worker", "id": "w-1", "endpoints": [endpoint]});
            nats.publish(question.reply.unwrap(), answer.to_string().into()).await.unwrap();
        }
    });
    let find = async |id: &str| jobs::find(&client, &model, &id.parse().unwrap(), |_| {}).await.unwrap();
    let JobState::Queued(waits) = find("waits").await else { panic!("it waits") };
    assert!(waits.held_by.is_empty());
    let JobState::Queued(job) = find("held").await else { panic!("it is held") };
    assert_eq!((job.held_by, job.texts), (vec!["w-1".to_owned()], Some(1)));

    let id: JobId = "held".parse().unwrap();
    let cancelled = jobs::cancel(&client, &model, &id, |_| {}).await.unwrap();
    assert_eq!(cancelled, jobs::Cancelled::Cancelled { held: true });
    assert_eq!(stored(&client, &streams::jobs_stream(&model)).await, 1);
    // The worker is done with it all the same; what it has computed comes too late.
    store(&jetstream::new(client.nats().clone()), &model, &embed(&self::job("held", "abc"))).await.unwrap();
    let Outcome::Failure(failure) = client.result(&model, &id, PATIENCE).await.unwrap() else { panic!("a failure") };
    assert_eq!(failure.error.code, ErrorCode::Cancelled);
    assert!(matches!(find("nobody").await, JobState::Unknown));
}
