//! Tenants: each publishes, reads and removes in its own name, and its permissions name that and nothing else.

use std::sync::Arc;

use crate::support::{
    PATIENCE, Server,
    command::{embed as embed_command, stderr, stdout},
    files::{Files, assert_complete, pace},
    routed::{alone, router, set},
    slug, stored, until,
    variants::Calls,
    worker::{Worker, embed, vector},
};
use async_nats::jetstream;
use embed_backfill::{self as backfill, Parameters};
use embed_client::{Client, PublishOptions};
use embed_connect::ConnectSettings;
use embed_control::route::Change;
use embed_schemas::{EmbedRequest, Lane, Outcome, Slug, Weights, streams};
use serde_json::{Value, json};

/// Users of one account, and accounts that import what is theirs.
const CONFIG: &str = r#"
accounts {
  EMBED {
    jetstream: enabled
    exports: [
      {service: "embed.job.m.*.c", accounts: [C]}
      {service: "$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.c.*", accounts: [C]}
    ]
    users: [
      {user: "all", password: "all"}
      {user: "a", password: "a", permissions: {
        publish: {allow: ["embed.job.m.*.a", "embed.bulk.m.*.a", "embed.remove.m.a", "$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.a.*"]}
        subscribe: {allow: ["_INBOX_a.>"]}}}
      {user: "b", password: "b", permissions: {
        publish: {allow: ["embed.job.m.*.b", "embed.bulk.m.*.b", "embed.remove.m.b", "$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.b.*"]}
        subscribe: {allow: ["_INBOX_b.>"]}}}
    ]
  }
  C {
    imports: [
      {service: {account: EMBED, subject: "embed.job.m._.c"}, to: "embed.job.m"}
      {service: {account: EMBED, subject: "embed.job.m.*.c"}}
      {service: {account: EMBED, subject: "$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.c.*"}}
    ]
    users: [ {user: "c", password: "c"} ]
  }
}
no_auth_user: "all"
"#;

async fn tenant(server: &Server, name: &str) -> Client {
    let settings = ConnectSettings {
        user: Some(name.into()),
        password: Some(name.into()),
        inbox_prefix: Some(format!("_INBOX_{name}")),
        ..server.settings()
    };
    Client::connect(&settings).await.unwrap()
}

fn job(id: &str, text: &str) -> EmbedRequest {
    EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new([text]) }
}

async fn publish(client: &Client, tenant: Option<&str>, job: EmbedRequest) -> Result<(), embed_client::Error> {
    let options = PublishOptions::default().tenant(tenant.map(slug)).timeout(PATIENCE);
    client.publish(&slug("m"), Lane::Job, job, &options).await.map(drop)
}

