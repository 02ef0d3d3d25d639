//! The configurations in `deploy/nats`: servers run with them as they stand there.

use crate::support::{
    PATIENCE,
    configured::{Configured, Folder},
    model_m, slug, until,
    worker::{embed, store},
};
use async_nats::jetstream;
use embed_client::{Client, PublishOptions};
use embed_connect::ConnectSettings;
use embed_control::provision::{ModelVariants, apply};
use embed_schemas::{EmbedRequest, Lane, streams::StreamSettings};
use futures::StreamExt;
use nkeys::KeyPair;
use serde_json::Value;
use std::time::Duration;

const MODEL: &str = "all-minilm-l6-v2";

#[test]
fn the_configurations_are_valid_and_nobody_gets_in_by_default() {
    let folder = Folder::new();
    for name in ["single.conf", "cluster.conf"] {
        let output = folder.command(name, "nats-1").arg("-t").output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        for variable in ["CALLER_PASSWORD", "OPERATOR_PASSWORD", "ROUTES_SYS_PASSWORD", "TLS_KEY"] {
            let output = folder.command(name, "nats-1").arg("-t").env_remove(variable).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(variable), "{name}: {said}");
        }
    }
    // A hash does as well.
    let hash = "$2a$11$PWIFAL8RsWyGI3jVZtO9Nu8.6jOxzxfZo7c/W0eLk017hjgUKWrhy";
    let output = folder.command("single.conf", "").arg("-t").env("CALLER_PASSWORD", hash).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = folder.including("tenants.conf");
    let output = folder.command("single.conf", "").arg("-t").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_server_so_configured_syncs_what_it_acknowledges_and_tells_only_what_it_has_stored() {
    // One of its users hears results, for reasons of its own.
    let hears = |text: String| text.replacen("\"_INBOX.caller.>\"", "\"_INBOX.caller.>\", \"embed.result.>\"", 1);
    let server = Folder::new().for_models(&["m"]).change("roles.conf", hears).start();
    let wrong = ConnectSettings { password: Some("no".into()), ..server.settings("operator") };
    for stranger in [server.nobody(), wrong] {
        let refused = Client::connect(&stranger).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("refuses the connection"), "{refused}");
    }
    let system = embed_client::nats::connect(&server.settings("routes-sys"), "test").await.unwrap();
    let said = ask_servers(&system, 1).await;
    assert!(said[0]["jetstream"]["config"]["sync_always"] == true && said[0]["tls_required"] == true, "{said:?}");

    let operator = Client::connect(&server.settings("operator")).await.unwrap();
    apply(operator.nats(), &[model_m()], &StreamSettings::default()).await.unwrap();
    let caller = Client::connect(&server.settings("caller")).await.unwrap();
    let mut heard = caller.nats().subscribe("embed.result.>").await.unwrap();
    // Nobody may say that something is a result but the stream.
    for user in ["caller", "operator", "worker"] {
        let forger = Client::connect(&server.settings(user)).await.unwrap();
        forger.nats().publish("embed.result.m.forged", "x".into()).await.unwrap();
        let denied = format!("{user}: embed.result.m.forged");
        until("it to be refused", async || server.violations().contains(&denied)).await;
    }
    let worker = Client::connect(&server.settings("worker")).await.unwrap();
    let job = EmbedRequest { id: Some("real".parse().unwrap()), ..EmbedRequest::new(["abc"]) };
    store(&jetstream::new(worker.nats().clone()), &slug("m"), &embed(&job)).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), "embed.result.m.real");
}

#[tokio::test]
async fn a_user_may_have_a_key_in_place_of_a_password() {
    let key = KeyPair::new_user();
    let keyed = |text: String| {
        let password = "user: \"caller\"\n        password: $CALLER_PASSWORD";
        assert!(text.contains(password));
        text.replace(password, &format!("nkey: {}", key.public_key()))
    };
    let server = Folder::new().change("roles.conf", keyed).start();
    let seed = server.folder.file("caller.seed");
    std::fs::write(&seed, key.seed().unwrap()).unwrap();
    let settings = ConnectSettings { user: None, password: None, nkey: Some(seed), ..server.settings("caller") };
    let caller = Client::connect(&settings).await.unwrap();
    caller.nats().publish("embed.job.all-minilm-l6-v2", "x".into()).await.unwrap();
    until("it to be refused", async || !server.violations().is_empty()).await;
}

/// What servers say of themselves, once so many do.
async fn ask_servers(system: &async_nats::Client, count: usize) -> Vec<Value> {
    let mut said = Vec::new();
    until("the servers to answer", async || {
        let inbox = system.new_inbox();
        let mut answers = system.subscribe(inbox.clone()).await.unwrap();
        system.publish_with_reply("$SYS.REQ.SERVER.PING.VARZ", inbox, "".into()).await.unwrap();
        said.clear();
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(1), answers.next()).await {
            said.push(serde_json::from_slice::<Value>(&answer.payload).unwrap()["data"].take());
            if said.len() == count {
                break;
            }
        }
        said.len() == count
    })
    .await;
    said
}

#[tokio::test]
async fn three_servers_are_a_cluster_that_only_certificates_join() {
    let servers = Configured::cluster();
    let system = embed_client::nats::connect(&servers[0].settings("routes-sys"), "test").await.unwrap();
    for said in ask_servers(&system, 3).await {
        assert_eq!(said["jetstream"]["config"]["sync_always"], true, "{said}");
        let cluster = &said["cluster"];
        assert!(cluster["tls_required"] == true && cluster["tls_verify"] == true, "{cluster}");
    }
    let client = Client::connect(&servers[0].settings("init")).await.unwrap();
    let settings = StreamSettings { replicas: 3, ..StreamSettings::default() };
    let model = ModelVariants { model: slug(MODEL), variants: vec![slug("fp32")] };
    until("the streams", async || apply(client.nats(), std::slice::from_ref(&model), &settings).await.is_ok()).await;
    // On whichever server, a user is the same.
    for server in &servers {
        let producer = Client::connect(&server.settings("producer")).await.unwrap();
        let options = PublishOptions::default().timeout(PATIENCE);
        let published = producer.publish(&slug(MODEL), Lane::Job, EmbedRequest::new(["x"]), &options).await;
        assert!(published.is_ok(), "{published:?}: {}", server.log());
        assert!(server.violations().is_empty(), "{:?}", server.violations());
    }
}
