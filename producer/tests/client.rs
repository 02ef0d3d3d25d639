//! The client against a real server, with and without a worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    PATIENCE, Server, slug, stored, until,
    worker::{Worker, embed, embed_in, failure, store, vector},
};
use embed_client::Error;
use embed_client::{CallOptions, Client, PublishOptions};
use embed_connect::{ConnectError, ConnectSettings};
use embed_schemas::{EmbedRequest, ErrorCode, JobId, Lane, Outcome, WireError, streams::StreamSettings, subjects};
use futures::StreamExt;

fn options() -> CallOptions {
    CallOptions::default().timeout(PATIENCE)
}

#[tokio::test]
async fn no_server_is_a_quick_and_clear_error() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = ConnectSettings { server: Some(format!("nats://me:secret@{free}")), ..ConnectSettings::default() };
    let began = Instant::now();
    let error = Client::connect(&settings).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(15));
    let text = error.to_string();
    assert!(
        matches!(error, Error::Connect(ConnectError::NoServer { .. })) && text.contains(&format!("nats://{free}")),
        "{text}"
    );
    assert!(text.contains("embed dev") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn credentials_in_the_url_are_used() {
    let server = Server::with("authorization { user: me, password: \"p@ss\" }");
    let with = |credentials: &str| ConnectSettings {
        server: Some(format!("nats://{credentials}127.0.0.1:{}", server.port())),
        ..ConnectSettings::default()
    };
    Client::connect(&with("me:p%40ss@")).await.unwrap();
    let error = Client::connect(&with("me:wrong@")).await.unwrap_err();
    assert!(matches!(error, Error::Connect(ConnectError::Refused { .. })), "{error}");
}

#[tokio::test]
async fn asking_without_a_worker_is_answered_at_once() {
    let server = Server::start();
    let client = server.client().await;
    let began = Instant::now();
    let error = client.embed(&slug("m"), EmbedRequest::new(["a"]), &options()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(matches!(&error, Error::UnknownModel { served, .. } if served.is_empty()), "{error}");

    let _worker = Worker::calls(&client, slug("other"), Arc::new(|r| Some(embed(r)))).await;
    let error = client.embed(&slug("m"), EmbedRequest::new(["a"]), &options()).await.unwrap_err();
    assert_eq!(error.to_string(), "no worker serves model m; served are: other");
    assert_eq!(error.code(), "unknown_model");
}

#[tokio::test]
async fn many_texts_are_several_calls_and_one_result() {
    let server = Server::with("max_payload: 20000");
    let client = server.client().await;
    // This worker's answers hold no more than 10 vectors, and it computes no more than 20 in one call.
    let answer = |r: &EmbedRequest| match r.texts.len() {
        ..=10 => Some(embed(r)),
        21.. => Some(failure(r, WireError::new(ErrorCode::CallTooLarge, "too much"))),
        _ => Some(failure(r, WireError::new(ErrorCode::ResultTooLarge, "too large"))),
    };
    let worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let texts: Vec<String> = (0..300).map(|n| "x".repeat(n)).collect();
    let request = EmbedRequest { id: Some("mine".parse().unwrap()), ..EmbedRequest::new(texts.clone()) };
    let result = client.embed(&slug("m"), request, &options()).await.unwrap();
    assert_eq!(result.id.as_str(), "mine");
    assert_eq!(result.items.len(), 300);
    for (n, text) in texts.iter().enumerate() {
        assert_eq!(result.vector(n).unwrap(), vector(text));
    }
    assert!(worker.taken() > 30, "{}", worker.taken());

    let request = EmbedRequest::new(["fits".to_owned(), "x".repeat(30_000)]);
    let error = client.embed(&slug("m"), request, &options()).await.unwrap_err();
    assert!(matches!(error, Error::PayloadTooLarge { index: 1, bytes: 30_000, limit: 20_000 }), "{error}");
}

#[tokio::test]
async fn an_overloaded_worker_is_asked_again() {
    let server = Server::start();
    let client = server.client().await;
    let calls = AtomicU64::new(0);
    let answer = move |r: &EmbedRequest| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => {
            let error = WireError::new(ErrorCode::Overloaded, "full");
            Some(failure(r, WireError { retry_after_ms: Some(20), ..error }))
        }
        1 => Some(failure(r, WireError::new(ErrorCode::ShuttingDown, "stopping"))),
        _ => Some(embed(r)),
    };
    let worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    client.embed(&slug("m"), EmbedRequest::new(["a"]), &options()).await.unwrap();
    assert_eq!(worker.taken(), 3);
}

#[tokio::test]
async fn errors_of_the_worker_and_silence_are_told_apart() {
    let server = Server::start();
    let client = server.client().await;
    let answer = |r: &EmbedRequest| {
        let error = WireError::new(ErrorCode::UnknownPrompt, "no prompt `q`");
        (r.prompt.is_some()).then(|| failure(r, error))
    };
    let _worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let request = EmbedRequest { prompt: Some("q".into()), ..EmbedRequest::new(["a"]) };
    let error = client.embed(&slug("m"), request, &options()).await.unwrap_err();
    assert_eq!(error.code(), "unknown_prompt");
    let soon = CallOptions::default().timeout(Duration::from_millis(100));
    let error = client.embed(&slug("m"), EmbedRequest::new(["a"]), &soon).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let error = client.embed(&slug("m"), EmbedRequest::new(Vec::<String>::new()), &soon).await.unwrap_err();
    assert_eq!(error.code(), "invalid_request");
}

#[tokio::test]
async fn two_spaces_are_not_one_result() {
    let server = Server::start();
    let client = server.client().await;
    let answer = |r: &EmbedRequest| Some(embed_in(&r.texts[0], r));
    let _worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let texts = (0..65).map(|n| if n < 64 { "a" } else { "b" });
    let error = client.embed(&slug("m"), EmbedRequest::new(texts), &options()).await.unwrap_err();
    assert!(matches!(error, Error::MixedSpaces { .. }), "{error}");
}

#[tokio::test]
async fn vectors_of_another_space_are_refused() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _calls = Worker::calls(&client, slug("m"), Arc::new(|r| Some(embed_in("new", r)))).await;
    let _jobs = Worker::jobs(&client, 1, Arc::new(|r| Some(embed_in("new", r))));
    let ask = async |space: &str| {
        let options = options().space(space.to_owned());
        client.embed(&slug("m"), EmbedRequest::new(["a"]), &options).await
    };
    assert_eq!(ask("new").await.unwrap().space, "new");
    let error = ask("old").await.unwrap_err();
    assert!(
        matches!(&error, Error::OtherSpace { expected, found, .. } if expected == "old" && found == "new"),
        "{error}"
    );
    assert!(error.to_string().contains("fp32 v1 of m") && !error.retryable(), "{error}");

    // Heard or read from the stream, a stored result is held to the same.
    let jobs = client.jobs(EmbedRequest::new(["a"])).unwrap();
    let id = jobs[0].id.clone().unwrap();
    let mut results = client.results(&slug("m"), vec![id.clone()], Some("old")).await.unwrap();
    client.publish_job(&slug("m"), Lane::Job, &jobs[0], &PublishOptions::default()).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, results.next()).await.unwrap().unwrap();
    assert!(matches!(heard, Err(Error::OtherSpace { .. })), "{heard:?}");
    let expect = async |space: &str| client.expect(&slug("m"), id.clone()).await.unwrap().in_space(Some(space.into()));
    assert!(matches!(expect("old").await.wait(PATIENCE).await, Err(Error::OtherSpace { .. })));
    assert!(expect("new").await.wait(PATIENCE).await.is_ok());
}

