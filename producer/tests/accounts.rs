//! Tenants with accounts of their own, and users that are JWTs: the same server, with other accounts included.

use std::{fs, time::Duration};

use crate::support::{
    PATIENCE,
    command::{output, stderr, stdout},
    configured::{Configured, Folder},
    people::{MODEL, succeeded},
    slug,
};
use async_nats::HeaderMap;
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_schemas::{Outcome, subjects};
use futures::StreamExt;
use serde_json::json;

/// How a tenant's program connects: in an account of its own, nothing keeps it from the usual inboxes.
fn tenant(server: &Configured, name: &str) -> ConnectSettings {
    ConnectSettings { inbox_prefix: None, ..server.settings(name) }
}

#[test]
fn tenants_call_and_store_jobs_and_hear_nothing_of_each_other() {
    let server = Folder::new().including("tenants.conf").start();
    server.run("init", "init");
    let _worker = server.worker(|command| server.connected("worker", command));
    for tenant in ["tenant_a", "tenant_b"] {
        assert_eq!(server.json(tenant, "ask --timeout 1m hello")[0]["variant"], "fp32");
        let stored = server.json(tenant, &format!("publish --wait --timeout 2m --id of-{tenant} hello"));
        assert_eq!(stored[0]["id"], format!("of-{tenant}"));
    }
    let unknown = server.embed("tenant_a", &["ask", "--model", "another", "x"]).output().unwrap();
    assert!(stderr(&unknown).contains(MODEL), "it is told what is served: {}", stderr(&unknown));
    let input = server.folder.file("in.jsonl");
    fs::write(&input, "{\"id\": 1, \"text\": \"a row\"}\n").unwrap();
    let arguments = ["backfill", "run", input.to_str().unwrap(), "out.jsonl", "--keep-results"];
    succeeded("backfill", server.embed("tenant_b", &arguments).output().unwrap());
    // A route is the servers' business, whoever calls.
    server.run("models", &format!("models serve {MODEL} canary --wait"));
    server.routed("routes", &format!("route set {MODEL} --all-to canary"));
    assert_eq!(server.json("tenant_a", "ask --timeout 1m hello")[0]["variant"], "canary");
    assert_eq!(server.json("tenant_b", "publish --wait --timeout 2m hello")[0]["variant"], "canary");

    tokio::runtime::Runtime::new().unwrap().block_on(tenants_keep_to_themselves(&server));
    server.run("init", "init --check");
}

async fn tenants_keep_to_themselves(server: &Configured) {
    let a = Client::connect(&tenant(server, "tenant_a")).await.unwrap();
    let b = Client::connect(&tenant(server, "tenant_b")).await.unwrap();
    // Whatever one publishes stays in its account, unless it is a call, a job, or a question for one result.
    let results = format!("EMBED_RESULTS_{MODEL}");
    let reply = a.nats().new_inbox();
    for subject in [
        format!("$JS.API.STREAM.PURGE.{results}"),
        format!("$JS.API.DIRECT.GET.{results}"),
        format!("$JS.API.STREAM.INFO.{results}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.EMBED_{MODEL}.fp32-job"),
        format!("embed.store.{MODEL}.forged"),
        format!("embed.result.{MODEL}.forged"),
        format!("embed.stats.{MODEL}.fp32"),
        format!("$KV.embed_routes.{MODEL}"),
        "embed.control.refresh".to_owned(),
    ] {
        match a.nats().request(subject.clone(), "{}".into()).await {
            // The tenant's account has no streams of its own.
            Ok(answer) => {
                assert!(answer.payload.windows(11).any(|part| part == b"not enabled"), "{subject}: {answer:?}");
            }
            Err(error) => assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders, "{subject}"),
        }
    }
    // Nor is anything heard: not calls, not jobs, not answers, though it may subscribe to what it likes.
    let mut spied = a.nats().subscribe(">").await.unwrap();
    let _workers =
        a.nats().queue_subscribe(format!("embed.rpc.{MODEL}"), subjects::RPC_QUEUE_GROUP.into()).await.unwrap();
    let _discovery = a.nats().subscribe("$SRV.INFO.embed-worker").await.unwrap();
    a.nats().publish("mark", "".into()).await.unwrap();
    assert_eq!(spied.next().await.unwrap().subject.as_str(), "mark");
    let request = json!({"texts": ["secret of b"]}).to_string();
    let answer = b.nats().request(format!("embed.rpc.{MODEL}"), request.clone().into()).await.unwrap();
    assert!(answer.payload.starts_with(b"{"), "{answer:?}");
    // A copy of a result that is sent to somebody else's inbox arrives nowhere.
    let mut header = HeaderMap::new();
    header.insert("Reply-To", reply.as_str());
    b.nats().publish_with_headers(format!("embed.job.{MODEL}"), header, request.into()).await.unwrap();
    server_has_done_it(&b).await;
    a.nats().publish("mark", "".into()).await.unwrap();
    let heard = spied.next().await.unwrap();
    assert_eq!(heard.subject.as_str(), "mark", "{heard:?}");
    // What the design does not prevent: who knows an id may read its result.
    let known = b.result(&slug(MODEL), &"of-tenant_a".parse().unwrap(), Duration::from_secs(60)).await.unwrap();
    assert!(matches!(known, Outcome::Result(_)));
}

