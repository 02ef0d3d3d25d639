//! Backfills whose jobs or results are lost, or held up: every row comes once and in order all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Server,
    files::{Files, assert_complete, pace},
    model_m, until,
    worker::{Worker, embed},
};
use async_nats::jetstream;
use embed_backfill::Pace;
use embed_client::Client;
use embed_control::provision::apply;
use embed_schemas::{EmbedRequest, Outcome, headers, streams::StreamSettings};
use futures::{FutureExt, StreamExt};

/// What is lost is looked for soon.
fn impatient() -> Pace {
    Pace { missing_after: Duration::from_millis(300), window: 32, ..pace() }
}

fn slow(request: &EmbedRequest) -> Option<Outcome> {
    std::thread::sleep(Duration::from_millis(2));
    Some(embed(request))
}

/// Counts the jobs that are published again under a message id of their own.
async fn published_again(client: &Client) -> impl FnMut() -> usize + use<> {
    let mut published = client.nats().subscribe("embed.bulk.m").await.unwrap();
    let mut count = 0;
    move || {
        // The runtime would have it pause after so many, and what is there would not be seen.
        while let Some(Some(message)) = tokio::task::unconstrained(published.next()).now_or_never() {
            let id = message.headers.as_ref().and_then(|headers| headers.get(headers::MSG_ID)).unwrap();
            count += usize::from(id.as_str().contains('.'));
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_gone_are_published_again() {
    let server = Server::start();
    let settings = StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let mut again = published_again(&client).await;
    let worker = Worker::jobs(&server.client().await, 1, Arc::new(slow));
    let files = Files::new(1200);
    let pace = impatient();
    let running = files.run(&client, 2, &pace);
    let losses = async {
        let context = jetstream::new(client.nats().clone());
        until("the worker is in the middle", async || worker.taken() >= 60).await;
        context.delete_stream("EMBED_m").await.unwrap();
        apply(client.nats(), &[model_m()], &settings).await.unwrap();
        // The sequences of the new stream are those that the old one had: they are other jobs now.
        let before = worker.taken();
        until("the worker is in the middle again", async || worker.taken() >= before + 120).await;
        context.get_stream("EMBED_m").await.unwrap().purge().await.unwrap();
    };
    let (summary, ()) = tokio::join!(running, losses);
    assert_eq!(summary.unwrap().stored, 1200);
    assert_complete(&files, 1200);
    assert_ne!(again(), 0, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_are_gone_are_computed_again() {
    let server = Server::start();
    let client = server.provisioned_with(&StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() }).await;
    let mut again = published_again(&client).await;
    // These jobs are acknowledged, and nobody ever hears of their results.
    let forgetful = Worker::jobs(&server.client().await, 0, Arc::new(|r| Some(embed(r))));
    let files = Files::new(600);
    let pace = impatient();
    let running = files.run(&client, 2, &pace);
    let losses = async {
        // What was taken and not acknowledged would only be delivered again: as many have to be out of their stream.
        let context = jetstream::new(client.nats().clone());
        until("results are lost", async || {
            context.get_stream("EMBED_m").await.unwrap().cached_info().state.first_sequence > 10
        })
        .await;
        drop(forgetful);
        let worker = Worker::jobs(&server.client().await, 1, Arc::new(slow));
        let results = jetstream::new(client.nats().clone()).get_stream("EMBED_RESULTS_m").await.unwrap();
        for jobs in [40, 80, 120] {
            until("the worker is in the middle", async || worker.taken() >= jobs).await;
            results.purge().await.unwrap();
        }
        worker
    };
    let (summary, _worker) = tokio::join!(running, losses);
    assert_eq!(summary.unwrap().stored, 600);
    assert_complete(&files, 600);
    assert!(again() >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_only_wait_are_not_published_again() {
    let server = Server::start();
    let client = server.provisioned().await;
    let mut again = published_again(&client).await;
    let mut looks = client.nats().subscribe("$JS.API.DIRECT.GET.EMBED_m").await.unwrap();
    let files = Files::new(20);
    let pace = Pace { missing_after: Duration::from_millis(50), ..pace() };
    let running = files.run(&client, 2, &pace);
    let late = async {
        // Each of the ten was looked for, several times.
        assert_eq!(looks.by_ref().take(40).count().await, 40);
        Worker::jobs(&server.client().await, 1, Arc::new(|r| Some(embed(r))))
    };
    let (summary, worker) = tokio::join!(running, late);
    assert_eq!((summary.unwrap().stored, worker.taken()), (20, 10));
    assert_complete(&files, 20);
    assert_eq!(again(), 0);
}

/// A worker that takes the first job of a backfill and keeps it until `release` others are done, as one does that has died. Returns
/// how many others were done when it came to it.
async fn held_up(ahead_bytes: usize, release: u64) -> u64 {
    let server = Server::start();
    let client = server.provisioned_with(&StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() }).await;
    let (done, before) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let answer = {
        let (done, before) = (done.clone(), before.clone());
        move |r: &EmbedRequest| {
            if r.texts[0].starts_with("row 0 ") {
                before.store(done.load(Ordering::SeqCst), Ordering::SeqCst);
                if before.load(Ordering::SeqCst) < release {
                    return None;
                }
            }
            done.fetch_add(1, Ordering::SeqCst);
            Some(embed(r))
        }
    };
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    let files = Files::new(400);
    let pace = Pace { window: 4, ahead_bytes, ..pace() };
    let running = files.run(&client, 2, &pace);
    assert_eq!(running.await.unwrap().stored, 400);
    assert_complete(&files, 400);
    before.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_held_up_holds_up_no_other() {
    // Twenty windows are done before the first row can be written.
    assert!(held_up(1 << 20, 80).await >= 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_the_window_is_all_that_goes_ahead() {
    assert_eq!(held_up(0, 3).await, 3);
}
