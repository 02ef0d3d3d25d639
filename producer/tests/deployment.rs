//! The configurations in `deploy/nats`.

use crate::support::{
    PATIENCE,
    configured::{Configured, SYSTEM_PASSWORD, command, file},
    model_m, slug,
    worker::{embed, store},
};
use async_nats::jetstream;
use embed_client::Client;
use embed_control::provision::apply;
use embed_schemas::{EmbedRequest, streams::StreamSettings};
use futures::StreamExt;
use serde_json::Value;

#[test]
fn the_configurations_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["single.conf", "cluster.conf"] {
        let output = command(&file(name), folder.path()).arg("-t").output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_server_so_configured_syncs_what_it_acknowledges_and_tells_only_what_it_has_stored() {
    let server = Configured::start(&file("single.conf"));
    let system = async_nats::ConnectOptions::with_user_and_password("sys".into(), SYSTEM_PASSWORD.into());
    let system = system.connect(&server.url).await.unwrap();
    let answer = system.request("$SYS.REQ.SERVER.PING.VARZ", "".into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["data"]["jetstream"]["config"]["sync_always"], true, "{answer}");

    let client = Client::connect(&server.settings()).await.unwrap();
    apply(client.nats(), &[model_m()], &StreamSettings::default()).await.unwrap();
    let mut heard = client.nats().subscribe("embed.result.>").await.unwrap();
    // Nobody may say that something is a result but the stream.
    client.nats().publish("embed.result.m.forged", "x".into()).await.unwrap();
    let job = EmbedRequest { id: Some("real".parse().unwrap()), ..EmbedRequest::new(["abc"]) };
    store(&jetstream::new(client.nats().clone()), &slug("m"), &embed(&job)).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), "embed.result.m.real");
}
