//! Dead letters of several models, of the stream that was all models' before, and of jobs that would have an operator do something else.

use crate::support::{
    Server,
    command::{embed, stderr, stdout},
    model_m, slug, stored,
};
use async_nats::{HeaderMap, jetstream};
use embed_client::Client;
use embed_control::{
    dead::{self, DeadLetter, DeadLetters, Filter, Retried},
    jobs,
    provision::{self, ModelVariants},
};
use embed_schemas::{EmbedRequest, ErrorCode, Format, Lane, headers, streams::StreamSettings, subjects};
use futures::{FutureExt, StreamExt};
use serde_json::json;

fn job(id: &str) -> EmbedRequest {
    EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new(["x"]) }
}

/// Writes a dead letter as a worker does.
async fn bury(client: &Client, model: &str, id: &str, published_on: &str) {
    let mut header = HeaderMap::new();
    header.insert(headers::DEAD_CODE, ErrorCode::EngineFailed.as_str());
    header.insert(headers::DEAD_REASON, "out of memory");
    header.insert(headers::SUBJECT, published_on);
    header.insert(headers::DEAD_SUBJECT, format!("{published_on}.fp32").as_str());
    let context = jetstream::new(client.nats().clone());
    let payload = Format::MessagePack.encode(&job(id));
    let subject = subjects::dead(&slug(model), &slug("fp32"));
    context.publish_with_headers(subject, header, payload).await.unwrap().await.unwrap();
}

async fn letters(client: &Client, model: Option<&str>) -> Vec<DeadLetter> {
    let mut letters = DeadLetters::new(client, Filter { model: model.map(slug), ..Filter::default() });
    let mut all = Vec::new();
    while let Some(page) = letters.page().await.unwrap() {
        all.extend(page);
    }
    all
}

fn names(letters: &[DeadLetter]) -> Vec<String> {
    letters.iter().map(|letter| letter.name().to_string()).collect()
}

/// The stream of all models' dead letters, as `embed init` made it before.
async fn former(client: &Client) -> jetstream::stream::Stream {
    let config = jetstream::stream::Config {
        name: "EMBED_DEAD".into(),
        subjects: vec!["embed.dead.*.*".into()],
        discard: jetstream::stream::DiscardPolicy::New,
        max_bytes: 1 << 20,
        allow_direct: true,
        ..Default::default()
    };
    jetstream::new(client.nats().clone()).create_stream(config).await.unwrap()
}

