//! Messages that no client library would send, but any publisher can: they cost themselves, and nobody else anything.

use std::time::Duration;

use crate::support::{Stack, model, outcome, provision, variant, worker_command};
use async_nats::{HeaderMap, header::HeaderBlock, jetstream};
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, JobId, Lane, headers, streams, streams::StreamSettings, subjects,
    wire::decode_outcome,
};
use embed_testkit::{Daemon, NatsServer, PATIENCE, RawClient};
use futures::StreamExt;
use proptest::prelude::*;
use serde_json::Value;

/// Header blocks that a server takes and hands on. The library's own parser ends the connection at most of them, and panics at one.
const BLOCKS: [&[u8]; 10] = [
    b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n\xff: x\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nbad name: x\r\n\r\n",
    "NATS/1.0\r\nnäme: x\r\n\r\n".as_bytes(),
    b"NATS/1.0\r\n: x\r\n\r\n",
    b"NATS/1.0\r\nX: a\rb\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: x\r\n\r\n",
    b"garbage",
    b"\r\n\r\n",
];

/// The same with a status, as only a server's have: that there is nothing, or nobody. This server takes it out of what it stores.
const STATUSES: [&[u8]; 4] = [
    b"NATS/1.0 9999\r\nX: x\r\n\r\n",
    b"NATS/1.0 x\r\nX: x\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\nX: x\r\n\r\n",
    b"NATS/1.0 503\r\nX: x\r\n\r\n",
];

fn request(id: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","texts":["hello"]}}"#).into_bytes()
}

