//! What no role may do to another, tried on a server as `deploy/nats` has it: nothing of it has any effect, and the server says no.

use std::time::Duration;

use crate::support::{
    PATIENCE,
    configured::{Configured, Folder},
    model_m, slug, until,
    worker::{embed, store},
};
use async_nats::jetstream;
use embed_client::{Client, JobId};
use embed_control::{
    permissions::Role,
    provision::{apply, check},
};
use embed_schemas::{EmbedRequest, Outcome, Slug, streams::StreamSettings};
use futures::StreamExt;
use serde_json::json;

/// What is published where, with which payload.
const EVIL: &[(&str, &str)] = &[
    // Removes, reads or lists results of others.
    ("$JS.API.STREAM.PURGE.EMBED_RESULTS_m", ""),
    ("$JS.API.STREAM.DELETE.EMBED_RESULTS_m", ""),
    ("$JS.API.STREAM.MSG.DELETE.EMBED_RESULTS_m", r#"{"seq": 1}"#),
    ("$JS.API.STREAM.MSG.GET.EMBED_RESULTS_m", r#"{"seq": 1}"#),
    ("$JS.API.DIRECT.GET.EMBED_RESULTS_m", r#"{"seq": 1}"#),
    ("$JS.API.DIRECT.GET.EMBED_RESULTS_m", r#"{"multi_last": ["embed.result.m.*"]}"#),
    ("$JS.API.STREAM.INFO.EMBED_RESULTS_m", r#"{"subjects_filter": ">"}"#),
    (
        "$JS.API.CONSUMER.CREATE.EMBED_RESULTS_m.spy.embed.result.m.*",
        r#"{"stream_name": "EMBED_RESULTS_m", "config": {}}"#,
    ),
    ("$JS.API.STREAM.SNAPSHOT.EMBED_RESULTS_m", r#"{"deliver_subject": "_INBOX.x"}"#),
    // Jobs of others.
    ("$JS.API.STREAM.PURGE.EMBED_m", ""),
    ("$JS.API.STREAM.MSG.GET.EMBED_m", r#"{"seq": 1}"#),
    ("$JS.API.DIRECT.GET.EMBED_m", r#"{"seq": 1}"#),
    ("$JS.API.STREAM.MSG.DELETE.EMBED_m", r#"{"seq": 1}"#),
    ("$JS.API.CONSUMER.MSG.NEXT.EMBED_m.fp32-job", r#"{"batch": 10}"#),
    ("$JS.API.CONSUMER.DELETE.EMBED_m.fp32-job", ""),
    ("$JS.ACK.EMBED_m.fp32-job.1.1.1.1.0", "+ACK"),
    // Streams.
    ("$JS.API.STREAM.CREATE.mine", r#"{"name": "mine", "subjects": ["embed.rpc.>"]}"#),
    ("$JS.API.STREAM.UPDATE.EMBED_m", r#"{"name": "EMBED_m", "max_msgs": 1}"#),
    ("$JS.API.STREAM.NAMES", ""),
    ("$JS.API.STREAM.LIST", ""),
    ("$JS.API.SERVER.REMOVE", "{}"),
    ("$JS.API.ACCOUNT.PURGE.EMBED", ""),
    // Results, letters, statistics that are none.
    ("embed.store.m.forged", r#"{"id": "forged", "error": {}}"#),
    ("embed.result.m.forged", r#"{"id": "forged", "error": {}}"#),
    ("embed.store.m.a.forged", r#"{"id": "forged", "error": {}}"#),
    ("embed.remove.m.a", "{}"),
    ("embed.dead.m.fp32", "junk"),
    ("embed.attempts.m.1", r#"{"begun": 99}"#),
    ("embed.stats.m.fp32", "junk"),
    ("embed.stats.m.fp32.shadow", "junk"),
    // What operators decide.
    ("$KV.embed_models.m.evil", r#"{"default": true}"#),
    ("$KV.embed_routes.m", "{}"),
    ("$KV.embed_rollouts.m", "{}"),
    ("embed.control.refresh", ""),
    ("embed.control.reload", ""),
    ("embed.control.drain.w1", ""),
    ("embed.control.shadow", "{}"),
    ("embed.shadow.m.fp32", "{}"),
    ("$SYS.REQ.SERVER.PING", ""),
    ("$SYS.REQ.CLAIMS.UPDATE", "x"),
    // Answers in somebody else's place, of workers to discovery and calls.
    ("_INBOX.caller.forged", "forged"),
    ("_R_.forged", "forged"),
];

/// What would be heard.
const OVERHEARD: &[&str] = &[
    ">",
    "embed.>",
    "_INBOX.>",
    "_INBOX.*.*",
    "_INBOX.caller.>",
    "_INBOX.worker.>",
    "_R_.>",
    "embed.rpc.m",
    "embed.rpc.m.*",
    "embed.job.m",
    "embed.result.m.*",
    "embed.store.m.*",
    "embed.remove.m",
    "embed.remove.m.*",
    "embed.shadow.m.*",
    "embed.probe.>",
    "$SRV.>",
    "$SRV.INFO.embed-worker",
    "$JS.>",
    "$JS.EVENT.>",
    "$JS.API.>",
    "$JS.ACK.>",
    "$KV.>",
    "$SYS.>",
];

/// A result that somebody else has, and a job that waits.
async fn furnished(server: &Configured) -> Client {
    let init = Client::connect(&server.settings("init")).await.unwrap();
    apply(init.nats(), &[model_m()], &StreamSettings::default()).await.unwrap();
    let worker = Client::connect(&server.settings("worker")).await.unwrap();
    let job = EmbedRequest { id: Some("precious".parse().unwrap()), ..EmbedRequest::new(["abc"]) };
    store(&jetstream::new(worker.nats().clone()), &slug("m"), &embed(&job)).await.unwrap();
    let producer = Client::connect(&server.settings("producer")).await.unwrap();
    producer
        .publish(&slug("m"), embed_schemas::Lane::Job, EmbedRequest::new(["text"]), &Default::default())
        .await
        .unwrap();
    init
}

async fn outcome(client: &Client, id: &str) -> Option<Outcome> {
    let (model, id): (Slug, JobId) = (slug("m"), id.parse().unwrap());
    client.expect(&model, id).await.unwrap().stored().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_ask_get_at_nothing_of_others() {
    let server = Folder::new().for_models(&["m"]).start();
    let init = furnished(&server).await;
    let models = [model_m()];
    for role in [Role::Caller, Role::Producer, Role::Backfill, Role::Gateway, Role::Metrics] {
        let user = role.as_str();
        let evil = Client::connect(&server.settings(user)).await.unwrap();
        for (subject, payload) in EVIL {
            if *subject == format!("_INBOX.{user}.forged") {
                continue;
            }
            // A reply subject of its own, or it would not hear what it asks for.
            let reply = evil.nats().new_inbox();
            evil.nats().publish_with_reply(*subject, reply, (*payload).into()).await.unwrap();
        }
        let mut heard = Vec::new();
        for subject in OVERHEARD.iter().filter(|subject| **subject != format!("_INBOX.{user}.>")) {
            heard.push(evil.nats().subscribe(*subject).await.unwrap());
            heard.push(evil.nats().queue_subscribe(*subject, "workers".into()).await.unwrap());
        }
        evil.nats().flush().await.unwrap();
        let denied: Vec<String> = EVIL
            .iter()
            .map(|(subject, _)| *subject)
            .chain(OVERHEARD.iter().copied())
            .filter(|subject| !subject.starts_with(&format!("_INBOX.{user}.")))
            .map(|subject| format!("{user}: {subject}"))
            .collect();
        until("all of it to be refused", async || {
            let said = server.violations();
            denied.iter().all(|line| said.contains(line))
        })
        .await;
        // Nothing of it has had an effect, and nobody can be heard.
        let caller = Client::connect(&server.settings("caller")).await.unwrap();
        let result = caller.nats().request("embed.rpc.m", "{}".into()).await;
        assert!(result.is_err_and(|error| error.kind() == async_nats::RequestErrorKind::NoResponders), "{user}");
        let answers = heard.iter_mut().map(|subscriber| subscriber.next());
        let any = tokio::time::timeout(Duration::from_millis(50), futures::future::select_all(answers)).await;
        assert!(any.is_err() || any.is_ok_and(|(message, ..)| message.is_none()), "{user} hears something");
    }
    assert_eq!(check(init.nats(), &models, &StreamSettings::default()).await.unwrap(), [], "streams are as they were");
    let producer = Client::connect(&server.settings("producer")).await.unwrap();
    assert!(matches!(outcome(&producer, "precious").await, Some(Outcome::Result(_))));
    assert!(outcome(&producer, "forged").await.is_none());
}

/// Each role has its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_operate_do_nothing_of_what_others_are_for() {
    let server = Folder::new().for_models(&["m"]).start();
    let _init = furnished(&server).await;
    let tried: &[(Role, &[&str])] = &[
        (
            Role::Worker,
            &[
                "$KV.embed_models.m.x",
                "$KV.embed_backfills.x",
                "$JS.API.STREAM.MSG.GET.KV_embed_backfills",
                "$JS.API.STREAM.PURGE.EMBED_m",
                "$JS.API.STREAM.DELETE.EMBED_m",
                "embed.job.m",
                "embed.store.other.x",
                "embed.control.refresh",
            ],
        ),
        (
            Role::Jobs,
            &[
                "$KV.embed_models.m.x",
                "$KV.embed_routes.m",
                "$JS.API.STREAM.PURGE.EMBED_m",
                "embed.stats.m.fp32",
                "embed.rpc.m",
            ],
        ),
        (
            Role::Models,
            &[
                "$KV.embed_routes.m",
                "embed.store.m.x",
                "embed.job.m",
                "$JS.API.STREAM.UPDATE.EMBED_m",
                "$JS.API.CONSUMER.DELETE.EMBED_m.fp32-job",
            ],
        ),
        (Role::Routes, &["$KV.embed_models.m.x", "$KV.embed_rollouts.m", "embed.store.m.x", "embed.rpc.m"]),
        (Role::Rollouts, &["$KV.embed_models.m.x", "embed.stats.m.fp32", "embed.store.m.x", "embed.job.m"]),
        (
            Role::Init,
            &["$JS.API.STREAM.DELETE.EMBED_m", "$JS.API.STREAM.PURGE.EMBED_m", "$KV.embed_routes.m", "embed.store.m.x"],
        ),
        (Role::RoutesSys, &["$SYS.REQ.SERVER.X.KICK", "$SYS.REQ.SERVER.X.SUBSZ", "$SYS.REQ.ACCOUNT.EMBED.CONNZ"]),
    ];
    for (role, subjects) in tried {
        let client = embed_client::nats::connect(&server.settings(role.as_str()), "test").await.unwrap();
        for subject in *subjects {
            client.publish(*subject, "x".into()).await.unwrap();
        }
        // Of a worker, the calls of its models and nobody else's.
        let _spies = [
            client.subscribe("_INBOX.>").await.unwrap(),
            client.subscribe("embed.rpc.m").await.unwrap(),
            client.subscribe("$JS.ACK.>").await.unwrap(),
        ];
        client.flush().await.unwrap();
        let heard = ["_INBOX.>", "embed.rpc.m", "$JS.ACK.>"];
        until("all of it to be refused", async || {
            let said = server.violations();
            subjects.iter().chain(&heard).all(|subject| said.contains(&format!("{role}: {subject}")))
        })
        .await;
    }
}

/// A reply that somebody else has guessed is heard by nobody but its owner, and no two users share inboxes.
#[tokio::test]
async fn inboxes_are_their_owners() {
    let server = Folder::new().for_models(&["m"]).start();
    let caller = Client::connect(&server.settings("caller")).await.unwrap();
    let mut inbox = caller.nats().subscribe("_INBOX.caller.x").await.unwrap();
    // Its own program with another prefix is told so, instead of waiting.
    let wrong = embed_connect::ConnectSettings { inbox_prefix: None, ..server.settings("caller") };
    let wrong = Client::connect(&wrong).await.unwrap();
    let error = wrong.embed(&slug("m"), EmbedRequest::new(["x"]), &Default::default()).await.unwrap_err().to_string();
    assert!(error.contains("--inbox-prefix"), "{error}");
    let worker = Client::connect(&server.settings("worker")).await.unwrap();
    worker.nats().publish("_INBOX.caller.x", json!({"it": "arrives"}).to_string().into()).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap();
    assert_eq!(heard.payload, json!({"it": "arrives"}).to_string());
}
