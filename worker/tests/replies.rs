//! A worker publishes to inboxes on somebody's behalf, and to nothing else: its permissions are not its callers'.

use crate::support::{Stack, model, worker_command};
use async_nats::{HeaderMap, Subscriber, jetstream};
use bytes::Bytes;
use embed_schemas::{EmbedRequest, Format, JobId, Lane, headers, streams, subjects, wire::decode_outcome};
use embed_testkit::{Daemon, NatsServer, PATIENCE};
use futures::{FutureExt, StreamExt};

const PURGE: &str = "$JS.API.STREAM.PURGE.X";
const BUCKET: &str = "$KV.embed_routes.m";

/// Somebody else's stream, with three messages.
async fn somebody_elses(stack: &Stack) {
    let context = jetstream::new(stack.client.clone());
    let config = jetstream::stream::Config { name: "X".into(), subjects: vec!["x".into()], ..Default::default() };
    context.create_stream(config).await.unwrap();
    for _ in 0..3 {
        context.publish("x", "theirs".into()).await.unwrap().await.unwrap();
    }
}

/// The result of somebody else's job.
fn anothers_result() -> String {
    subjects::result(&model(), &"anothers".parse().unwrap())
}

/// Where nothing is to be heard.
async fn spies(stack: &Stack, more: &[&str]) -> Vec<Subscriber> {
    let result = anothers_result();
    let mut all = Vec::new();
    for subject in [&[PURGE, BUCKET, "plain", &result][..], more].concat() {
        all.push(stack.client.subscribe(subject.to_owned()).await.unwrap());
    }
    stack.client.flush().await.unwrap();
    all
}

async fn assert_nothing_happened(stack: &Stack, spies: &mut [Subscriber]) {
    assert_eq!(stack.messages_in("X").await, 3, "the stream has been purged");
    // A round trip: what was sent before has arrived.
    stack.client.request("$JS.API.INFO", Bytes::new()).await.unwrap();
    for spy in spies {
        assert!(spy.next().now_or_never().is_none());
    }
}