#[tokio::test]
async fn publishing_without_a_stream_fails_at_once() {
    let server = Server::start();
    let client = server.client().await;
    let began = Instant::now();
    let error =
        client.publish(&slug("m"), Lane::Job, EmbedRequest::new(["a"]), &PublishOptions::default()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(matches!(error, Error::NoStream { .. }) && error.to_string().contains("embed init"), "{error}");
}

#[tokio::test]
async fn the_same_id_is_stored_once() {
    let server = Server::start();
    let client = server.provisioned().await;
    let request = EmbedRequest { id: Some("one".parse().unwrap()), ..EmbedRequest::new(["a"]) };
    let publish = async || client.publish(&slug("m"), Lane::Job, request.clone(), &PublishOptions::default()).await;
    let first = publish().await.unwrap();
    let second = publish().await.unwrap();
    assert_eq!((first[0].duplicate, second[0].duplicate), (false, true));
    assert_eq!(first[0].sequence, second[0].sequence);
    assert_eq!(stored(&client, "EMBED_m").await, 1);
}

#[tokio::test]
async fn a_large_job_becomes_several() {
    let server = Server::with("max_payload: 20000");
    let client = server.provisioned().await;
    let request = EmbedRequest { id: Some("big".parse().unwrap()), ..EmbedRequest::new(vec!["x".repeat(9_000); 5]) };
    let published = client.publish(&slug("m"), Lane::Bulk, request, &PublishOptions::default()).await.unwrap();
    let ids: Vec<&str> = published.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids, ["big-0", "big-1", "big-2"]);
    assert_eq!(stored(&client, "EMBED_m").await, 3);
}

