//! What a client does not believe: results under somebody's id that are not of its job, answers to other calls, and who answers in the place
//! of workers.

use std::{str::FromStr, sync::Arc, time::Duration};

use crate::support::{
    PATIENCE, Server, command,
    files::{Files, assert_complete, pace},
    slug, until,
    worker::{Worker, embed, store, store_for},
};
use async_nats::{HeaderMap, jetstream};
use embed_backfill::{self as backfill, Parameters};
use embed_client::{CallOptions, Client, Error, PublishOptions, new_id, part_id};
use embed_control::provision;
use embed_schemas::{
    EmbedRequest, Format, JobId, Lane, Outcome, headers,
    streams::{self, StreamSettings},
    subjects, wire,
};
use embed_testkit::{Daemon, registry, sibling_binary};
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;

fn job(id: &str, text: &str) -> EmbedRequest {
    EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new([text]) }
}

/// A forger with a connection that may publish everywhere.
async fn forge(client: &Client, at: &str, outcome: &Outcome, of: Option<&EmbedRequest>) {
    let mut header = HeaderMap::new();
    if let Some(of) = of {
        header.insert(headers::REQUEST_DIGEST, of.digest().as_str());
    }
    let subject = subjects::store(&slug("m"), &at.parse().unwrap());
    let context = jetstream::new(client.nats().clone());
    let stored = context.publish_with_headers(subject, header, Format::MessagePack.encode(outcome)).await.unwrap();
    stored.await.unwrap();
}