/// What the worker has counted of this kind.
async fn refused(stack: &Stack, kind: &str) -> f64 {
    let (_, metrics) = stack.get("/metrics").await;
    let series = format!("akidb_replies_refused_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_in_inboxes_and_questions_about_the_worker_as_well() {
    let stack = Stack::start_with("", &[]).await;
    somebody_elses(&stack).await;
    let mut spies = spies(&stack, &[]).await;
    let call = Format::Json.encode(&EmbedRequest::new(["hello"]));
    let (good, result) = (subjects::bare(Lane::Rpc, &model()), anothers_result());
    let long = format!("_INBOX.{}", "x".repeat(3_000));
    let wildcard = format!("_INBOX.{}*", "y.".repeat(3));
    let nowhere = [PURGE, BUCKET, "plain", &result, &long, &wildcard, "_INBOX"];
    for reply in nowhere {
        for payload in [call.clone(), "no call".into()] {
            stack.client.publish_with_reply(good.clone(), reply.to_owned(), payload).await.unwrap();
        }
        for subject in ["$SRV.INFO", "$SRV.PING.embed-worker", "$SRV.STATS"] {
            stack.client.publish_with_reply(subject, reply.to_owned(), Bytes::new()).await.unwrap();
        }
    }
    // Those that come behind them are answered, wherever their users' inboxes are.
    stack.call(&EmbedRequest::new(["hello"]), Format::Json).await.unwrap();
    stack.client.request("$SRV.INFO.embed-worker", Bytes::new()).await.unwrap();
    let mut mine = stack.client.subscribe("_INBOX_mine.*").await.unwrap();
    stack.client.publish_with_reply(good, "_INBOX_mine.1", call).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, mine.next()).await.unwrap().unwrap();
    assert!(decode_outcome(&answer.payload).unwrap().into_result().is_ok());
    assert_nothing_happened(&stack, &mut spies).await;
    assert_eq!((refused(&stack, "call").await, refused(&stack, "discovery").await), (14.0, 21.0));
    let log = stack.worker.log();
    assert!(log.contains("on anybody's behalf"), "{log}");
    assert!(log.matches("on anybody's behalf").count() < 5, "few lines tell of it: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_outcomes_go_to_inboxes_and_what_is_stored_says_why_there_is_none() {
    let stack = Stack::start().await;
    somebody_elses(&stack).await;
    let acknowledgement = format!("$JS.ACK.{}.fp32-job.1.1.1.1.0", streams::jobs_stream(&model()));
    let mut spies = spies(&stack, &[]).await;
    let (result, long) = (anothers_result(), format!("_INBOX.{}", "x".repeat(5_000)));
    let nowhere = [PURGE, BUCKET, "plain", &result, &acknowledgement, &long, "_INBOX.>", "_INBOX.a b", ""];
    for (n, reply_to) in nowhere.into_iter().enumerate() {
        let mut header = HeaderMap::new();
        header.insert(headers::REPLY_TO, reply_to);
        for prompt in [None, Some("none-such".to_owned())] {
            let id = format!("job-{n}-{}", prompt.is_some());
            let request = EmbedRequest { id: Some(id.parse().unwrap()), prompt, ..EmbedRequest::new(["hello"]) };
            stack.publish_raw(Lane::Job, header.clone(), Format::Json.encode(&request)).await;
        }
        // One without an id: there is nothing but its dead letter.
        stack.publish_raw(Lane::Job, header, "no job").await;
    }
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    stack.wait_for_messages(&streams::results_stream(&model()), 2 * nowhere.len() as u64).await;
    let context = jetstream::new(stack.client.clone());
    let results = context.get_stream(streams::results_stream(&model())).await.unwrap();
    for n in 0..nowhere.len() {
        let id: JobId = format!("job-{n}-false").parse().unwrap();
        let stored = results.direct_get_last_for_subject(subjects::result(&model(), &id)).await.unwrap();
        let why = stored.headers.get(headers::COPY_REFUSED).expect("it says so").as_str();
        assert!(why.starts_with("Reply-To: ") && why.len() < 200, "{why}");
        assert!(stack.stored(&id).await.into_result().is_ok());
    }
    let dead = context.get_stream(streams::dead_stream(&model())).await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 2 * nowhere.len() as u64);
    assert!(dead.get_raw_message(1).await.unwrap().headers.get(headers::REPLY_TO).is_none(), "nobody is misled later");
    // One that may be sent is.
    let mut inbox = stack.client.subscribe("_INBOX_mine.copies").await.unwrap();
    let mut header = HeaderMap::new();
    header.insert(headers::REPLY_TO, "_INBOX_mine.copies");
    stack.publish_raw(Lane::Job, header, Format::Json.encode(&EmbedRequest::new(["hello"]))).await;
    let copy = tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap();
    assert!(copy.headers.unwrap().get(headers::COPY_REFUSED).is_none());
    assert_nothing_happened(&stack, &mut spies).await;
    assert_eq!(refused(&stack, "copy").await, 3.0 * nowhere.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_inboxes_are_a_matter_of_configuration() {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &streams::StreamSettings::default()).await;
    let mut command = worker_command(&nats, &["--inbox-prefix", "_MINE"]);
    command.env("EMBED_WORKER__WORKER__REPLY_PREFIXES", "[\"replies.of-a\"]");
    let worker = Daemon::spawn(&mut command);
    // It is ready: it has answered itself.
    let stack = Stack { ready: worker.json_line(), worker, nats, client };
    let mut answers = stack.client.subscribe("replies.>").await.unwrap();
    let call = Format::Json.encode(&EmbedRequest::new(["hello"]));
    for reply in ["replies.of-b.1", "replies.of-a.1"] {
        stack.client.publish_with_reply(subjects::bare(Lane::Rpc, &model()), reply, call.clone()).await.unwrap();
    }
    let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    assert_eq!(answer.subject.as_str(), "replies.of-a.1");
    // What does something is nobody's inbox.
    for prefix in ["$JS.API", "embed.result", "a.*"] {
        let mut command = worker_command(&stack.nats, &[]);
        command.env("EMBED_WORKER__WORKER__REPLY_PREFIXES", format!("[{prefix:?}]"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("worker.reply_prefixes"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_into_the_workers_inbox_is_no_delivery() {
    let stack = Stack::start().await;
    // Where the worker listens for jobs, as whoever may listen to the API finds out.
    let pulls = format!("$JS.API.CONSUMER.MSG.NEXT.{}.fp32-job", streams::jobs_stream(&model()));
    let mut pulls = stack.client.subscribe(pulls).await.unwrap();
    let inbox = tokio::time::timeout(PATIENCE, pulls.next()).await.unwrap().unwrap().reply.unwrap();
    let request = EmbedRequest { id: Some("forged".parse().unwrap()), ..EmbedRequest::new(["forged"]) };
    for reply in ["_INBOX.x", "plain"] {
        stack.client.publish_with_reply(inbox.clone(), reply, Format::Json.encode(&request)).await.unwrap();
    }
    let counted = async {
        while refused(&stack, "delivery").await < 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("it is counted");
    stack.job(Lane::Job, EmbedRequest::new(["real"]), Format::Json, "real").await.into_result().unwrap();
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, 1);
}
