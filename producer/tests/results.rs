//! A result is told as stored only once it is: with a stream that is full, and with streams that an older version made.

use std::{sync::Arc, time::Duration};

use crate::support::{
    PATIENCE, Server, command, model_m,
    routed::cluster,
    slug, stored, until,
    worker::{Worker, embed, store, vector},
};
use async_nats::jetstream;
use embed_client::{Client, PublishOptions};
use embed_control::provision::{apply, check};
use embed_schemas::{
    EmbedRequest, JobId, Lane, Outcome,
    streams::{StreamSettings, StreamSpec, SubjectMapping, former_result_subject, streams},
    subjects,
};
use futures::{FutureExt, StreamExt};
use serde_json::Value;

const RESULTS: &str = "EMBED_RESULTS_m";

fn job(id: &str) -> EmbedRequest {
    EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new(["abc"]) }
}

/// Room for a few results.
fn narrow() -> StreamSettings {
    StreamSettings { results_max_bytes: 4 * 1024, ack_wait_ms: 60_000, ..StreamSettings::default() }
}

/// Stores results until no more fit.
async fn fill(client: &Client) {
    let context = jetstream::new(client.nats().clone());
    for n in 0.. {
        match store(&context, &slug("m"), &embed(&job(&format!("filler-{n}")))).await {
            Ok(()) => {}
            Err(error) if format!("{error:?}").contains("maximum bytes exceeded") => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn make_room(client: &Client) {
    jetstream::new(client.nats().clone()).get_stream(RESULTS).await.unwrap().purge().await.unwrap();
}

async fn is_found(client: &Client, id: &str) -> bool {
    let stream = jetstream::new(client.nats().clone()).get_stream(RESULTS).await.unwrap();
    stream.direct_get_last_for_subject(subjects::result(&slug("m"), &id.parse().unwrap())).await.is_ok()
}

/// With the stream full, a worker answers a job, and nobody hears of it until there is room.
async fn nobody_hears_what_is_refused(client: &Client) {
    fill(client).await;
    let worker = Worker::jobs(client, 1, Arc::new(|r| Some(embed(r))));
    let mut heard = client.nats().subscribe("embed.result.>").await.unwrap();
    let mut tried = client.nats().subscribe("embed.store.>").await.unwrap();
    client.publish(&slug("m"), Lane::Job, job("late"), &PublishOptions::default()).await.unwrap();
    // The worker has tried it, and tried it again: the first has been refused.
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, tried.next()).await.unwrap().unwrap();
    }
    assert_eq!(worker.taken(), 1);
    assert!(heard.next().now_or_never().is_none());
    assert!(!is_found(client, "late").await);
    make_room(client).await;
    let message = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(message.subject.as_str(), "embed.result.m.late");
    assert!(is_found(client, "late").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_the_stream_refuses_is_not_heard() {
    let server = Server::start();
    let client = server.provisioned_with(&narrow()).await;
    nobody_hears_what_is_refused(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_with_three_replicas() {
    let nodes = cluster().await;
    let client = nodes[0].client().await;
    apply(client.nats(), &[model_m()], &StreamSettings { replicas: 3, ..narrow() }).await.unwrap();
    nobody_hears_what_is_refused(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_no_result_that_is_not_stored_and_says_why() {
    let server = Server::start();
    let client = server.provisioned_with(&narrow()).await;
    fill(&client).await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let url = server.url();
    let publish = move |timeout: &'static str| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            command::output(&[
                "publish",
                "--allow-unserved",
                "-s",
                &url,
                "-m",
                "m",
                "--id",
                "one",
                "--wait",
                "--timeout",
                timeout,
                "abc",
            ])
        })
    };
    let refused = publish("2s").await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(command::stdout(&refused), "");
    let text = command::stderr(&refused);
    assert!(text.contains("the stream EMBED_RESULTS_m is full") && text.contains("--results-max-bytes"), "{text}");
    make_room(&client).await;
    let found = publish("60s").await.unwrap();
    assert_eq!(found.status.code(), Some(0), "{}", command::stderr(&found));
    assert_ne!(command::stdout(&found), "");
    assert!(is_found(&client, "one").await);
}

/// The stream of results as it was made before results had a subject to be stored on.
async fn former_stream(client: &Client, settings: &StreamSettings) {
    let [_, results, ..] = streams(&slug("m"), settings);
    let subjects = vec![former_result_subject(&slug("m"))];
    let former = StreamSpec { subjects, subject_transform: None, republish: None, ..results };
    let context = jetstream::new(client.nats().clone());
    let answer: Value = context.request(format!("STREAM.CREATE.{RESULTS}"), &former).await.unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// Publishes a result as workers did.
async fn formerly(client: &Client, id: &str) {
    let subject = subjects::result(&slug("m"), &id.parse().unwrap());
    let payload = embed_schemas::Format::MessagePack.encode(&embed(&job(id)));
    client.nats().publish(subject, payload).await.unwrap();
    client.nats().flush().await.unwrap();
}

async fn result(client: &Client, id: &str) -> [f32; 2] {
    let Outcome::Result(result) = client.result(&slug("m"), &id.parse().unwrap(), PATIENCE).await.unwrap() else {
        panic!("no result")
    };
    result.vector(0).unwrap().try_into().unwrap()
}

#[tokio::test]
async fn in_a_stream_of_before_a_result_counts_once_it_is_found() {
    let server = Server::start();
    let client = server.client().await;
    former_stream(&client, &narrow()).await;
    let id: JobId = "heard".parse().unwrap();
    let mut expected = Box::pin(client.expect(&slug("m"), id).await.unwrap().wait(PATIENCE));
    // Nothing fits: everybody hears the result, and the stream does not have it.
    let context = jetstream::new(client.nats().clone());
    let payload = vec![0; 3_900];
    context.publish("embed.result.m.filler", payload.into()).await.unwrap().await.unwrap();
    let mut looks =
        client.nats().subscribe(format!("$JS.API.DIRECT.GET.{RESULTS}.embed.result.m.heard")).await.unwrap();
    formerly(&client, "heard").await;
    tokio::select! {
        outcome = &mut expected => panic!("it was believed: {outcome:?}"),
        looks = looks.by_ref().take(3).count() => assert_eq!(looks, 3),
    }
    make_room(&client).await;
    formerly(&client, "heard").await;
    assert!(expected.await.is_ok());
}

#[tokio::test]
async fn a_stream_of_before_is_updated_with_what_is_in_it() {
    let server = Server::start();
    let client = server.client().await;
    let settings = StreamSettings::default();
    former_stream(&client, &settings).await;
    formerly(&client, "before").await;
    until("it is stored", async || stored(&client, RESULTS).await == 1).await;
    apply(client.nats(), &[], &settings).await.unwrap();
    let differences = check(client.nats(), &[model_m()], &settings).await.unwrap();
    let lines: Vec<_> = differences.iter().filter(|d| d.name == RESULTS).map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            r#"EMBED_RESULTS_m: republish is null, wanted {"dest":"embed.result.m.>","src":"embed.result.m.>"}"#,
            r#"EMBED_RESULTS_m: subject_transform is null, wanted {"dest":"embed.result.m.>","src":"embed.store.m.>"}"#,
            r#"EMBED_RESULTS_m: subjects is ["embed.result.m.*"], wanted ["embed.store.m.*","embed.store.m.*.*"]"#,
        ]
    );
    apply(client.nats(), &[model_m()], &settings).await.unwrap();
    assert_eq!(check(client.nats(), &[model_m()], &settings).await.unwrap(), []);
    // What was there is there, counts as stored, and is what a second computation finds.
    assert_eq!(result(&client, "before").await, vector("abc"));
    let context = jetstream::new(client.nats().clone());
    store(&context, &slug("m"), &embed(&job("before"))).await.unwrap();
    assert_eq!(stored(&client, RESULTS).await, 1);
    store(&context, &slug("m"), &embed(&job("after"))).await.unwrap();
    assert_eq!(result(&client, "after").await, vector("abc"));
    // A worker of before stores nothing here, and nobody believes it.
    let expected = client.expect(&slug("m"), "old-worker".parse().unwrap()).await.unwrap();
    formerly(&client, "old-worker").await;
    assert!(expected.wait(Duration::from_millis(200)).await.is_err());
}

/// As streams were made before jobs had tenants.
#[tokio::test]
async fn a_stream_without_tenants_gets_room_for_them_and_keeps_what_is_in_it() {
    let server = Server::start();
    let client = server.client().await;
    let settings = StreamSettings::default();
    let [jobs, results, ..] = streams(&slug("m"), &settings);
    let to = "embed.result.m.{{wildcard(1)}}".to_owned();
    let mapping = |src: &str| Some(SubjectMapping { src: src.into(), dest: to.clone() });
    let before = [
        StreamSpec { subjects: vec!["embed.job.m".into(), "embed.job.m.*".into()], ..jobs },
        StreamSpec {
            subjects: vec!["embed.store.m.*".into()],
            subject_transform: mapping("embed.store.m.*"),
            republish: mapping("embed.result.m.*"),
            ..results
        },
    ];
    let context = jetstream::new(client.nats().clone());
    for spec in before {
        let answer: Value = context.request(format!("STREAM.CREATE.{}", spec.name), &spec).await.unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }
    let of_tenant = PublishOptions::default().tenant(slug("t")).timeout(PATIENCE);
    let error = client.publish(&slug("m"), Lane::Job, job("early"), &of_tenant).await.unwrap_err();
    assert!(error.to_string().contains("takes no jobs of tenants yet: run `embed init`"), "{error}");
    store(&context, &slug("m"), &embed(&job("before"))).await.unwrap();
    apply(client.nats(), &[model_m()], &settings).await.unwrap();
    assert_eq!(check(client.nats(), &[model_m()], &settings).await.unwrap(), []);
    assert_eq!(result(&client, "before").await, vector("abc"));
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    client.publish(&slug("m"), Lane::Job, job("late"), &of_tenant).await.unwrap();
    let late = client.expect_for(&slug("m"), Some(&slug("t")), "late".parse().unwrap()).await.unwrap();
    assert!(matches!(late.wait(PATIENCE).await.unwrap(), Outcome::Result(_)));
}
