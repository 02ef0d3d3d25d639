//! Results that a backfill has written: none of them stays in the stream, unless somebody wants it, and what stays is told.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    Server,
    command::{output, stderr},
    files::{Files, assert_complete, pace},
    slug, stored, until,
    worker::{Worker, embed, store},
};
use async_nats::jetstream;
use embed_backfill::{self as backfill, Pace};
use embed_schemas::{EmbedRequest, headers, streams::StreamSettings};
use futures::{FutureExt, StreamExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_again_after_it_was_removed_is_removed_at_the_end() {
    let server = Server::start();
    let settings = StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let open = Arc::new(AtomicBool::new(false));
    let answer = {
        let open = open.clone();
        move |r: &EmbedRequest| {
            let first = r.texts[0].starts_with("row 0 ");
            (first || open.load(Ordering::SeqCst)).then(|| embed(r))
        }
    };
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    // Somebody else's, and one of a backfill whose id begins with the same characters.
    let context = jetstream::new(client.nats().clone());
    let keep = async |id: &str| {
        let mut request = EmbedRequest::new(["other"]);
        request.id = Some(id.parse().unwrap());
        store(&context, &slug("m"), &embed(&request)).await.unwrap();
    };
    keep("other-0").await;
    let files = Files::new(30);
    let pace = pace();
    let running = files.run(&client, 1, &pace);
    let again = async {
        until("the first row is recorded, and its result removed", async || {
            backfill::status(&files.output).is_ok_and(|state| state.done.rows == 1)
                && stored(&client, "EMBED_RESULTS_m").await == 1
        })
        .await;
        let id = backfill::status(&files.output).unwrap().id;
        keep(&format!("{id}-0")).await;
        keep(&format!("{id}x-0")).await;
        open.store(true, Ordering::SeqCst);
    };
    let (summary, ()) = tokio::join!(running, again);
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.results_left), (30, 0));
    assert_complete(&files, 30);
    assert_eq!(stored(&client, "EMBED_RESULTS_m").await, 2);
}

/// Everybody may do everything but remove results.
const NO_PURGE: &str = r#"
authorization { users: [ {user: "u", password: "u", permissions: {publish: {deny: ["$JS.API.STREAM.PURGE.>"]}}} ] }
no_auth_user: "u"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_may_not_be_removed_are_told_of_once() {
    let server = Server::with(NO_PURGE);
    let client =
        server.provisioned_with(&StreamSettings { results_max_bytes: 1 << 20, ..StreamSettings::default() }).await;
    // Somebody else's, which nearly fill the stream.
    client.nats().publish("embed.store.m.other", vec![b'x'; 900_000].into()).await.unwrap();
    until("it is stored", async || stored(&client, "EMBED_RESULTS_m").await == 1).await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(100);
    let arguments = ["-s", &server.url(), "backfill", "run", "-m", "m", "--chunk", "2", "--allow-unserved", "--json"];
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let paths = [&files.input, &files.output].map(|path| path.to_str().unwrap().to_owned());
    let run = move || output(&arguments.iter().chain(&paths).map(String::as_str).collect::<Vec<_>>());
    let answer = tokio::task::spawn_blocking(run).await.unwrap();
    let told = stderr(&answer);
    assert_eq!(answer.status.code(), Some(0), "{told}");
    assert_complete(&files, 100);
    let summary: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(summary["results_left"], 50);
    let lines: Vec<_> = told.lines().filter(|line| line.contains("$JS.API.STREAM.PURGE.EMBED_RESULTS_m")).collect();
    assert!(lines.len() == 1 && lines[0].contains("WARN"), "{told}");
    assert!(told.contains("EMBED_RESULTS_m is 85 % full"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_whose_results_were_removed_are_published_under_ids_that_the_server_does_not_know() {
    let server = Server::start();
    let settings = StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let mut published = client.nats().subscribe("embed.bulk.m").await.unwrap();
    let open = Arc::new(AtomicBool::new(false));
    let done = Arc::new(Mutex::new(HashSet::new()));
    let answer = {
        let (open, done) = (open.clone(), done.clone());
        move |r: &EmbedRequest| {
            // Without the first row, none is written.
            if r.texts[0].starts_with("row 0 ") && !open.load(Ordering::SeqCst) {
                return None;
            }
            done.lock().unwrap().insert(r.id.clone().unwrap());
            Some(embed(r))
        }
    };
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    let files = Files::new(10);
    let results = jetstream::new(client.nats().clone()).get_stream("EMBED_RESULTS_m").await.unwrap();
    let paced = Pace { window: 10, ..pace() };
    for run in 0..2 {
        let running =
            async { if run == 0 { files.run(&client, 1, &paced).await } else { files.resume(&client).await } };
        tokio::select! {
            end = running => panic!("it ended before it was dropped: {end:?}"),
            () = until("all but the first are done", async || {
                done.lock().unwrap().len() == 9
                    && stored(&client, "EMBED_RESULTS_m").await == 9
                    && stored(&client, "EMBED_m").await == 1
            }) => {}
        }
        results.purge().await.unwrap();
        done.lock().unwrap().clear();
    }
    open.store(true, Ordering::SeqCst);
    assert_eq!(files.resume(&client).await.unwrap().stored, 10);
    assert_complete(&files, 10);
    let mut ids = Vec::new();
    // The runtime would have it pause after so many, and what is there would not be seen.
    while let Some(Some(message)) = tokio::task::unconstrained(published.next()).now_or_never() {
        ids.push(message.headers.as_ref().and_then(|headers| headers.get(headers::MSG_ID)).unwrap().to_string());
    }
    // Ten in the first run. In each of the others nine are tried under the ids that the server knows, and then under others.
    let again: Vec<_> = ids.iter().filter(|id| id.contains('.')).collect();
    let distinct: HashSet<_> = again.iter().collect();
    assert_eq!((again.len(), distinct.len()), (18, 18), "{ids:?}");
}