#[tokio::test]
async fn a_result_that_is_not_of_the_job_is_not_believed_and_said() {
    let server = Server::start();
    let client = server.provisioned().await;
    let other = job("theirs", "a text of somebody else");
    // Another job's outcome; the right id, and another request; the right id, and no word about the request.
    forge(&client, "misplaced", &embed(&other), Some(&other)).await;
    forge(&client, "forged", &embed(&job("forged", "x")), Some(&job("forged", "x"))).await;
    forge(&client, "unsaid", &embed(&job("unsaid", "x")), None).await;
    for (id, code, word) in [
        ("misplaced", "id_conflict", "misplaced"),
        ("forged", "id_conflict", "forged"),
        ("unsaid", "bad_answer", "Embed-Request-Digest is missing"),
    ] {
        let job = job(id, "abc");
        let expected = client.expect(&slug("m"), id.parse().unwrap()).await.unwrap().of(&job);
        assert_eq!(expected.stored().await.unwrap_err().code(), code, "{id}");
        let error = expected.wait(PATIENCE).await.unwrap_err();
        assert!(error.code() == code && error.to_string().contains(word), "{id}: {error}");
        // Nor is it taken for the job's before it is published.
        let published = client.publish(&slug("m"), Lane::Job, job, &PublishOptions::default()).await;
        assert_eq!(published.unwrap_err().code(), code, "{id}");
    }
    // Who has nothing but the id.
    let error = client.result(&slug("m"), &"misplaced".parse().unwrap(), PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("another job, theirs"), "{error}");
    let url = server.url();
    let asked = move || command::output(&["-s", &url, "jobs", "-m", "m", "result", "misplaced"]);
    let answer = tokio::task::spawn_blocking(asked).await.unwrap();
    assert_eq!((answer.status.code(), command::stdout(&answer).as_str()), (Some(1), ""));
    assert!(command::stderr(&answer).contains("another job, theirs"), "{}", command::stderr(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_a_client_and_is_not_stored_is_not_believed_and_the_job_waited_for() {
    let server = Server::start();
    let client = server.provisioned().await;
    let mine = job("mine", "abc");
    let mut expected = client.expect(&slug("m"), "mine".parse().unwrap()).await.unwrap().of(&mine);
    // Somebody who knows where this client waits answers its looks in the server's place.
    let copy = expected.reply_to();
    let inbox = copy.split_once(".copy.").unwrap().0.to_owned();
    let forger = server.client().await;
    let forging = AbortOnDropHandle::new(tokio::spawn(async move {
        let forged = Format::MessagePack.encode(&embed(&job("mine", "something else")));
        for look in (0..500).cycle() {
            let mut header = HeaderMap::new();
            header.insert("Nats-Subject", "embed.result.m.mine");
            header.insert("Nats-Sequence", "1");
            header.insert("Nats-Time-Stamp", "2026-01-01T00:00:00Z");
            forger.nats().publish_with_headers(format!("{inbox}.get.{look}"), header, forged.clone()).await.unwrap();
            if look == 499 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }));
    tokio::time::timeout(Duration::from_millis(300), expected.outcome()).await.unwrap_err();
    let context = jetstream::new(client.nats().clone());
    store_for(&context, &slug("m"), None, &embed(&mine), Some(&mine)).await.unwrap();
    let Outcome::Result(result) = expected.wait(PATIENCE).await.unwrap() else { panic!("no result") };
    assert_eq!(result.vector(0).unwrap(), [3.0, 1.0]);
    drop(forging);
}

#[tokio::test]
async fn an_answer_to_another_call_is_not_believed() {
    let server = Server::start();
    let client = server.client().await;
    let answer = |request: &EmbedRequest| {
        assert!(request.id.is_some(), "without an id, no answer can be told from another");
        Some(embed(&EmbedRequest { id: Some("theirs".parse().unwrap()), ..request.clone() }))
    };
    let _worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let options = CallOptions::default().timeout(PATIENCE);
    for request in [EmbedRequest::new(["a"]), job("mine", "a")] {
        let error = client.embed(&slug("m"), request, &options).await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }) && error.to_string().contains("theirs"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_writes_nothing_that_was_put_under_the_ids_of_its_jobs() {
    let server = Server::start();
    let client = server.provisioned().await;
    // Somebody who hears of the jobs stores something under their ids before a worker does.
    let forger = server.client().await;
    let mut jobs = forger.nats().subscribe("embed.bulk.m").await.unwrap();
    forger.nats().flush().await.unwrap();
    let context = jetstream::new(forger.nats().clone());
    let forging = AbortOnDropHandle::new(tokio::spawn(async move {
        for n in 0_usize.. {
            let Some(message) = jobs.next().await else { return };
            let (request, _) = wire::decode_request(&message.payload, None).unwrap();
            let id = request.id.as_ref().unwrap().as_str();
            if id.ends_with("-r1") {
                continue;
            }
            let forged = EmbedRequest { texts: vec!["forged".into(); request.texts.len()], ..request.clone() };
            let stored = match n % 3 {
                0 => store(&context, &slug("m"), &embed(&forged)).await,
                1 => store_for(&context, &slug("m"), None, &embed(&forged), Some(&forged)).await,
                _ => continue,
            };
            stored.unwrap();
        }
    }));
    let answer = |request: &EmbedRequest| {
        std::thread::sleep(Duration::from_millis(20));
        Some(embed(request))
    };
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    let files = Files::new(12);
    let summary = files.run(&client, 2, &pace()).await.unwrap();
    assert_eq!((summary.stored, summary.failed), (12, 0), "{:?}", summary.failures);
    assert_complete(&files, 12);
    drop(forging);
}

/// A user that backfills, and may do nothing to the streams.
const BACKFILLS: &str = r#"
authorization { users: [ {user: "all", password: "all"}, {user: "fill", password: "fill", permissions: {
    publish: {allow: ["embed.bulk.@", "embed.bulk.@.*", "embed.remove.@", "$JS.API.STREAM.INFO.EMBED_RESULTS_@",
                      "$JS.API.DIRECT.GET.EMBED_RESULTS_@.embed.result.@.*"]}, subscribe: {allow: ["_INBOX.>"]}}} ] }
no_auth_user: "all"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_removes_its_results_and_cannot_remove_those_of_others() {
    let model = slug("all-minilm-l6-v2");
    let server = Server::with(&BACKFILLS.replace('@', model.as_str()));
    let all = server.client().await;
    let variants = provision::ModelVariants { model: model.clone(), variants: vec![slug("v")] };
    provision::apply(all.nats(), &[variants], &StreamSettings::default()).await.unwrap();
    let mut worker = std::process::Command::new(sibling_binary("embed-worker"));
    worker.args(["run", "--variant", "all-minilm-l6-v2=v", "--metrics-addr", "127.0.0.1:0", "--json"]);
    let worker = Daemon::spawn(worker.arg("--registry").arg(registry()).arg("--server").arg(server.url()));
    worker.json_line();
    let (user, password) = (Some("fill".to_owned()), Some("fill".to_owned()));
    let settings = embed_connect::ConnectSettings { user, password, ..server.settings() };
    let client = Client::connect(&settings).await.unwrap();
    // Somebody else's, and one that says that it is a backfill's.
    let context = jetstream::new(all.nats().clone());
    let others = [JobId::from_str("somebody-elses").unwrap(), part_id(&new_id(), 0).unwrap()];
    for id in &others {
        context.publish(subjects::store(&model, id), "x".into()).await.unwrap().await.unwrap();
    }
    let files = Files::new(30);
    let parameters = Parameters { model: model.clone(), ..files.parameters(2) };
    let (pace, never) = (pace(), std::future::pending());
    let summary = backfill::run(&client, parameters, &files.output, false, &pace, never, |_| {}).await.unwrap();
    assert_eq!((summary.stored, summary.results_left), (30, 0));
    let results = streams::results_stream(&model);
    assert_eq!(crate::support::stored(&all, &results).await, 2, "all of the backfill's are gone, and no others");
    // The stream is not its to purge, nor are the results of others.
    for id in &others {
        assert!(matches!(client.remove_result(&model, id).await, Err(Error::Rejected { .. })));
    }
    let key = backfill::status(&files.output).unwrap().removal_key.unwrap();
    for id in &others {
        let refused = client.remove_results(&model, None, &key, vec![id.clone()]).await.unwrap_err();
        assert!(refused.to_string().contains("it is not the one of job"), "{refused}");
    }
    assert_eq!(crate::support::stored(&all, &results).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_for_ever_in_the_place_of_workers_keeps_nobody_waiting() {
    let server = Server::start();
    let client = server.client().await;
    let _worker = Worker::calls(&client, slug("m"), Arc::new(|r| Some(embed(r)))).await;
    let forger = server.client().await;
    let mut questions = forger.nats().subscribe("$SRV.INFO.>").await.unwrap();
    forger.nats().flush().await.unwrap();
    let _forging = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let (nats, reply) = (forger.nats().clone(), question.reply.unwrap());
            // Just before a client takes it that all have answered.
            tokio::spawn(async move {
                for n in 0.. {
                    let id = format!("forged-{n}");
                    let said = serde_json::json!({"name": "embed-worker", "id": id, "endpoints": [{"subject": "embed.rpc.x"}]});
                    nats.publish(reply.clone(), said.to_string().into()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    }));
    let served = tokio::time::timeout(PATIENCE, client.served()).await.expect("it ends, whoever goes on").unwrap();
    assert!(served.iter().any(|one| one.model == slug("m")), "{served:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_read_one_by_one_where_a_permission_names_their_subjects() {
    let server = Server::with(
        r#"
authorization { users: [ {user: "all", password: "all"}, {user: "one", password: "one", permissions: {
    publish: {allow: ["embed.job.m", "$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.*"]}, subscribe: {allow: ["_INBOX.>"]}}} ] }
no_auth_user: "all"
"#,
    );
    let all = server.provisioned().await;
    let (user, password) = (Some("one".to_owned()), Some("one".to_owned()));
    let settings = embed_connect::ConnectSettings { user, password, ..server.settings() };
    let client = Client::connect(&settings).await.unwrap();
    let ids: Vec<JobId> = (0..20).map(|n| format!("j{n}").parse().unwrap()).collect();
    let mut results = Box::pin(client.results(&slug("m"), ids.clone(), None).await.unwrap());
    let context = jetstream::new(all.nats().clone());
    let store_all = async {
        for id in &ids {
            store(&context, &slug("m"), &embed(&job(id.as_str(), "abc"))).await.unwrap();
        }
    };
    let began = std::time::Instant::now();
    let (found, ()) = tokio::join!(results.by_ref().count(), store_all);
    assert_eq!(found, 20);
    // To ask for several in one request is not permitted, and the server says so: nobody waits for an answer that does not come.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    until("the results to be there", async || {
        crate::support::stored(&all, &streams::results_stream(&slug("m"))).await == 20
    })
    .await;
}
