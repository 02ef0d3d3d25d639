//! Variants that workers are to serve: wanted, waited for, shown, and given up, with workers that only tell.

use std::{
    process::Output,
    sync::{Arc, Mutex},
};

use crate::support::{
    PATIENCE, Server,
    command::{output, registry, stderr, stdout},
    slug,
    worker::Worker,
};
use embed_client::Client;
use embed_control::Error;
use embed_control::{
    models::{self, Unserve},
    provision,
};
use embed_schemas::{
    Lane,
    serving::{DesiredVariant, REFRESH_SUBJECT},
    streams,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

fn live(version: &str) -> Value {
    json!({"version": version, "precision": "fp32", "provider": "cpu", "space": "s", "since": "2026-01-01T00:00:00Z"})
}

fn status(wanted: &str, version: Option<&str>, failed: Option<&str>) -> Value {
    let state = if version.is_some() { "live" } else { "failed" };
    let failed = failed.map(|reason| json!({"version": wanted, "reason": reason, "when": "2026-01-01T00:00:00Z"}));
    json!({"state": state, "default": false, "wanted": wanted, "live": version.map(live), "failed": failed})
}

/// A worker that changes what it says when it is asked to look at the registry.
struct Follower {
    _worker: Worker,
    _task: AbortOnDropHandle<()>,
}

impl Follower {
    async fn start(client: &Client, id: &str, before: Value, after: Value) -> Self {
        let says = Arc::new(Mutex::new(before));
        let told = says.clone();
        let mut requests = client.nats().subscribe(REFRESH_SUBJECT).await.unwrap();
        let worker = Worker::says(client, id, Arc::new(move || told.lock().unwrap().clone())).await;
        let task = tokio::spawn(async move {
            while requests.next().await.is_some() {
                *says.lock().unwrap() = after.clone();
            }
        });
        Self { _worker: worker, _task: AbortOnDropHandle::new(task) }
    }
}

async fn run(server: &Server, line: &str) -> Output {
    let arguments: Vec<String> = format!("models -s {} {line}", server.url()).split(' ').map(str::to_owned).collect();
    let run = move || output(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The subjects that a variant's job consumer takes.
async fn filters(client: &Client, variant: &str) -> Vec<String> {
    let context = async_nats::jetstream::new(client.nats().clone());
    let name = streams::consumer(&slug(variant), Lane::Job);
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        context.get_consumer_from_stream(name, "EMBED_m").await.unwrap();
    let config = &consumer.cached_info().config;
    match config.filter_subjects.is_empty() {
        true => vec![config.filter_subject.clone()],
        false => config.filter_subjects.clone(),
    }
}

fn serve(variant: &str, desired: &str) -> models::Serve {
    let desired: DesiredVariant = serde_json::from_str(desired).unwrap();
    models::Serve { model: slug("m"), variant: slug(variant), desired }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said() {
    let server = Server::start();
    assert!(stdout(&run(&server, "list").await).contains("no worker answers"));
    let answer = run(&server, "serve m canary").await;
    assert_eq!(answer.status.code(), Some(1));
    assert!(stderr(&answer).contains("no bucket embed_models: run `embed init`"), "{}", stderr(&answer));
    server.provisioned().await;
    let answer = run(&server, "serve other canary").await;
    assert!(stderr(&answer).contains("stream EMBED_other does not exist"), "{}", stderr(&answer));
    let answer = run(&server, "serve m canary --wait --timeout 10ms").await;
    assert!(
        stderr(&answer).contains("no worker answers; it will be served once one is started"),
        "{}",
        stderr(&answer)
    );
    assert!(stdout(&run(&server, "list").await).contains("no worker that answers serves it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variant_is_served_when_every_worker_says_so() {
    let server = Server::start();
    let client = server.provisioned().await;
    let fp32 = status("current (v1)", Some("v1"), None);
    let before = json!({ "m.fp32": fp32 });
    let after = json!({"m.fp32": fp32, "m.canary": status("v2", Some("v2"), None)});
    let workers = [
        Follower::start(&client, "w-1", before.clone(), after.clone()).await,
        Follower::start(&client, "w-2", before.clone(), after).await,
    ];
    let answer = run(&server, "serve m canary --version v2 --pinned --who ann --wait --timeout 60s --json").await;
    assert_eq!(answer.status.code(), Some(0), "{}", stderr(&answer));
    assert!(stderr(&answer).contains("2 of 2 workers serve it"), "{}", stderr(&answer));
    let told: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(told["workers"][1]["progress"]["live"]["version"], "v2", "{told}");
    assert_eq!(told["consumers"]["created"], json!(["EMBED_m/canary-job", "EMBED_m/canary-bulk"]));
    let desired = models::desired(&client).await.unwrap().remove(&(slug("m"), slug("canary"))).unwrap();
    assert_eq!((desired.version.as_str(), desired.pinned, desired.who.as_str()), ("v2", true, "ann"));
    assert!(humantime::parse_rfc3339(&desired.when).is_ok(), "{desired:?}");
    assert_eq!(filters(&client, "canary").await, ["embed.job.m.canary", "embed.job.m.canary.*"]);

    let list = stdout(&run(&server, "list").await);
    assert_eq!(list.lines().filter(|line| line.starts_with("m ") && line.contains("canary")).count(), 2, "{list}");
    let list: Value = serde_json::from_slice(&run(&server, "list --json").await.stdout).unwrap();
    assert_eq!(list["workers"][0]["variants"][0]["live"]["version"], "v2", "{list}");
    assert_eq!(list["wanted"][0]["who"], "ann");

    // One worker that cannot is enough to fail.
    let broken = json!({"m.fp32": fp32, "m.canary": status("v9", Some("v2"), Some("golden text 0 is off by 0.3"))});
    drop(workers);
    let _others = [
        Follower::start(&client, "w-3", before, broken.clone()).await,
        Follower::start(&client, "w-4", json!({}), broken).await,
    ];
    let answer = run(&server, "serve m canary --version v9 --wait --timeout 60s").await;
    assert_eq!(answer.status.code(), Some(1));
    assert!(stderr(&answer).contains("w-3: v9: golden text 0 is off by 0.3"), "{}", stderr(&answer));
    assert!(stdout(&run(&server, "list").await).contains("m canary on w-4: v9 failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_takes_the_bare_subjects_with_it() {
    let server = Server::start();
    let client = server.provisioned().await;
    let default = |name: &str| {
        [format!("embed.job.m.{name}"), format!("embed.job.m.{name}.*"), "embed.job.m".into(), "embed.job.m._.*".into()]
    };
    assert_eq!(filters(&client, "fp32").await, default("fp32"));
    models::serve(&client, &serve("int8", r#"{"default":true}"#)).await.unwrap();
    assert_eq!(filters(&client, "fp32").await, ["embed.job.m.fp32", "embed.job.m.fp32.*"]);
    assert_eq!(filters(&client, "int8").await, default("int8"));
    // Another version of it leaves it the default.
    let again = models::serve(&client, &serve("int8", r#"{"version":"v2"}"#)).await.unwrap();
    assert_eq!((again.desired.default, again.consumers.created.len()), (Some(true), 0));
    // There is one default: the bucket names no second.
    models::serve(&client, &serve("canary", r#"{"default":true}"#)).await.unwrap();
    let desired = models::desired(&client).await.unwrap();
    let defaults: Vec<_> = desired.iter().filter(|(_, one)| one.default == Some(true)).map(|(key, _)| &key.1).collect();
    assert_eq!(defaults, [&slug("canary")]);
    assert_eq!(filters(&client, "int8").await, ["embed.job.m.int8", "embed.job.m.int8.*"]);

    // Giving it up needs an heir, or jobs without a variant would wait for nobody.
    let unserve = async |variant: &str, default: Option<&str>| {
        let (variant, default) = (slug(variant), default.map(slug));
        models::unserve(&client, &Unserve { model: slug("m"), variant, default, force: false }).await
    };
    let error = unserve("canary", None).await.unwrap_err();
    assert!(matches!(error, Error::Settings(_)) && error.to_string().contains("--default NAME"), "{error}");
    assert!(unserve("canary", Some("int8")).await.unwrap().was_wanted);
    assert_eq!(filters(&client, "int8").await, default("int8"));
    assert_eq!(models::desired(&client).await.unwrap()[&(slug("m"), slug("int8"))].default, Some(true));
    assert!(!unserve("canary", None).await.unwrap().was_wanted, "it is not wanted any more");
    assert!(unserve("int8", Some("fp32")).await.unwrap().was_wanted);
    let default = |name: &str| {
        [format!("embed.job.m.{name}"), format!("embed.job.m.{name}.*"), "embed.job.m".into(), "embed.job.m._.*".into()]
    };
    assert_eq!(filters(&client, "fp32").await, default("fp32"));
    assert!(models::desired(&client).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_become_the_default_at_once_one_does_and_the_other_is_told() {
    let server = Server::start();
    let client = server.provisioned().await;
    let mut told = 0;
    for round in 0..10 {
        let become_default = async |variant: &'static str| {
            let desired = format!(r#"{{"default":true,"version":"v{round}"}}"#);
            models::serve(&client, &serve(variant, &desired)).await
        };
        let results = <[_; 2]>::from(tokio::join!(become_default("left"), become_default("right")));
        for result in &results {
            if let Err(error) = result {
                assert!(matches!(error, Error::Contended { .. }) && error.retryable(), "{error}");
                told += 1;
            }
        }
        let desired = models::desired(&client).await.unwrap();
        let defaults: Vec<_> =
            desired.iter().filter(|(_, one)| one.default == Some(true)).map(|(key, _)| key.1.as_str()).collect();
        let [default] = defaults[..] else { panic!("{defaults:?}, {results:?}") };
        // Whoever was told is not it, and jobs without a variant go where the bucket says.
        for (variant, result) in ["left", "right"].iter().zip(&results) {
            assert!(result.is_ok() || *variant != default, "{variant}: {result:?}");
        }
        assert!(filters(&client, default).await.contains(&"embed.job.m".to_owned()), "{default}");
    }
    assert!(told > 0, "two at once never met");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_still_has_traffic_is_not_taken_away_unawares() {
    let server = Server::start();
    let client = server.provisioned().await;
    models::serve(&client, &serve("canary", "{}")).await.unwrap();
    let context = async_nats::jetstream::new(client.nats().clone());
    for lane in ["job", "job", "bulk"] {
        context.publish(format!("embed.{lane}.m.canary"), "{}".into()).await.unwrap().await.unwrap();
    }
    context.publish("embed.job.m", "{}".into()).await.unwrap().await.unwrap();
    let route = json!({
        "lanes": {"rpc": {"fp32": 95, "canary": 5}, "job": {"fp32": 100}}, "state": "applied", "who": "ann", "when": "now",
    });
    let routes = context.get_key_value("embed_routes").await.unwrap();
    routes.put("m", route.to_string().into()).await.unwrap();

    let answer = run(&server, "unserve m canary").await;
    assert_eq!(answer.status.code(), Some(1));
    assert!(stderr(&answer).contains("canary gets 5 % of lane rpc of m: give its traffic to others first"));
    assert_eq!(models::desired(&client).await.unwrap().len(), 1);

    let answer = run(&server, "unserve m canary --force").await;
    assert!(answer.status.success(), "{}", stderr(&answer));
    assert!(stdout(&answer).contains("3 jobs for it are not done"), "{}", stdout(&answer));
    assert!(models::desired(&client).await.unwrap().is_empty());
    let again: Value = serde_json::from_slice(&run(&server, "unserve m canary --json").await.stdout).unwrap();
    assert_eq!((&again["was_wanted"], &again["jobs_waiting"]), (&json!(false), &json!(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_makes_the_consumers_of_what_is_wanted() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    registry(folder.path());
    let init = || output(&["init", "-s", &server.url(), "--registry", folder.path().to_str().unwrap()]);
    assert!(stdout(&init()).contains("created    KV_embed_models"));
    let client = server.client().await;
    models::serve(&client, &serve("canary", r#"{"default":true}"#)).await.unwrap();
    // On another day, somebody has lost the consumers.
    let context = async_nats::jetstream::new(client.nats().clone());
    context.delete_consumer_from_stream("canary-job", "EMBED_m").await.unwrap();
    let made = stdout(&init());
    assert!(made.contains("created    EMBED_m/canary-job") && made.contains("unchanged  EMBED_m/int8-job"), "{made}");
    let default = ["embed.job.m.canary", "embed.job.m.canary.*", "embed.job.m", "embed.job.m._.*"];
    assert_eq!(filters(&client, "canary").await, default);
    let variants = vec![slug("canary"), slug("int8")];
    let wanted = [provision::ModelVariants { model: slug("m"), variants }];
    assert_eq!(provision::check(client.nats(), &wanted, &streams::StreamSettings::default()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_asked_to_look() {
    let server = Server::start();
    let client = server.client().await;
    let mut requests = client.nats().subscribe(REFRESH_SUBJECT).await.unwrap();
    let _worker = Worker::says(&client, "w", Arc::new(|| json!({}))).await;
    let answer = run(&server, "refresh M").await;
    assert_eq!(stdout(&answer), "1 workers have been asked to look at the registry\n", "{}", stderr(&answer));
    let request = tokio::time::timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
    assert_eq!(&request.payload[..], b"m");
}
