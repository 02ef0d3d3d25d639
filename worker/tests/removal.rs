//! Results are removed for whoever has the key of their ids, and for nobody else.

use std::time::Duration;

use crate::support::{Stack, behind_a_relay, model};
use async_nats::jetstream;
use bytes::Bytes;
use embed_schemas::{
    EmbedRequest, Format, JobId, Lane, Slug,
    removal::{Removal, RemovalKey, Removed, StreamFill},
    streams::{self, StreamSettings},
    subjects, wire,
};
use embed_testkit::PATIENCE;
use futures::StreamExt;

fn id(key: &RemovalKey, n: usize) -> JobId {
    format!("0123456789{}-{n}", key.id_part()).parse().unwrap()
}

async fn store(stack: &Stack, tenant: Option<&Slug>, id: &JobId) {
    let context = jetstream::new(stack.client.clone());
    let subject = subjects::store_for(&model(), tenant, id);
    context.publish(subject, Bytes::from_static(b"{}")).await.unwrap().await.unwrap();
}

async fn ask(stack: &Stack, subject: String, request: impl Into<Bytes>) -> Removed {
    wire::decode_removed(&stack.call_raw(subject, Default::default(), request).await.payload).unwrap()
}

#[tokio::test]
async fn who_has_the_key_of_ids_removes_their_results_and_no_others() {
    let stack = Stack::start().await;
    let results = streams::results_stream(&model());
    let (mine, theirs) = (RemovalKey::from_random([1; 32]), RemovalKey::from_random([2; 32]));
    let tenant: Slug = "a".parse().unwrap();
    let others: JobId = "somebody-elses".parse().unwrap();
    for n in 0..20 {
        store(&stack, None, &id(&mine, n)).await;
    }
    store(&stack, None, &id(&theirs, 0)).await;
    store(&stack, None, &others).await;
    store(&stack, Some(&tenant), &id(&mine, 0)).await;
    let bare = subjects::remove(&model(), None);
    let removal = |ids: Vec<JobId>| Removal { key: mine.clone(), ids };
    // One that is not its own, and nothing is removed.
    for foreign in [id(&theirs, 0), others] {
        let request = removal(vec![id(&mine, 0), foreign]);
        let answer = ask(&stack, bare.clone(), Format::Json.encode(&request)).await;
        assert!(answer.error.unwrap().contains("not the one of job"));
        assert_eq!((answer.removed, stack.messages_in(&results).await), (0, 23));
    }
    for nonsense in [&b"x"[..], b"{}", br#"{"key":"*","ids":["embed.result.>"]}"#, br#"{"key":1,"ids":[]}"#] {
        assert!(ask(&stack, bare.clone(), Bytes::copy_from_slice(nonsense)).await.error.is_some());
    }
    let flood = removal((0..300).map(|n| id(&mine, n)).collect());
    assert!(ask(&stack, bare.clone(), Format::MessagePack.encode(&flood)).await.error.unwrap().contains("up to 256"));
    // Its own, among them some that are not there.
    let all = removal((0..40).map(|n| id(&mine, n)).collect());
    let answer = ask(&stack, bare.clone(), Format::MessagePack.encode(&all)).await;
    assert_eq!(answer, Removed { removed: 20, ..Removed::default() });
    assert_eq!(stack.messages_in(&results).await, 3, "those of others and of a tenant stay");
    let of_tenant = subjects::remove(&model(), Some(&tenant));
    assert_eq!(ask(&stack, of_tenant, Format::Json.encode(&all)).await.removed, 1);
    assert_eq!(stack.messages_in(&results).await, 2);
    // A worker answers where clients wait for answers, and nowhere else.
    let request = Format::Json.encode(&all);
    stack.client.publish_with_reply(bare.clone(), format!("$JS.API.STREAM.PURGE.{results}"), request).await.unwrap();
    assert_eq!(ask(&stack, bare, Format::Json.encode(&all)).await.removed, 0);
    assert_eq!(stack.messages_in(&results).await, 2);
}

#[tokio::test]
async fn who_names_no_ids_is_told_how_full_the_stream_is() {
    let stack = Stack::start().await;
    let key = RemovalKey::from_random([1; 32]);
    for n in 0..3 {
        store(&stack, None, &id(&key, n)).await;
    }
    let context = jetstream::new(stack.client.clone());
    let stream = context.get_stream(streams::results_stream(&model())).await.unwrap();
    let (config, state) = (stream.cached_info().config.clone(), stream.cached_info().state.clone());
    let expected = StreamFill {
        messages: 3,
        bytes: state.bytes,
        max_bytes: Some(config.max_bytes.try_into().unwrap()),
        max_age_ms: Some(config.max_age.as_millis().try_into().unwrap()),
    };
    let tenant: Slug = "a".parse().unwrap();
    for tenant in [None, Some(&tenant)] {
        let request = Format::Json.encode(&Removal { key: key.clone(), ids: Vec::new() });
        let answer = ask(&stack, subjects::remove(&model(), tenant), request).await;
        assert_eq!(answer, Removed { results: Some(expected), ..Removed::default() });
    }
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_can_be_served_are_answered_and_not_kept() {
    let (_nats, client, relay, _worker) = behind_a_relay(&StreamSettings::default()).await;
    let mine = RemovalKey::from_random([1; 32]);
    // Each takes some tenths of a second, as where a server is busy.
    relay.slow_down(Duration::from_millis(100));
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(format!("{inbox}.*")).await.unwrap();
    for n in 0..200 {
        let request = Format::Json.encode(&Removal { key: mine.clone(), ids: vec![id(&mine, n)] });
        client.publish_with_reply(subjects::remove(&model(), None), format!("{inbox}.{n}"), request).await.unwrap();
    }
    let mut busy = Vec::new();
    for _ in 0..200 {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("all are answered").unwrap();
        let removed = wire::decode_removed(&answer.payload).unwrap();
        match removed.error {
            Some(error) => {
                assert!(error.contains("try again later"), "{error}");
                busy.extend(removed.left);
            }
            None => assert_eq!(removed, Removed::default()),
        }
        // The others are served in time as well.
        relay.mend();
    }
    assert!(busy.len() > 50, "{} of 200 were not kept", busy.len());
}

#[tokio::test]
async fn a_tenants_job_is_stored_as_the_tenants() {
    let stack = Stack::start().await;
    let (tenant, id): (Slug, JobId) = ("a".parse().unwrap(), "job".parse().unwrap());
    let request = EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new(["a text"]) };
    let context = jetstream::new(stack.client.clone());
    for lane in Lane::STORED {
        let subject = subjects::job(lane, &model(), None, Some(&tenant));
        context.publish(subject, Format::Json.encode(&request)).await.unwrap().await.unwrap();
    }
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    let stream = context.get_stream_no_info(streams::results_stream(&model())).await.unwrap();
    let subject = subjects::result_for(&model(), Some(&tenant), &id);
    stream.direct_get_last_for_subject(subject).await.unwrap();
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, 1);
}
