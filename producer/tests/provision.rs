//! `provision` against a real server.

use crate::support::{Server, model_m, slug};
use embed_control::provision::{Given, ModelVariants, apply, apply_given, check};
use embed_schemas::{serving::MODELS_BUCKET, streams::StreamSettings};
use futures::StreamExt;

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let server = Server::start();
    let client = server.client().await;
    let settings = StreamSettings::default();
    let missing = check(client.nats(), &[model_m()], &settings).await.unwrap();
    assert!(missing.iter().all(|d| d.to_string().ends_with("missing")) && missing.len() == 12, "{missing:?}");
    let made = apply(client.nats(), &[model_m()], &settings).await.unwrap();
    let names = [
        "KV_embed_models",
        "KV_embed_routes",
        "KV_embed_rollouts",
        "KV_embed_backfills",
        "EMBED_STATS",
        "EMBED_m",
        "EMBED_RESULTS_m",
        "EMBED_DEAD_m",
        "EMBED_ATTEMPTS",
        "EMBED_EXHAUSTED_m",
        "EMBED_m/fp32-job",
        "EMBED_m/fp32-bulk",
    ];
    assert_eq!(made.created, names);
    let again = apply(client.nats(), &[model_m()], &settings).await.unwrap();
    assert_eq!((again.created.len(), again.updated.len(), again.unchanged.len()), (0, 0, 12), "{again:?}");
    assert_eq!(check(client.nats(), &[model_m()], &settings).await.unwrap(), []);
}

#[tokio::test]
async fn a_difference_is_reported_and_then_mended() {
    let server = Server::start();
    let client = server.provisioned().await;
    let settings = StreamSettings { ack_wait_ms: 5_000, results_max_bytes: 1 << 20, ..StreamSettings::default() };
    let found = check(client.nats(), &[model_m()], &settings).await.unwrap();
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "EMBED_RESULTS_m: max_bytes is 2147483648, wanted 1048576",
            "EMBED_m/fp32-job: ack_wait is 6000000000, wanted 5000000000",
            "EMBED_m/fp32-bulk: ack_wait is 6000000000, wanted 5000000000",
        ]
    );
    assert_eq!(apply(client.nats(), &[model_m()], &settings).await.unwrap().updated, found);
    assert_eq!(check(client.nats(), &[model_m()], &settings).await.unwrap(), []);
}

#[tokio::test]
async fn consumers_from_before_deliveries_were_bounded_are_bounded() {
    let server = Server::start();
    let client = server.client().await;
    let before = StreamSettings { max_deliver: -1, ..StreamSettings::default() };
    apply(client.nats(), &[model_m()], &before).await.unwrap();
    // As `embed init` without a limit that somebody has named.
    let given = Given {
        replicas: false,
        jobs_max_bytes: false,
        results_max_bytes: false,
        results_max_age: false,
        dead_max_bytes: false,
        dead_max_age: false,
        ack_wait: false,
        others: false,
    };
    let report = apply_given(client.nats(), &[model_m()], &StreamSettings::default(), given).await.unwrap();
    let lines: Vec<_> = report.updated.iter().map(ToString::to_string).collect();
    let expected = ["job", "bulk"].map(|lane| format!("EMBED_m/fp32-{lane}: max_deliver is -1, wanted 1000"));
    assert_eq!(lines, expected);
    assert_eq!(check(client.nats(), &[model_m()], &StreamSettings::default()).await.unwrap(), []);
}

#[tokio::test]
async fn another_variant_can_become_the_default() {
    let server = Server::start();
    let client = server.provisioned().await;
    let models = [ModelVariants { model: slug("m"), variants: vec![slug("int8"), slug("fp32")] }];
    let report = apply(client.nats(), &models, &StreamSettings::default()).await.unwrap();
    assert_eq!(report.created, ["EMBED_m/int8-job", "EMBED_m/int8-bulk"]);
    assert!(report.updated.iter().all(|d| d.field == "filter_subjects") && report.updated.len() == 2, "{report:?}");
    assert_eq!(check(client.nats(), &models, &StreamSettings::default()).await.unwrap(), []);
}

#[tokio::test]
async fn the_bucket_is_one_for_any_client() {
    let server = Server::start();
    let client = server.client().await;
    let context = async_nats::jetstream::new(client.nats().clone());
    // One that somebody made by hand keeps what is in it, and gets the history.
    let config = async_nats::jetstream::kv::Config { bucket: MODELS_BUCKET.into(), ..Default::default() };
    let store = context.create_key_value(config).await.unwrap();
    store.put("m.a", "{}".into()).await.unwrap();
    let settings = StreamSettings::default();
    let report = apply(client.nats(), &[], &settings).await.unwrap();
    assert!(
        report.updated.iter().any(|d| d.name == "KV_embed_models" && d.field == "max_msgs_per_subject"),
        "{report:?}"
    );
    assert_eq!(check(client.nats(), &[], &settings).await.unwrap(), []);
    let store = context.get_key_value(MODELS_BUCKET).await.unwrap();
    for n in 0..9 {
        store.put("m.a", format!("{{\"version\":\"v{n}\"}}").into()).await.unwrap();
    }
    assert_eq!(store.history("m.a").await.unwrap().count().await, 5);
    store.purge("m.a").await.unwrap();
    assert_eq!(store.get("m.a").await.unwrap(), None);
}

#[tokio::test]
async fn what_cannot_be_changed_is_named() {
    let server = Server::start();
    let client = server.client().await;
    let context = async_nats::jetstream::new(client.nats().clone());
    context
        .create_stream(async_nats::jetstream::stream::Config {
            name: "EMBED_RESULTS_m".into(),
            subjects: vec!["embed.result.m.*".into()],
            storage: async_nats::jetstream::stream::StorageType::Memory,
            ..Default::default()
        })
        .await
        .unwrap();
    let error = apply(client.nats(), &[model_m()], &StreamSettings::default()).await.unwrap_err().to_string();
    assert!(error.contains("EMBED_RESULTS_m") && error.contains("storage"), "{error}");
}
