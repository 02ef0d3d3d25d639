//! Runners of outputs that nothing but the lease guards, against a real server.

use std::time::Duration;

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_schemas::{
    removal::RemovalKey,
    streams::{BACKFILLS_BUCKET, StreamSettings},
};
use embed_testkit::{NatsServer, PATIENCE};
use tokio_util::sync::CancellationToken;

use super::{pieces::tests::part, store::Store, *};
use crate::{Error, InputFile, Plan, State, tests::parameters};

const LEASE: Duration = Duration::from_secs(3);

async fn client(server: &NatsServer) -> Client {
    let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
    Client::connect(&settings).await.unwrap()
}

/// With the bucket, and no streams of models.
async fn provisioned(server: &NatsServer) -> Client {
    let client = client(server).await;
    embed_control::provision::apply(client.nats(), &[], &StreamSettings::default()).await.unwrap();
    client
}

fn state(key: u8) -> State {
    let file =
        |n| InputFile { location: format!("s3://in/\"{n}\""), bytes: Some(10), sha256: None, ..InputFile::default() };
    State::new(
        RemovalKey::from_random([key; 32]),
        parameters(),
        Plan { files: (0..3).map(file).collect(), ..Plan::default() },
    )
}

fn patience() -> Patience {
    Patience { running: PATIENCE, ending: CancellationToken::new() }
}

fn remote() -> Target {
    Target::Remote("s3://out/vectors".into())
}

