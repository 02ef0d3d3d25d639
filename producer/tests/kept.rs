//! What earlier versions have written down is read, and gone on with: `schemas/golden/kept` has an example of each layout.

use std::{fs, path::PathBuf, sync::Arc};

use crate::support::{
    Server,
    command::{run, stderr, stdout},
    files::{Files, rows},
    worker::{Worker, embed, vector},
};
use async_nats::jetstream::kv;
use embed_backfill::State;
use embed_control::{provision::apply, route::RouteSettings};
use embed_rollout::{Rollout, record::Record};
use embed_schemas::{routes::RouteRecord, serving::DesiredVariant, streams::StreamSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    embed_testkit::repository().join("schemas/golden/kept").join(name)
}

fn kept(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Layouts of states of backfills that there have been, the newest last.
const STATES: [&str; 5] = [
    "backfill-state-1.json",
    "backfill-state-2.json",
    "backfill-state-3.json",
    "backfill-state-4.json",
    "backfill-state-5.json",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_an_earlier_version_began_is_resumed() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|request| Some(embed(request))));
    for name in STATES {
        let files = Files::with(&kept("backfill-rows.jsonl"));
        fs::write(&files.output, kept("backfill-rows.out.jsonl")).unwrap();
        let state = kept(name).replace("/kept/rows.jsonl", files.input.to_str().unwrap());
        let before = State::read(state.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((before.done.rows, before.finished), (1, false), "{name}");
        fs::write(embed_backfill::state_path(&files.output), state).unwrap();
        let summary = files.resume(&client).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(summary.finished && summary.id == before.id, "{name}: {summary:?}");
        assert_eq!((summary.rows, summary.stored, summary.failed), (3, 3, 0), "{name}");
        let rows = rows(&files.output);
        let found: Vec<_> =
            rows.iter().map(|row| (row["id"].as_str().unwrap(), row["embedding"][0].as_f64())).collect();
        let wanted = [("a", "abc"), ("b", "abcdefg"), ("c", "ab")];
        assert_eq!(found, wanted.map(|(id, text)| (id, Some(f64::from(vector(text)[0])))), "{name}");
    }
}

/// The newest example is what is written now, to the letter: whoever changes a layout keeps one more, and a way to read those of before.
fn is_of_now<T: DeserializeOwned + Serialize>(name: &str, held: &Value) {
    let read: T = serde_json::from_value(held.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let again = serde_json::to_value(&read).unwrap();
    assert_eq!(again, *held, "{name}: this version writes something else; keep an example of it beside this one");
}

#[test]
fn the_newest_examples_are_what_is_written_now() {
    let newest = STATES.last().unwrap();
    is_of_now::<State>(newest, &serde_json::from_str(&kept(newest)).unwrap());
    let buckets: Value = serde_json::from_str(&kept("buckets-2026-11-30.json")).unwrap();
    is_of_now::<RouteRecord>("embed_routes", &buckets["embed_routes"]["m"]);
    is_of_now::<DesiredVariant>("embed_models", &buckets["embed_models"]["m.canary"]);
    is_of_now::<Rollout>("embed_rollouts", &buckets["embed_rollouts"]["m"]);
    is_of_now::<Record>("record", &serde_json::from_str(&kept("rollout-record-2026-11-30.json")).unwrap());
}

/// Puts entries into their buckets as they were.
async fn put(client: &embed_client::Client, name: &str) {
    let context = async_nats::jetstream::new(client.nats().clone());
    let buckets: Value = serde_json::from_str(&kept(name)).unwrap();
    for (bucket, entries) in buckets.as_object().unwrap() {
        let store: kv::Store = context.get_key_value(bucket).await.unwrap();
        for (key, value) in entries.as_object().unwrap() {
            store.put(key, value.to_string().into()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_of_an_earlier_version_are_read_by_the_commands() {
    for name in ["buckets-2026-11-24.json", "buckets-2026-11-30.json"] {
        let server = Server::start();
        let client = server.client().await;
        apply(client.nats(), &[crate::support::model_m()], &StreamSettings::default()).await.unwrap();
        put(&client, name).await;
        let url = server.url();
        let says = async |arguments: &[&str]| {
            let output = run(&[arguments, &["--server", &url, "--json"]].concat()).await;
            assert_ne!(stdout(&output), "", "{name}: {arguments:?}: {}", stderr(&output));
            stdout(&output)
        };
        let routes = says(&["route", "show"]).await;
        assert!(routes.contains("canary"), "{name}: {routes}");
        let rollouts = says(&["rollout", "list"]).await;
        assert!(rollouts.contains(r#""to":"canary""#), "{name}: {rollouts}");
        let status = says(&["rollout", "status", "m"]).await;
        assert!(status.contains(r#""name":"holding""#), "{name}: {status}");
        if name.ends_with("30.json") {
            let backfills = says(&["backfill", "list"]).await;
            assert!(backfills.contains(r#""phase":"finished""#), "{name}: {backfills}");
        }
        // What is wanted of workers stays so: a variant is taken back by the command of now.
        let output = run(&["models", "unserve", "m", "canary", "--force", "--server", &url]).await;
        assert!(output.status.success(), "{name}: {}", stderr(&output));
    }
}

#[tokio::test]
async fn a_record_of_a_rollout_that_was_saved_is_judged_again_to_the_same() {
    let record = path("rollout-record-2026-11-30.json");
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let arguments = ["rollout", "report", "--record", record.to_str().unwrap(), "--output", page.to_str().unwrap()];
    let output = run(&arguments).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn settings_of_routes_that_were_remembered_are_read() {
    let read = RouteSettings::read(&path("route-2026-11-24.toml")).unwrap();
    assert_eq!(read.sys_user.as_deref(), Some("sys"));
    assert_eq!(read.mappings_files, [PathBuf::from("/srv/nats/embed-mappings.conf")]);
}