/// Neither was a connection lost, nor is there anybody who is not served.
async fn assert_nobody_is_harmed(stack: &Stack) {
    stack.call(&EmbedRequest::new(["hello"]), Format::Json).await.unwrap();
    assert_eq!(stack.worker_metric("akidb_nats_reconnects_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_read_is_answered_and_others_are_served_beside_it() {
    let stack = Stack::start().await;
    let mut raw = RawClient::connect(&stack.nats.address()).unwrap();
    raw.subscribe("_INBOX.raw.>", 1).unwrap();
    let subject = subjects::bare(Lane::Rpc, &model());
    for (n, block) in BLOCKS.into_iter().chain(STATUSES).enumerate() {
        let reply = format!("_INBOX.raw.{n}");
        raw.publish(subject.as_bytes(), Some(reply.as_bytes()), Some(block), &request("x")).unwrap();
        // Beside it, one that is as it should be.
        stack.call(&EmbedRequest::new(["hello"]), Format::Json).await.unwrap();
        let answer = raw.next(PATIENCE).unwrap().expect("an answer");
        assert_eq!(answer.subject, reply.as_bytes());
        let error = decode_outcome(&answer.payload).unwrap().into_result().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{block:?}");
        assert!(error.message.starts_with("headers: ") && error.message.contains("Name: value"), "{error}");
    }
    assert_nobody_is_harmed(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_and_endless_reply_subjects_cost_their_own_answer_at_most() {
    let stack = Stack::start().await;
    let mut raw = RawClient::connect(&stack.nats.address()).unwrap();
    raw.subscribe("_INBOX.raw.>", 1).unwrap();
    let call = subjects::bare(Lane::Rpc, &model());
    let endless = format!("_INBOX.raw.{}", "x".repeat(3_900));
    let replies: [(&[u8], bool); 6] = [
        (b"_INBOX.raw.\xff", false),
        (endless.as_bytes(), false),
        // Nothing is published on what has white space or control characters in it.
        (b"_INBOX.raw.a\x0bb", false),
        ("_INBOX.raw.a\u{a0}b\u{2003}c".as_bytes(), false),
        (b"_INBOX.raw.a\x00b", false),
        ("_INBOX.raw.ä".as_bytes(), true),
    ];
    for headers in [None, Some(&b"NATS/1.0\r\nX: x\r\n\r\n"[..])] {
        for subject in [call.as_str(), "$SRV.PING", "$SRV.INFO.embed-worker", "$SRV.STATS"] {
            for (reply, is_answered) in replies {
                raw.publish(subject.as_bytes(), Some(reply), headers, &request("x")).unwrap();
                stack.call(&EmbedRequest::new(["hello"]), Format::Json).await.unwrap();
                if is_answered {
                    let answer = raw.next(PATIENCE).unwrap().expect("an answer");
                    assert_eq!(answer.subject, reply, "{subject}");
                }
            }
        }
    }
    for block in BLOCKS.into_iter().chain(STATUSES) {
        raw.publish(b"$SRV.PING", Some(b"_INBOX.raw.ping"), Some(block), b"").unwrap();
        assert_eq!(raw.next(PATIENCE).unwrap().expect("an answer").subject, b"_INBOX.raw.ping");
    }
    assert_nobody_is_harmed(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_ends_at_its_first_delivery_and_the_lane_goes_on() {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    // So few may be under way that each that is left over would be missed.
    provision(&client, &StreamSettings { max_ack_pending: 4, ..StreamSettings::default() }).await;
    let mut raw = RawClient::connect(&nats.address()).unwrap();
    let subject = subjects::bare(Lane::Job, &model());
    for (n, block) in BLOCKS.into_iter().enumerate() {
        raw.publish(subject.as_bytes(), None, Some(block), &request(&format!("odd-{n}"))).unwrap();
    }
    for (n, block) in STATUSES.into_iter().enumerate() {
        raw.publish(subject.as_bytes(), None, Some(block), &request(&format!("status-{n}"))).unwrap();
    }
    // Its id is in a header that can be read, and in none.
    let named = b"NATS/1.0\r\nno colon\r\nNats-Msg-Id: named\r\n\r\n";
    raw.publish(subject.as_bytes(), None, Some(named), b"not json").unwrap();
    raw.publish(subject.as_bytes(), None, Some(BLOCKS[0]), br#"{"texts":["hello"]}"#).unwrap();
    raw.flush().unwrap();
    let worker = Daemon::spawn(&mut worker_command(&nats, &[]));
    let stack = Stack { ready: worker.json_line(), worker, nats, client };
    stack.job(Lane::Job, EmbedRequest::new(["hello"]), Format::Json, "honest").await.into_result().unwrap();
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    let ids = (0..BLOCKS.len()).map(|n| format!("odd-{n}")).chain(["named".to_owned()]);
    for id in ids {
        let error = stack.stored(&id.parse().unwrap()).await.into_result().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{id}");
        assert!(error.message.starts_with("headers: "), "{error}");
    }
    for n in 0..STATUSES.len() {
        // Whatever it is taken for.
        stack.stored(&format!("status-{n}").parse().unwrap()).await;
    }
    assert!(stack.messages_in(&streams::dead_stream(&model())).await >= BLOCKS.len() as u64 + 2);
    assert_eq!(stack.worker_metric("akidb_redeliveries_total").await, 0.0);
    assert_nobody_is_harmed(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_wanted_on_an_endless_subject_is_not_sent() {
    let stack = Stack::start().await;
    for (n, length) in [1_001, 4_060, 5_000, 60_000].into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert(headers::REPLY_TO, "x".repeat(length).as_str());
        let id = format!("reply-{n}");
        // One has a result, the other ends as a dead letter.
        stack.publish_raw(Lane::Job, headers.clone(), request(&id)).await;
        headers.insert(headers::MSG_ID, format!("{id}-broken").as_str());
        stack.publish_raw(Lane::Job, headers, "not json").await;
        stack.stored(&id.parse().unwrap()).await.into_result().unwrap();
        stack.stored(&format!("{id}-broken").parse().unwrap()).await.into_result().unwrap_err();
    }
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    assert_eq!(stack.worker_metric("akidb_redeliveries_total").await, 0.0);
    assert_nobody_is_harmed(&stack).await;
}

/// Takes everything from the consumer, and gives it back, until it delivers nothing more.
async fn exhaust(raw: &mut RawClient, stream: &str, consumer: &str, deliveries: usize) {
    raw.subscribe("_INBOX.pull", 2).unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    // One more than there are: the server looks whether there is another one when somebody waits for it.
    let batch = format!(r#"{{"batch":{}}}"#, deliveries + 1);
    raw.publish(next.as_bytes(), Some(b"_INBOX.pull"), None, batch.as_bytes()).unwrap();
    for _ in 0..deliveries {
        let message = raw.next(PATIENCE).unwrap().expect("a delivery");
        raw.publish(&message.reply.unwrap(), None, None, b"-NAK").unwrap();
    }
    raw.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_has_ended_in_all_its_deliveries_is_buried_once_by_its_sequence() {
    const MAX_DELIVER: usize = 3;
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let settings = StreamSettings { ack_wait_ms: 1_000, max_deliver: MAX_DELIVER as i64, ..StreamSettings::default() };
    provision(&client, &settings).await;
    let (jobs, results) = (streams::jobs_stream(&model()), streams::results_stream(&model()));
    let mut raw = RawClient::connect(&nats.address()).unwrap();
    let subject = subjects::bare(Lane::Job, &model());
    let reply = b"NATS/1.0\r\nReply-To: _INBOX.copies.x\r\n\r\n";
    raw.publish(subject.as_bytes(), None, Some(reply), &request("readable")).unwrap();
    raw.publish(subject.as_bytes(), None, Some(BLOCKS[0]), &request("odd")).unwrap();
    raw.publish(subject.as_bytes(), None, None, b"no job, no id").unwrap();
    // It was done, and whoever did it was cut off before the acknowledgement.
    raw.publish(subject.as_bytes(), None, None, br#"{"texts":["done"]}"#).unwrap();
    raw.flush().unwrap();
    let context = jetstream::new(client.clone());
    let mut stream = context.get_stream(&jobs).await.unwrap();
    while stream.info().await.unwrap().state.messages < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let done = job_id(&context, 4).await;
    let store = subjects::store(&model(), &done);
    context
        .publish(store, r#"{"error":{"code":"cancelled","message":"x","retryable":false}}"#.into())
        .await
        .unwrap()
        .await
        .unwrap();
    exhaust(&mut raw, &jobs, &streams::consumer(&variant(), Lane::Job), 4 * MAX_DELIVER).await;
    // The server says so when it would deliver them once more, and they stay where they are.
    let exhausted = streams::exhausted_stream(&model());
    let mut stack = stack_of(nats, client);
    stack.wait_for_messages(&exhausted, 4).await;
    assert_eq!(stack.messages_in(&jobs).await, 4);
    drop(raw);

    // Nobody was there to hear it; now there are two.
    let mut copies = stack.client.subscribe("_INBOX.copies.x").await.unwrap();
    stack.client.flush().await.unwrap();
    let mut commands = [worker_command(&stack.nats, &[]), worker_command(&stack.nats, &[])];
    let [first, second] = commands.each_mut().map(Daemon::spawn);
    stack.ready = first.json_line();
    second.json_line();
    stack.wait_for_messages(&jobs, 0).await;
    stack.wait_for_messages(&exhausted, 0).await;
    for id in ["readable", "odd"] {
        let error = stack.stored(&id.parse().unwrap()).await.into_result().unwrap_err();
        assert_eq!(error.code, ErrorCode::TooManyDeliveries, "{id}");
        assert!(error.message.contains("3 times"), "{error}");
        assert_eq!(error.message.contains("headers: a header is not UTF-8"), id == "odd", "{error}");
    }
    let copy = tokio::time::timeout(PATIENCE, copies.next()).await.unwrap().expect("a copy of the outcome");
    assert!(decode_outcome(&copy.payload).unwrap().into_result().is_err());
    assert_eq!(stack.messages_in(&streams::dead_stream(&model())).await, 3, "what had its outcome is no dead letter");
    assert_eq!(stack.messages_in(&results).await, 3);
    let dead = context.get_stream(streams::dead_stream(&model())).await.unwrap();
    let mut sequences = Vec::new();
    for n in 1..=3 {
        let letter = dead.get_raw_message(n).await.unwrap();
        assert_eq!(letter.headers.get(headers::DEAD_DELIVERIES).unwrap().as_str(), "3");
        sequences.push(letter.headers.get(headers::DEAD_SEQUENCE).unwrap().as_str().to_owned());
    }
    sequences.sort();
    assert_eq!(sequences, ["1", "2", "3"]);

    // One that is told of while workers are there. It is held back, since no worker would leave it alone.
    let consumer = streams::consumer(&variant(), Lane::Bulk);
    pause(&stack, &jobs, &consumer).await;
    stack.publish_raw(Lane::Bulk, HeaderMap::new(), request("told")).await;
    stack.wait_for_messages(&jobs, 1).await;
    let told = format!(r#"{{"stream":"{jobs}","consumer":"{consumer}","stream_seq":5,"deliveries":7}}"#);
    let advisory = streams::exhausted_subject(&jobs, &consumer);
    // Of another lane's job, or of none, nothing is believed.
    for other in [told.replace("\"stream_seq\":5", "\"stream_seq\":99"), "{}".to_owned(), "x".to_owned()] {
        context.publish(advisory.clone(), other.into()).await.unwrap().await.unwrap();
    }
    let wrong = streams::exhausted_subject(&jobs, &streams::consumer(&variant(), Lane::Job));
    context.publish(wrong, told.clone().into()).await.unwrap().await.unwrap();
    stack.wait_for_messages(&exhausted, 0).await;
    assert_eq!(stack.messages_in(&jobs).await, 1);
    context.publish(advisory, told.into()).await.unwrap().await.unwrap();
    let error = outcome(&stack.client, &model(), &"told".parse().unwrap()).await.into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::TooManyDeliveries);
    stack.wait_for_messages(&jobs, 0).await;
    stack.wait_for_messages(&exhausted, 0).await;
    assert_eq!(stack.messages_in(&streams::dead_stream(&model())).await, 4);
}

/// A stack whose worker is still to come.
fn stack_of(nats: NatsServer, client: async_nats::Client) -> Stack {
    Stack { worker: Daemon::spawn(std::process::Command::new("true").arg("--")), ready: Value::Null, nats, client }
}

/// The id of a job that names none: from where it is stored.
async fn job_id(context: &jetstream::Context, sequence: u64) -> JobId {
    let stream = streams::jobs_stream(&model());
    let stored = context.get_stream(&stream).await.unwrap().get_raw_message(sequence).await.unwrap();
    let nanos = stored.time.unix_timestamp_nanos();
    format!("{stream}-{sequence}-{nanos:x}").parse().unwrap()
}

/// From now on the consumer delivers nothing.
async fn pause(stack: &Stack, stream: &str, consumer: &str) {
    let until = r#"{"pause_until":"2100-01-01T00:00:00Z"}"#;
    let answer =
        stack.client.request(format!("$JS.API.CONSUMER.PAUSE.{stream}.{consumer}"), until.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["paused"], true, "{answer}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

proptest! {
    #[test]
    fn a_header_block_is_read_whatever_it_is(
        lines in prop::collection::vec(
            prop_oneof!["[A-Za-z-]{0,8}:[ -~]{0,8}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..12)],
            0..6,
        ),
        end in prop::sample::select(vec!["\r\n", "\n", "\r", ""]),
    ) {
        let mut bytes = b"NATS/1.0\r\nGood: 1\r\nEnd: 1\r\n".to_vec();
        for line in lines {
            bytes.extend_from_slice(&line);
            bytes.extend_from_slice(end.as_bytes());
        }
        let block = HeaderBlock::parse(&bytes);
        prop_assert!(block.headers.get("Good").is_some(), "what can be read is there");
        for (_, values) in block.headers.iter() {
            for value in values {
                prop_assert!(!value.as_str().contains(['\r', '\n']), "and can be sent on");
            }
        }
        for cut in 0..bytes.len() {
            let _ = HeaderBlock::parse(&bytes[cut..]);
            let _ = HeaderBlock::parse(&bytes[..cut]);
        }
    }
}