async fn take(client: &Client, state: &State, force: bool) -> Result<Keeper, Error> {
    Ok(open(client, state, &remote(), Wish::Run, force, LEASE).await?.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_runner_is_refused_and_takes_over_after_the_lease() {
    let server = NatsServer::start();
    let client = provisioned(&server).await;
    let mut state = state(1);
    let first = take(&client, &state, false).await.unwrap();
    first.may_write(&patience()).await.unwrap();
    for force in [false, true] {
        let error = take(&client, &state, force).await.unwrap_err().to_string();
        assert!(error.contains("is run by process") && error.contains("pause"), "{error}");
    }
    // Another backfill into the same output is refused as long as somebody runs this one, whatever is asked for.
    let other = self::state(2);
    assert!(take(&client, &other, true).await.unwrap_err().to_string().contains("is run by"));
    state.saves = 1;
    state.stored = 7;
    first.save(&state, Live::default(), &patience()).await.unwrap();
    // It renews its lease: it is not over in time.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    assert!(take(&client, &state, false).await.is_err());
    // It dies, and says nothing.
    drop(first);
    assert!(take(&client, &state, false).await.is_err());
    tokio::time::sleep(LEASE).await;
    assert!(take(&client, &other, false).await.unwrap_err().to_string().contains("is unfinished"));
    let known = look(Some(&client), "s3://out/vectors/".as_ref()).await.unwrap();
    assert_eq!((known.state.stored, known.state.plan.files.len()), (7, 3));
    assert_eq!(known.entry.unwrap().phase, Phase::Interrupted);
    let second = take(&client, &known.state, false).await.unwrap();
    second.close(&known.state, Live::default()).await;
    assert_eq!(list(&client).await.unwrap()[0].phase, Phase::Stopped);
    // Begun anew, the output is another backfill's.
    let third = take(&client, &other, true).await.unwrap();
    let all = list(&client).await.unwrap();
    assert_eq!((all.len(), &all[0].id), (1, &other.id));
    third.close(&other, Live::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_lost_the_lease_writes_nothing_more() {
    let mut server = NatsServer::start();
    let client = provisioned(&server).await;
    let state = state(1);
    let first = take(&client, &state, false).await.unwrap();
    let asked = first.asked();
    // Somebody else has it, as after a time in which this machine slept.
    let store = Store::new(client.nats());
    loop {
        let mut found = store.get(state.id.as_str()).await.unwrap().unwrap();
        found.entry.runner = Some(keeper::runner(LEASE));
        if store.put(&found.entry, found.revision).await.unwrap().is_some() {
            break;
        }
    }
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    let error = first.may_write(&patience()).await.unwrap_err().to_string();
    assert!(error.contains("is run by process"), "{error}");
    assert!(first.save(&State { saves: 9, ..state.clone() }, Live::default(), &patience()).await.is_err());

    // One that hears nothing of the server waits, and goes on when it hears that nobody else has come.
    let other = self::state(2);
    let target = Target::Remote("s3://out/others".into());
    let second = open(&client, &other, &target, Wish::Run, false, LEASE).await.unwrap().unwrap();
    server.kill();
    let waits = async {
        while second.may_write(&Patience { running: Duration::from_millis(50), ..patience() }).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap();
    let ending = CancellationToken::new();
    ending.cancel();
    let error = second.may_write(&Patience { ending, ..patience() }).await.unwrap_err().to_string();
    assert!(error.contains("nothing was heard"), "{error}");
    server.restart();
    second.may_write(&patience()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bucket_only_outputs_on_this_machine_go_on() {
    let server = NatsServer::start();
    let client = client(&server).await;
    let state = state(1);
    let error = take(&client, &state, false).await.unwrap_err().to_string();
    assert!(error.contains("embed init") && error.contains("s3://out/vectors"), "{error}");
    let local = Target::local("/out.jsonl".as_ref());
    assert!(open(&client, &state, &local, Wish::Run, false, LEASE).await.unwrap().is_none());
    assert_eq!(list(&client).await.unwrap_err().code(), "no_bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_may_be_larger_than_a_message() {
    let server = NatsServer::start_with("max_payload: 20000");
    let client = provisioned(&server).await;
    let mut state = state(1);
    let file = |n| InputFile {
        location: format!("s3://in/ä/{n:050}"),
        bytes: Some(10),
        sha256: Some("0".repeat(64)),
        ..InputFile::default()
    };
    state.plan.files = (0..1000).map(file).collect();
    let keeper = take(&client, &state, false).await.unwrap();
    let known = look(Some(&client), state.id.as_str().as_ref()).await.unwrap();
    assert_eq!(known.state.plan, state.plan);
    state.finished = true;
    keeper.close(&state, Live::default()).await;
    assert_eq!(remove_old(&client, Duration::from_secs(3600)).await.unwrap(), []);
    assert_eq!(remove_old(&client, Duration::ZERO).await.unwrap(), [state.id.clone()]);
    assert_eq!(list(&client).await.unwrap(), []);
    let bucket = embed_control::bucket::Bucket::new(client.nats().clone(), embed_schemas::streams::BACKFILLS_BUCKET);
    for key in bucket.keys(">").await.unwrap() {
        assert_eq!(bucket.get::<serde_json::Value>(&key).await.unwrap().1, None, "{key}");
    }
    // Its output is nobody's.
    take(&client, &self::state(2), false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_stays_small_however_much_there_is_to_record() {
    let server = NatsServer::start();
    let client = provisioned(&server).await;
    let mut state = state(1);
    state.parameters.inputs = (0..20_000).map(|n| format!("s3://in/some/folder/{n:060}")).collect();
    let keeper = take(&client, &state, false).await.unwrap();
    let written = async || {
        let bucket = embed_connect::jetstream(client.nats()).get_key_value(BACKFILLS_BUCKET).await.unwrap();
        bucket.get(state.id.as_str()).await.unwrap().unwrap().len()
    };
    assert!(written().await < 10_000, "{}", written().await);
    // Four times what a message takes; then as they come.
    for parts in [20_000, 20_001, 20_700, 22_000] {
        state.mark.parts = (0..parts).map(part).collect();
        state.mark.failed = (0..parts / 10).map(|n| part(1_000_000 + n)).collect();
        state.saves += 1;
        keeper.save(&state, Live::default(), &patience()).await.unwrap();
        assert!(written().await < 150_000, "{parts}: {}", written().await);
    }
    let known = look(Some(&client), state.id.as_str().as_ref()).await.unwrap();
    assert!(
        known.state == state,
        "{} parts and {} inputs",
        known.state.mark.parts.len(),
        known.state.parameters.inputs.len()
    );
    let listed = list(&client).await.unwrap().remove(0).inputs;
    assert!(listed.len() < 100 && listed.last().unwrap().ends_with("more"), "{:?}", listed.last());
    keeper.close(&state, Live::default()).await;
    // Whoever goes on with it writes no piece again that is there.
    let revision = async || {
        let stream = embed_connect::jetstream(client.nats()).get_stream("KV_embed_backfills").await.unwrap();
        stream.get_info().await.unwrap().state.last_sequence
    };
    let before = revision().await;
    let keeper = take(&client, &state, false).await.unwrap();
    assert!(revision().await - before < 5, "{}", revision().await - before);
    state.finished = true;
    keeper.close(&state, Live::default()).await;
    assert_eq!(remove_old(&client, Duration::ZERO).await.unwrap(), [state.id.clone()]);
    let bucket = embed_control::bucket::Bucket::new(client.nats().clone(), BACKFILLS_BUCKET);
    for key in bucket.keys(">").await.unwrap() {
        assert_eq!(bucket.get::<serde_json::Value>(&key).await.unwrap().1, None, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_written_is_told() {
    let server = NatsServer::start_with("max_payload: 20000");
    let client = provisioned(&server).await;
    let state = state(1);
    let keeper = take(&client, &state, false).await.unwrap();
    let mut large = State { saves: 1, ..state };
    large.parameters.keep = (0..2_000).map(|n| format!("column {n}")).collect();
    let error = keeper.save(&large, Live::default(), &patience()).await.unwrap_err().to_string();
    assert!(error.contains("bytes, and the server takes 20000") && error.contains("max_payload"), "{error}");
    let other = State { id: self::state(2).id, ..large };
    let target = Target::Remote("s3://out/others".into());
    let error = open(&client, &other, &target, Wish::Run, false, LEASE).await.unwrap_err().to_string();
    assert!(error.contains("max_payload"), "{error}");
}
