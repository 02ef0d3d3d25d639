//! Shadows on a real worker: a share of what one variant serves is compared with what another makes of it, and no caller notices.

use std::collections::BTreeMap;

use crate::support::{Stack, model, provision_variant, registry::TestRegistry, variant};
use async_nats::Subscriber;
use embed_schemas::{
    EmbedRequest, Encoding, ErrorCode, Format, Lane,
    shadow::{SHADOW_SUBJECT, ShadowCounts, ShadowWish, cosine_of},
    streams::StreamSettings,
    subjects,
    wire::{decode_shadow_stats, decode_shadow_texts},
};
use embed_testkit::PATIENCE;
use futures::StreamExt;
use serde_json::json;

/// Up to so many tokens, the candidate's vectors are right.
const LIMIT: u32 = 64;

fn wish(id: &str, share: f64) -> ShadowWish {
    ShadowWish {
        id: id.to_owned(),
        model: model(),
        from: variant(),
        to: "canary".parse().unwrap(),
        lanes: Lane::ALL.to_vec(),
        share,
        tell_texts: true,
        ttl_ms: 60_000,
    }
}

fn sentence(words: usize, n: usize) -> String {
    format!("{n} {}", "word ".repeat(words))
}

/// A worker that serves the baseline, and a candidate that is off by cosine 0.97 on long texts.
async fn stack() -> (TestRegistry, Stack) {
    let registry = TestRegistry::new();
    registry.derive_off_on_long_texts("v1.2.0", LIMIT, 0.97);
    let config = registry.path().join("worker.toml");
    std::fs::write(&config, "worker.stats_window = \"300ms\"").unwrap();
    let stack = Stack::start_on(registry.path(), &["--config", config.to_str().unwrap()]).await;
    let canary = "canary".parse().unwrap();
    provision_variant(&stack.client, &canary, &StreamSettings::default()).await;
    stack.desire("canary", Some(&json!({"version": "v1.2.0"}))).await;
    stack.statuses_when(|all| all.get(&(model(), canary.clone())).is_some_and(|status| status.live.is_some())).await;
    (registry, stack)
}

/// Says what is wanted, and waits until the worker has heard it.
async fn say(stack: &Stack, wish: &ShadowWish) {
    stack.client.publish(SHADOW_SUBJECT, Format::Json.encode(wish)).await.unwrap();
    let said = if wish.ttl_ms == 0 { "are not given to a shadow any more" } else { &wish.id };
    stack.wait_until(|| stack.worker.log().contains(said)).await;
}