/// A job that was stored later is done.
async fn server_has_done_it(client: &Client) {
    let request = embed_schemas::EmbedRequest::new(["x"]);
    let published = client.publish(&slug(MODEL), embed_schemas::Lane::Job, request, &Default::default()).await.unwrap();
    client.result(&slug(MODEL), &published[0].id, Duration::from_secs(120)).await.unwrap();
}

/// Workers that serve tenants in turn go by it.
#[tokio::test]
async fn calls_of_tenants_say_whose_they_are_and_no_tenant_can_say_otherwise() {
    let server = Folder::new().including("tenants.conf").start();
    let worker = Client::connect(&server.settings("worker")).await.unwrap();
    let subject = format!("embed.rpc.{MODEL}");
    let group = subjects::RPC_QUEUE_GROUP.to_owned();
    let mut calls = worker.nats().queue_subscribe(subject.clone(), group).await.unwrap();
    // A round trip: the subscription is known to the server.
    let mut back = worker.nats().subscribe("_INBOX.worker.back").await.unwrap();
    worker.nats().publish("_INBOX.worker.back", "".into()).await.unwrap();
    back.next().await.unwrap();
    let a = Client::connect(&tenant(&server, "tenant_a")).await.unwrap();
    let mut header = HeaderMap::new();
    header.insert("Nats-Request-Info", r#"{"acc":"TENANT_B"}"#);
    let inbox = a.nats().new_inbox();
    a.nats().publish_with_reply_and_headers(subject, inbox, header, "{}".into()).await.unwrap();
    let call = tokio::time::timeout(PATIENCE, calls.next()).await.unwrap().unwrap();
    let said: Vec<_> = call.headers.as_ref().unwrap().get_all("Nats-Request-Info").collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let said: serde_json::Value = serde_json::from_str(said[0].as_str()).unwrap();
    assert_eq!(said["acc"], "TENANT_A", "{said}");
    assert!(call.reply.unwrap().starts_with("_R_."));
}

#[test]
fn users_may_be_jwts_with_the_same_roles() {
    let folder = Folder::new();
    let jwts = folder.file("jwts");
    let write = |model: &str| {
        let arguments = ["init", "--write-jwts", jwts.to_str().unwrap(), "--model", model];
        succeeded("write", output(&arguments))
    };
    write("another");
    let before = fs::read_to_string(jwts.join("operator.seed")).unwrap();
    assert!(write(MODEL).contains("accounts.conf"));
    assert_eq!(fs::read_to_string(jwts.join("operator.seed")).unwrap(), before, "keys are used again");
    for name in ["operator.seed", "account.seed", "worker.creds", "accounts.conf"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = jwts.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let server = folder.including("jwts/accounts.conf").start();
    let creds = |user: &str| jwts.join(format!("{user}.creds")).to_str().unwrap().to_owned();
    let as_user = |user: &str, command: &mut std::process::Command| {
        let inbox = format!("_INBOX.{user}");
        command.args(["--server", &server.url, "--creds", &creds(user), "--inbox-prefix", &inbox, "--tlsca"]);
        command.arg(crate::support::configured::tls("ca.pem"));
    };
    let run = |user: &str, arguments: &[&str]| {
        let mut command = crate::support::command::embed(arguments);
        as_user(user, command.env("EMBED_REGISTRY", embed_testkit::registry()).env("HOME", &jwts));
        command.output().unwrap()
    };
    succeeded("init", run("init", &["init"]));
    let _worker = server.worker(|command| as_user("worker", command));
    succeeded("ask", run("caller", &["ask", "--timeout", "1m", "hello"]));
    succeeded("publish", run("producer", &["publish", "--wait", "--timeout", "2m", "hello"]));
    succeeded("serve", run("models", &["models", "serve", MODEL, "canary", "--wait"]));
    let seed = jwts.join("operator.seed");
    let routes = ["--sys-creds", &creds("routes-sys"), "--signing-seed-file", seed.to_str().unwrap()];
    let set = [&["route", "set", MODEL, "--all-to", "canary"], &routes[..]].concat();
    succeeded("route", run("routes", &set));
    let asked = run("caller", &["ask", "--json", "--timeout", "1m", "hello"]);
    assert!(stdout(&asked).contains("canary"), "{asked:?}");
    let denied = server.violations();
    let allowed = format!("$JS.API.STREAM.INFO.EMBED_RESULTS_{MODEL}");
    assert!(denied.iter().all(|line| line.ends_with(&allowed)), "{denied:?}");
    // And no more than that.
    let refused = run("caller", &["publish", "--allow-unserved", "--timeout", "5s", "hello"]);
    assert!(stderr(&refused).contains("does not permit"), "{}", stderr(&refused));
    let refused = run("producer", &["init"]);
    assert!(!refused.status.success() && stderr(&refused).contains("does not permit"), "{}", stderr(&refused));
    let stranger = ConnectSettings { inbox_prefix: None, ..server.nobody() };
    let entered = tokio::runtime::Runtime::new().unwrap().block_on(Client::connect(&stranger));
    assert!(entered.is_err());
}

#[test]
fn permissions_are_printed_for_whom_they_are_asked() {
    let printed = |arguments: &[&str]| stdout(&output(&[&["init", "--print-permissions"], arguments].concat()));
    let caller = printed(&["caller", "--model", "M 1", "--model", "m-2"]);
    assert!(
        caller.starts_with("permissions: {")
            && caller.contains("\"embed.rpc.m-1\"")
            && caller.contains("embed.rpc.m-2.*")
    );
    assert!(caller.contains("\"_INBOX.caller.>\""), "{caller}");
    let both = printed(&[
        "caller",
        "--print-permissions",
        "producer",
        "--model",
        "m",
        "--inbox-prefix",
        "_INBOX.me",
        "--json",
    ]);
    let both: serde_json::Value = serde_json::from_str(&both).unwrap();
    assert_eq!(both["subscribe"]["allow"], json!(["_INBOX.me.>"]));
    let may = |subject: &str| both["publish"]["allow"].as_array().unwrap().contains(&subject.into());
    assert!(may("embed.rpc.m") && may("embed.job.m") && !may("embed.bulk.m"), "{both}");
    let domain = printed(&["caller", "--model", "m", "--js-domain", "hub"]);
    assert!(domain.contains("\"$JS.hub.API.STREAM.INFO.EMBED_m\"") && !domain.contains("$JS.API"), "{domain}");
    let file = embed_testkit::repository().join("deploy/nats");
    assert_eq!(printed(&["all", "--model", MODEL]), fs::read_to_string(file.join("roles.conf")).unwrap());
    let tenants = printed(&["all", "--model", MODEL, "--tenant", "TENANT_A", "--tenant", "TENANT_B"]);
    assert_eq!(tenants, fs::read_to_string(file.join("tenants.conf")).unwrap());
    for (wrong, said) in [
        (&["nobody", "--model", "m"][..], "there is no role \"nobody\""),
        (&["caller"], "--model"),
        (&["all", "--model", "m", "--tenant", "a b"], "TENANT_A"),
        (&["caller", "--model", "m", "--inbox-prefix", "a.*"], "--inbox-prefix"),
    ] {
        let output = output(&[&["init", "--print-permissions"], wrong].concat());
        assert!(!output.status.success() && stderr(&output).contains(said), "{wrong:?}: {}", stderr(&output));
    }
}
