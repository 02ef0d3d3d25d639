//! Several models and variants in one worker: chosen by subject, added and removed while it runs, loaded as memory allows.

use std::{fs, time::Duration};

use crate::support::{
    Stack, model, provision_variant,
    registry::{FIRST, SECOND, TestRegistry, remark},
};
use async_nats::HeaderMap;
use embed_schemas::{
    EmbedRequest, EmbedResult, ErrorCode, Format, Lane, Slug, streams::StreamSettings, subjects, wire::decode_outcome,
};
use embed_testkit::PATIENCE;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const MODELS: [(&str, &str); 4] =
    [("model-b", "Model-B"), ("model-c", "Model-C"), ("model-d", "Model-D"), ("model-e", "Model-E")];

/// Five models, each with a graph of its own.
fn five_models() -> TestRegistry {
    let registry = TestRegistry::new();
    for (slug, name) in MODELS {
        registry.derive_model(slug, name, FIRST, |folder, metadata| remark(folder, metadata, slug));
        registry.promote(slug, FIRST);
    }
    registry
}

fn slugs() -> Vec<Slug> {
    std::iter::once(model()).chain(MODELS.iter().map(|(slug, _)| slug.parse().unwrap())).collect()
}

async fn ask(stack: &Stack, subject: String) -> EmbedResult {
    let request = Format::MessagePack.encode(&EmbedRequest::new(["which one are you?"]));
    let answer = stack.call_raw(subject, HeaderMap::new(), request).await;
    decode_outcome(&answer.payload).unwrap().into_result().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_models_are_served_at_once() {
    let registry = five_models();
    let stack = Stack::start_with_models(registry.path(), &slugs(), &[]).await;
    for slug in slugs() {
        let result = ask(&stack, subjects::bare(Lane::Rpc, &slug)).await;
        assert_eq!(result.model, slug);
        let id = format!("job-{slug}").parse().unwrap();
        let request = EmbedRequest { id: Some(format!("job-{slug}").parse().unwrap()), ..EmbedRequest::new(["a"]) };
        stack.client.publish(subjects::bare(Lane::Job, &slug), Format::Json.encode(&request)).await.unwrap();
        assert_eq!(stack.stored_of(&slug, &id).await.into_result().unwrap().model, slug);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_memory_budget_models_are_loaded_when_they_are_asked_for() {
    let registry = five_models();
    let config = registry.path().join("worker.toml");
    // Room for two of the five, of 90 MB each; one of them stays.
    let text = "[models]\nmemory_budget = \"200 MB\"\n[[variant]]\nmodel = \"all-MiniLM-L6-v2\"\npinned = true\n";
    let others: String = MODELS.iter().map(|(_, name)| format!("[[variant]]\nmodel = \"{name}\"\n")).collect();
    fs::write(&config, format!("{text}{others}")).unwrap();
    let more = ["--config", config.to_str().unwrap()];
    let stack = Stack::start_with_models(registry.path(), &slugs(), &more).await;
    let live = async || {
        let statuses = stack.statuses().await;
        let live = statuses.into_iter().filter(|(_, status)| status.live.is_some());
        live.map(|((model, _), _)| model).collect::<Vec<_>>()
    };
    assert_eq!(live().await, [model(), "model-b".parse().unwrap()]);
    for slug in slugs() {
        assert_eq!(ask(&stack, subjects::bare(Lane::Rpc, &slug)).await.model, slug);
        let live = live().await;
        assert!(live.len() == 2 && live.contains(&model()) || live.len() == 1, "{live:?}");
    }
    // A job wakes a model as well.
    let id = "wake".parse().unwrap();
    let request = EmbedRequest { id: Some("wake".parse().unwrap()), ..EmbedRequest::new(["a"]) };
    let slug: Slug = "model-c".parse().unwrap();
    stack.client.publish(subjects::bare(Lane::Job, &slug), Format::Json.encode(&request)).await.unwrap();
    assert_eq!(stack.stored_of(&slug, &id).await.into_result().unwrap().model, slug);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_come_and_go_while_the_worker_runs() {
    let registry = TestRegistry::new();
    registry.import_second();
    let stack = Stack::start_on(registry.path(), &[]).await;
    let canary: Slug = "canary".parse().unwrap();
    provision_variant(&stack.client, &canary, &StreamSettings::default()).await;

    stack.desire("canary", Some(&json!({"version": SECOND}))).await;
    stack.statuses_when(|all| all.get(&(model(), canary.clone())).is_some_and(|s| s.live.is_some())).await;
    let result = ask(&stack, subjects::pinned(Lane::Rpc, &model(), &canary)).await;
    assert_eq!((result.variant, result.version.as_str()), (canary.clone(), SECOND));
    assert_eq!(ask(&stack, subjects::bare(Lane::Rpc, &model())).await.version, FIRST);
    let first = ask(&stack, subjects::bare(Lane::Rpc, &model())).await;
    assert_ne!(first.space, result.space, "another pooling is another space");

    // Whoever calls meanwhile is answered.
    let calling = CancellationToken::new();
    let (stopped, client) = (calling.clone(), stack.client.clone());
    let caller = tokio::spawn(async move {
        let payload = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
        let mut calls = 0;
        while !stopped.is_cancelled() {
            let request = async_nats::Request::new().payload(payload.clone()).timeout(Some(PATIENCE));
            let answer = client.send_request(subjects::bare(Lane::Rpc, &model()), request).await.unwrap();
            let answer = decode_outcome(&answer.payload).unwrap().into_result();
            // Busy cores may have too much to do, but somebody says so.
            assert!(answer.as_ref().err().is_none_or(|error| error.code == ErrorCode::Overloaded), "{answer:?}");
            calls += 1;
        }
        calls
    });

    // It becomes the default: what names no variant goes to it.
    stack.desire("canary", Some(&json!({"version": SECOND, "default": true}))).await;
    stack.statuses_when(|all| all.get(&(model(), canary.clone())).is_some_and(|s| s.default)).await;
    loop {
        if ask(&stack, subjects::bare(Lane::Rpc, &model())).await.version == SECOND {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The configured variant follows another version without a restart.
    stack.desire("fp32", Some(&json!({"version": SECOND}))).await;
    let fp32: Slug = "fp32".parse().unwrap();
    let of = |version: &'static str| {
        let fp32 = fp32.clone();
        move |all: &crate::support::Statuses| {
            all[&(model(), fp32.clone())].live.as_ref().is_some_and(|live| live.version == version)
        }
    };
    stack.statuses_when(of(SECOND)).await;
    // Without its entry, the configuration holds again.
    stack.desire("fp32", None).await;
    stack.statuses_when(of(FIRST)).await;

    stack.desire("canary", None).await;
    stack.statuses_when(|all| !all.contains_key(&(model(), canary.clone()))).await;
    assert_eq!(ask(&stack, subjects::bare(Lane::Rpc, &model())).await.version, FIRST);

    // A variant that has yet to be loaded becomes the default at once.
    stack.desire("canary", Some(&json!({"version": SECOND, "default": true}))).await;
    stack.statuses_when(|all| all.get(&(model(), canary.clone())).is_some_and(|s| s.live.is_some())).await;
    calling.cancel();
    assert!(caller.await.unwrap() > 0);
}