async fn result(client: &Client, tenant: Option<&Slug>, id: &str) -> Vec<f32> {
    let expected = client.expect_for(&slug("m"), tenant, id.parse().unwrap()).await.unwrap();
    let Outcome::Result(result) = expected.wait(PATIENCE).await.unwrap() else { panic!("no result") };
    result.vector(0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_its_own_results_under_its_own_permissions() {
    let server = Server::with(CONFIG);
    let all = server.provisioned().await;
    let _worker = Worker::jobs(&all, 1, Arc::new(|r| Some(embed(r))));
    let (a, b, c) = (tenant(&server, "a").await, tenant(&server, "b").await, tenant(&server, "c").await);
    // One id is another job for each, and for those of no tenant.
    publish(&a, Some("a"), job("same", "a")).await.unwrap();
    publish(&b, Some("b"), job("same", "bb")).await.unwrap();
    publish(&all, None, job("same", "dddd")).await.unwrap();
    // The server itself says whose it is: this client of NATS knows nothing of tenants.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", "of-c");
    let plain = job("same", "ccc");
    let payload = embed_schemas::Format::Json.encode(&plain);
    let request = async_nats::Request::new().payload(payload).headers(headers);
    c.nats().send_request("embed.job.m", request).await.unwrap();
    for (client, name, length) in [(&a, Some("a"), 1), (&b, Some("b"), 2), (&c, Some("c"), 3), (&all, None, 4)] {
        let found = result(client, name.map(slug).as_ref(), "same").await;
        assert_eq!(found, vector(&"x".repeat(length)), "{name:?}");
    }
    // Nobody publishes for another, or reads what is another's.
    let error = publish(&a, Some("b"), job("other", "x")).await.unwrap_err();
    assert_eq!(error.code(), "not_permitted", "{error}");
    let error = publish(&a, None, job("other", "x")).await.unwrap_err();
    assert_eq!(error.code(), "not_permitted", "{error}");
    for tenant in [Some(slug("a")), None] {
        let expected = b.expect_for(&slug("m"), tenant.as_ref(), "same".parse().unwrap()).await.unwrap();
        assert!(expected.stored().await.unwrap().is_none());
    }
    let other = c.expect_for(&slug("m"), Some(&slug("a")), "same".parse().unwrap()).await.unwrap();
    assert!(other.stored().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_know_tenants() {
    let server = Server::with(CONFIG);
    let all = server.provisioned().await;
    let _worker = Worker::jobs(&all, 1, Arc::new(|r| Some(embed(r))));
    let run = async |user: &str, arguments: &[&str]| {
        let url = server.url();
        let mut command = embed_command(&[&["-s", &url, "--user", user, "--inbox-prefix"], arguments].concat());
        command.env("NATS_PASSWORD", user).stdin(std::process::Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let publish = ["_INBOX_a", "publish", "-m", "m", "--allow-unserved", "--wait", "--timeout", "60s"];
    let answer = run("a", &[&publish[..], &["--tenant", "a", "--id", "one", "abc"]].concat()).await;
    assert_eq!(answer.status.code(), Some(0), "{}", stderr(&answer));
    let answer = run("a", &[&publish[..], &["--tenant", "b", "abc"]].concat()).await;
    assert!(answer.status.code() == Some(1) && stderr(&answer).contains("embed.job.m._.b"), "{}", stderr(&answer));
    let answer = run("a", &[&publish[..], &["--tenant", "A.b", "abc"]].concat()).await;
    assert!(answer.status.code() == Some(2) && stderr(&answer).contains("is not a slug"), "{}", stderr(&answer));
    let show = async |tenant: &[&str]| {
        let answer = run("all", &[&["_INBOX", "--json", "jobs", "-m", "m", "show", "one"][..], tenant].concat()).await;
        serde_json::from_str::<Value>(&stdout(&answer)).unwrap()["state"].clone()
    };
    assert_eq!((show(&["--tenant", "a"]).await, show(&["--tenant", "b"]).await), (json!("done"), json!("unknown")));
    assert_eq!(show(&[]).await, "unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_backfills() {
    let server = Server::with(CONFIG);
    let all = server.provisioned().await;
    let _worker = Worker::jobs(&all, 1, Arc::new(|r| Some(embed(r))));
    let client = tenant(&server, "a").await;
    let files = Files::new(40);
    let parameters = Parameters { tenant: Some(slug("a")), ..files.parameters(4) };
    let (pace, never) = (pace(), std::future::pending());
    let run = backfill::run(&client, parameters, &files.output, false, &pace, never, |_| {});
    assert_eq!(run.await.unwrap().stored, 40);
    assert_complete(&files, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_tenants_are_split_by_the_route_and_stay_theirs() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let to = Change::to(Weights::parse(&["a=50", "b=50"]).unwrap(), "test");
    set(&router, &slug("m"), &to).await;
    for n in 0..40 {
        publish(&client, Some("t"), job(&format!("j{n}"), "x")).await.unwrap();
    }
    let context = jetstream::new(client.nats().clone());
    let stream = streams::jobs_stream(&slug("m"));
    until("the jobs to be there", async || stored(&client, &stream).await == 40).await;
    let info: Value = context.request(format!("STREAM.INFO.{stream}"), &json!({"subjects_filter": ">"})).await.unwrap();
    let counts = info["state"]["subjects"].as_object().unwrap();
    let subjects: Vec<_> = counts.keys().map(String::as_str).collect();
    assert_eq!(subjects, ["embed.job.m.a.t", "embed.job.m.b.t"], "{counts:?}");
}