/// Waits until so many requests were compared or dropped.
async fn found(reports: &mut Subscriber, id: &str, requests: u64) -> ShadowCounts {
    let mut counts = ShadowCounts::default();
    let wait = async {
        while counts.requests + counts.dropped < requests {
            let stats = decode_shadow_stats(&reports.next().await.unwrap().payload).unwrap();
            if stats.id == id {
                assert_eq!((&stats.version[..], stats.variant.as_str()), ("v1.2.0", "canary"));
                counts.merge(&stats.counts);
            }
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("{requests} requests were to be compared; {counts:?}");
    }
    counts
}

/// The mean cosine of each lane and length.
fn means(counts: &ShadowCounts) -> BTreeMap<(Lane, u32), f64> {
    let mean = |cell: &embed_schemas::shadow::ShadowCell| cosine_of(cell.distance.mean_variance().unwrap().0);
    counts.cells.iter().map(|cell| ((cell.lane, cell.tokens), mean(cell))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_compared_by_lane_and_length_and_nobody_notices() {
    let (_registry, stack) = stack().await;
    let canary = "canary".parse().unwrap();
    let mut reports = stack.client.subscribe(subjects::shadow_stats(&model(), &canary)).await.unwrap();
    say(&stack, &wish("shadow-one", 1.0)).await;

    // Short and long calls, in encodings that would not show how far vectors are apart, and jobs.
    for n in 0..12 {
        let (words, encoding) = if n % 2 == 0 { (8, Encoding::U1) } else { (100, Encoding::F32) };
        let request = EmbedRequest { encoding: Some(encoding), ..EmbedRequest::new([sentence(words, n)]) };
        let result = stack.call(&request, Format::MessagePack).await.unwrap();
        assert_eq!(result.variant, variant());
    }
    for (n, lane) in [(0, Lane::Job), (1, Lane::Bulk)] {
        let request = EmbedRequest::new([sentence(8, n), sentence(100, n), "x ".repeat(400)]);
        let request = EmbedRequest { truncate: lane == Lane::Bulk, ..request };
        let result = stack.job(lane, request, Format::Json, &format!("job-{n}")).await.into_result().unwrap();
        assert_eq!(result.variant, variant());
    }
    let counts = found(&mut reports, "shadow-one", 14).await;
    assert_eq!((counts.requests, counts.dropped), (14, 0), "{counts:?}");
    assert_eq!(counts.versions, BTreeMap::from([("v1.0.0".to_owned(), 14)]));
    let means = means(&counts);
    for (lane, tokens) in [(Lane::Rpc, 16), (Lane::Job, 16), (Lane::Bulk, 16)] {
        assert!(means[&(lane, tokens)] > 0.9999, "{means:?}");
    }
    for (lane, tokens) in [(Lane::Rpc, 128), (Lane::Job, 128), (Lane::Bulk, 128), (Lane::Bulk, 256)] {
        assert!((means[&(lane, tokens)] - 0.97).abs() < 0.01, "{means:?}");
    }
    // What the baseline failed on says nothing about the candidate.
    assert!(!means.contains_key(&(Lane::Job, 256)) && counts.cells.iter().all(|cell| cell.failed() == 0), "{counts:?}");
    let worst = &counts.worst[0];
    assert!(worst.tokens > LIMIT && worst.cosine < 0.98, "{worst:?}");
    assert!(worst.text.as_ref().is_some_and(|text| text.contains("word") || text.starts_with("x x")), "{worst:?}");
    assert!(counts.baseline_us.count() > 0 && counts.baseline_us.count() == counts.candidate_us.count());

    // A share of it, and nothing of the texts but their digests.
    say(&stack, &ShadowWish { tell_texts: false, lanes: vec![Lane::Rpc], ..wish("shadow-two", 0.2) }).await;
    let mut given = stack.client.subscribe(subjects::shadow(&model(), &canary)).await.unwrap();
    let texts: Vec<_> = (0..200).map(|n| sentence(5, n)).collect();
    let request = EmbedRequest::new(texts.clone());
    stack.job(Lane::Job, request.clone(), Format::MessagePack, "not-this-lane").await.into_result().unwrap();
    stack.call(&request, Format::MessagePack).await.unwrap();
    let counts = found(&mut reports, "shadow-two", 1).await;
    let given = decode_shadow_texts(&given.next().await.unwrap().payload).unwrap();
    assert!((10..=32).contains(&given.request.texts.len()), "about 40, and 32 at most: {}", given.request.texts.len());
    assert_eq!(given.lane, Lane::Rpc);
    assert!(counts.worst.iter().all(|text| text.text.is_none() && text.digest.len() == 16), "{counts:?}");

    // Taken back: the next is not given away. One that comes after it is told of, so nothing is on its way before.
    say(&stack, &ShadowWish { ttl_ms: 0, ..wish("shadow-two", 1.0) }).await;
    stack.call(&request, Format::MessagePack).await.unwrap();
    say(&stack, &wish("shadow-three", 1.0)).await;
    stack.call(&EmbedRequest::new(["hello"]), Format::MessagePack).await.unwrap();
    let counts = found(&mut reports, "shadow-three", 1).await;
    assert_eq!((counts.requests, counts.cells.len()), (1, 1), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_the_candidate_cannot_take_are_its_errors_and_what_has_no_room_is_dropped() {
    let (_registry, stack) = stack().await;
    let canary = "canary".parse().unwrap();
    // The candidate knows no prompt; nor does the baseline, so that is told by the texts alone.
    let mut reports = stack.client.subscribe(subjects::shadow_stats(&model(), &canary)).await.unwrap();
    let mut given = stack.client.subscribe(subjects::shadow(&model(), &canary)).await.unwrap();
    say(&stack, &wish("shadow-one", 1.0)).await;
    stack.call(&EmbedRequest::new(["hello"]), Format::MessagePack).await.unwrap();
    found(&mut reports, "shadow-one", 1).await;
    let mut texts = decode_shadow_texts(&given.next().await.unwrap().payload).unwrap();
    texts.id = "shadow-two".into();
    texts.request.prompt = Some("query".into());
    let send = async |texts: &embed_schemas::shadow::ShadowTexts| {
        let payload = Format::MessagePack.encode(texts);
        stack.client.publish(subjects::shadow(&model(), &canary), payload).await.unwrap();
    };
    send(&texts).await;
    let counts = found(&mut reports, "shadow-two", 1).await;
    assert_eq!(counts.cells[0].errors, BTreeMap::from([(ErrorCode::UnknownPrompt, 1)]), "{counts:?}");

    // Far more than is compared in the time in which it comes.
    texts.id = "shadow-three".into();
    texts.request.prompt = None;
    for _ in 0..2_000 {
        send(&texts).await;
    }
    let counts = found(&mut reports, "shadow-three", 2_000).await;
    assert!(counts.dropped > 0 && counts.requests > 0, "{counts:?}");
    assert_eq!(counts.requests + counts.dropped, 2_000);
}