fn other() -> ModelVariants {
    ModelVariants { model: slug("other"), variants: vec![slug("fp32")] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_all_models_gives_way_to_one_for_each_and_is_read_all_the_same() {
    let server = Server::start();
    let client = server.client().await;
    let mut stream = former(&client).await;
    bury(&client, "m", "old", "embed.job.m").await;
    bury(&client, "other", "old-other", "embed.job.other").await;
    // A model that is somebody else's to provision.
    let results = jetstream::stream::Config {
        name: "EMBED_RESULTS_other".into(),
        subjects: vec!["embed.store.other.*".into()],
        ..Default::default()
    };
    jetstream::new(client.nats().clone()).create_stream(results).await.unwrap();

    let settings = StreamSettings::default();
    let differs = provision::check(client.nats(), &[model_m()], &settings).await.unwrap();
    let lines: Vec<_> = differs.iter().map(ToString::to_string).filter(|line| line.contains("EMBED_DEAD")).collect();
    assert_eq!(
        lines,
        [
            "EMBED_DEAD: discard is \"new\", wanted \"old\"",
            "EMBED_DEAD: subjects is [\"embed.dead.*.*\"], wanted [\"embed.dead.other.*\",\"embed.dead.former\"]",
            "EMBED_DEAD_m: missing",
        ]
    );
    let made = provision::apply(client.nats(), &[model_m()], &settings).await.unwrap();
    assert!(made.created.contains(&"EMBED_DEAD_m".to_owned()), "{made:?}");
    assert_eq!(provision::check(client.nats(), &[model_m()], &settings).await.unwrap(), []);
    bury(&client, "m", "new", "embed.job.m").await;
    bury(&client, "other", "new-other", "embed.job.other").await;
    assert_eq!((stored(&client, "EMBED_DEAD").await, stored(&client, "EMBED_DEAD_m").await), (3, 1));

    // Both streams are read, and what is in either is called by its own name.
    let of_m = letters(&client, Some("m")).await;
    assert_eq!(names(&of_m), ["EMBED_DEAD:1", "m:1"]);
    assert_eq!(letters(&client, None).await.len(), 4);
    let retried = dead::retry(&client, &of_m[0], false, false).await.unwrap();
    assert!(matches!(retried, Retried::Published { .. }), "{retried:?}");
    assert_eq!(
        (names(&letters(&client, Some("m")).await), stored(&client, "EMBED_m").await),
        (vec!["m:1".to_owned()], 1)
    );
    let found = jobs::find(&client, &slug("m"), &"new".parse().unwrap(), |_| {}).await.unwrap();
    assert!(matches!(found, jobs::JobState::Dead(letter) if letter.stream == "EMBED_DEAD_m"));

    // When all have their own, nothing is written to it any more, and what it holds stays.
    provision::apply(client.nats(), &[other()], &settings).await.unwrap();
    assert_eq!(stream.info().await.unwrap().config.subjects, ["embed.dead.former"]);
    bury(&client, "other", "newest", "embed.job.other").await;
    assert_eq!(names(&letters(&client, Some("other")).await), ["EMBED_DEAD:2", "EMBED_DEAD:3", "other:1"]);
    assert_eq!(provision::check(client.nats(), &[model_m(), other()], &settings).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_alone_is_no_name_where_two_letters_have_it() {
    let server = Server::start();
    let client = server.client().await;
    provision::apply(client.nats(), &[model_m(), other()], &StreamSettings::default()).await.unwrap();
    bury(&client, "m", "a", "embed.job.m").await;
    bury(&client, "other", "b", "embed.job.other").await;
    bury(&client, "other", "c", "embed.job.other").await;
    let url = server.url();
    let run = async |arguments: &[&str]| {
        let mut command = embed(arguments);
        command.args(["--server", &url]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let listed = stdout(&run(&["dead", "list"]).await);
    let at = |name: &str| listed.find(name).unwrap_or_else(|| panic!("{name}: {listed}"));
    assert!(
        at("m:1") < at("other:1") && at("other:1") < at("other:2"),
        "in the order in which they were written: {listed}"
    );
    let refused = run(&["dead", "purge", "1"]).await;
    assert!(stderr(&refused).contains("m:1, other:1"), "{refused:?}");
    assert_eq!(letters(&client, None).await.len(), 3, "nothing is thrown away on a guess");
    for (name, left) in [("2", 2), ("other:1", 1), ("a", 0)] {
        let purged = run(&["dead", "purge", name]).await;
        assert!(purged.status.success(), "{purged:?}");
        assert_eq!(letters(&client, None).await.len(), left, "{name}");
    }
    assert_eq!(run(&["dead", "purge", "m:1"]).await.status.code(), Some(3), "it is not there any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_has_an_operator_publish_where_it_likes() {
    let server = Server::start();
    let client = server.provisioned().await;
    let context = jetstream::new(client.nats().clone());
    let theirs = jetstream::stream::Config { name: "X".into(), subjects: vec!["x".into()], ..Default::default() };
    context.create_stream(theirs).await.unwrap();
    context.publish("x", "theirs".into()).await.unwrap().await.unwrap();

    // A job that is cancelled wants its copy somewhere.
    let mut header = HeaderMap::new();
    header.insert(headers::REPLY_TO, "$JS.API.STREAM.PURGE.X");
    let subject = subjects::bare(Lane::Job, &slug("m"));
    let payload = Format::Json.encode(&job("a"));
    context.publish_with_headers(subject, header, payload).await.unwrap().await.unwrap();
    let cancelled = jobs::cancel(&client, &slug("m"), &"a".parse().unwrap(), |_| {}).await.unwrap();
    assert_eq!(cancelled, jobs::Cancelled::Cancelled { held: false });

    // A letter whose job says that it was published elsewhere.
    let mut heard = client.nats().subscribe("embed.*.other").await.unwrap();
    for published_on in ["embed.job.other", "embed.rpc.m", "$JS.API.STREAM.PURGE.X"] {
        bury(&client, "m", "b", published_on).await;
    }
    for letter in letters(&client, None).await {
        let retried = dead::retry(&client, &letter, false, false).await.unwrap();
        assert!(matches!(retried, Retried::Refused { .. }), "{retried:?}");
    }
    client.nats().request("$JS.API.INFO", "".into()).await.unwrap();
    assert!(heard.next().now_or_never().is_none());
    assert_eq!(stored(&client, "X").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_room_of_dead_letters_is_chosen_and_no_smaller_than_a_message() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    crate::support::command::registry(folder.path());
    let (url, registry) = (server.url(), folder.path().to_str().unwrap().to_owned());
    let init = async |arguments: &[&str]| {
        let mut command = embed(&["init", "--server", &url, "--registry", &registry, "--json"]);
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let refused = init(&["--dead-max-bytes", "1000"]).await;
    assert!(!refused.status.success() && stderr(&refused).contains("--dead-max-bytes"), "{refused:?}");
    assert!(init(&["--dead-max-bytes", "16MiB", "--dead-max-age", "1h"]).await.status.success());
    let client = server.client().await;
    let context = jetstream::new(client.nats().clone());
    let config = async || context.get_stream("EMBED_DEAD_m").await.unwrap().cached_info().config.clone();
    assert_eq!((config().await.max_bytes, config().await.max_age.as_secs()), (16 << 20, 3600));
    // What nobody names stays as it is.
    assert!(init(&[]).await.status.success());
    assert_eq!(config().await.max_bytes, 16 << 20);
    let check = init(&["--check", "--dead-max-bytes", "32MiB"]).await;
    let differs: serde_json::Value = serde_json::from_str(&stdout(&check)).unwrap();
    assert_eq!(differs["differences"][0]["name"], "EMBED_DEAD_m", "{differs}");
    assert_eq!((differs["differences"][0]["wanted"].clone(), check.status.code()), (json!(32 << 20), Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_somebody_else_has_thrown_away_is_gone() {
    let server = Server::start();
    let client = server.client().await;
    provision::apply(client.nats(), &[model_m()], &StreamSettings::default()).await.unwrap();
    bury(&client, "m", "a", "embed.job.m").await;
    bury(&client, "m", "b", "embed.job.m").await;
    let found = letters(&client, None).await;
    for _ in 0..2 {
        dead::remove(&client, &found[0]).await.unwrap();
    }
    assert_eq!(names(&letters(&client, None).await), ["m:2"]);
}