#[tokio::test]
async fn a_full_stream_says_so() {
    let server = Server::start();
    let settings = StreamSettings { jobs_max_bytes: 2_000, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let request = EmbedRequest::new(["x".repeat(3_000)]);
    let error = client.publish(&slug("m"), Lane::Job, request, &PublishOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::StreamFull { .. }), "{error}");
}

#[tokio::test]
async fn publishing_waits_for_a_server_that_is_away() {
    let mut server = Server::start();
    let client = server.provisioned().await;
    server.kill();
    let publishing = tokio::spawn({
        let client = client.clone();
        let options = PublishOptions::default().timeout(PATIENCE);
        async move { client.publish(&slug("m"), Lane::Job, EmbedRequest::new(["a"]), &options).await }
    });
    until("the client notices", async || {
        client.nats().connection_state() == async_nats::connection::State::Disconnected
    })
    .await;
    assert!(!publishing.is_finished());
    server.restart();
    assert_eq!(publishing.await.unwrap().unwrap().len(), 1);
    assert_eq!(stored(&client, "EMBED_m").await, 1);
}

#[tokio::test]
async fn a_result_that_was_stored_before_is_found() {
    let server = Server::start();
    let client = server.provisioned().await;
    let context = async_nats::jetstream::new(client.nats().clone());
    let job = |id: &str| EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new(["abc"]) };
    store(&context, &slug("m"), &embed(&job("early"))).await.unwrap();
    let Outcome::Result(result) = client.result(&slug("m"), &"early".parse().unwrap(), PATIENCE).await.unwrap() else {
        panic!("no result")
    };
    assert_eq!(result.vector(0).unwrap(), [3.0, 1.0]);
    assert!(client.remove_result(&slug("m"), &"early".parse().unwrap()).await.unwrap());
    assert!(!client.remove_result(&slug("m"), &"early".parse().unwrap()).await.unwrap());
    store(&context, &slug("m"), &embed(&job("early"))).await.unwrap();

    // What is no outcome is not taken for one, and does not end the waiting.
    let ids: Vec<JobId> = ["early", "late"].map(|id| id.parse().unwrap()).into();
    let mut results = client.results(&slug("m"), ids, None).await.unwrap();
    let late = subjects::result(&slug("m"), &"late".parse().unwrap());
    assert_eq!(results.next().await.unwrap().unwrap().0.as_str(), "early");
    let feed = async {
        client.nats().publish(late.clone(), "noise".into()).await.unwrap();
        context.get_stream("EMBED_RESULTS_m").await.unwrap().purge().filter(late.clone()).await.unwrap();
        store(&context, &slug("m"), &embed(&job("late"))).await.unwrap();
    };
    let (next, ()) = tokio::join!(results.next(), feed);
    assert_eq!(next.unwrap().unwrap().0.as_str(), "late");
    assert!(results.next().await.is_none());
}

#[tokio::test]
async fn a_result_that_does_not_come_is_explained() {
    let server = Server::start();
    let client = server.client().await;
    let wait = async |client: &Client| {
        client.result(&slug("m"), &"x".parse().unwrap(), Duration::from_millis(50)).await.unwrap_err().to_string()
    };
    let text = wait(&client).await;
    assert!(text.contains("EMBED_RESULTS_m") && text.contains("embed init"), "{text}");
    let text = wait(&server.provisioned().await).await;
    assert!(text.contains("is a worker running?"), "{text}");
}

#[tokio::test]
async fn published_jobs_are_answered() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let mut inbox = client.nats().subscribe("copies").await.unwrap();
    let jobs = client.jobs(EmbedRequest::new(["abcd"])).unwrap();
    let mut results =
        client.results(&slug("m"), jobs.iter().filter_map(|job| job.id.clone()).collect(), None).await.unwrap();
    let options = PublishOptions::default().reply_to("copies".to_owned());
    client.publish_job(&slug("m"), Lane::Job, &jobs[0], &options).await.unwrap();
    let (id, outcome) = tokio::time::timeout(PATIENCE, results.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(Some(&id), jobs[0].id.as_ref());
    assert_eq!(outcome.into_result().unwrap().vector(0).unwrap(), [4.0, 1.0]);
    // Copies are the worker's business; this one makes none.
    assert!(futures::FutureExt::now_or_never(inbox.next()).is_none());
}
