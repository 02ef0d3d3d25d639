//! Every way to say where the server is and who we are, as a user of natscli knows them; and that no secret is shown.

use std::{net::TcpListener, path::Path, process::Output};

use crate::support::{
    PATIENCE, Server,
    command::{stderr, stdout},
    jwt::{account, configuration, sign},
    routed::{ACCOUNTS, Node, command, provision as provision_m, router, set},
    slug, until,
    variants::Calls,
};
use embed_client::{CallOptions, Client, Error, PublishOptions};
use embed_connect::ConnectSettings;
use embed_control::{
    models::{self, Serve},
    provision::{self, ModelVariants},
    route::Change,
};
use embed_schemas::{EmbedRequest, Lane, Weights, serving::DesiredVariant, streams::StreamSettings};
use embed_testkit::{Daemon, registry, repository, sibling_binary};
use nkeys::KeyPair;
use serde_json::json;

const SECRET: &str = "s3cret-of-the-test";

fn written(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Whether these settings get in, and the message if not.
async fn enters(settings: ConnectSettings) -> Result<(), String> {
    let connected = Client::connect(&settings).await;
    connected.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn passwords_keys_and_tokens_may_stand_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
    let server = Server::with(&format!(
        "authorization {{ users: [ {{user: me, password: {SECRET:?}}}, {{nkey: {}}} ] }}",
        key.public_key()
    ));
    let password = |text: &str| ConnectSettings {
        user: Some("me".into()),
        password_file: Some(written(folder.path(), "password", text)),
        ..server.settings()
    };
    enters(password(&format!("{SECRET}\n"))).await.unwrap();
    assert!(enters(password("wrong")).await.unwrap_err().contains("refuses the connection"));
    let nkey = |key: &KeyPair| ConnectSettings {
        nkey: Some(written(folder.path(), "seed", &key.seed().unwrap())),
        ..server.settings()
    };
    enters(nkey(&key)).await.unwrap();
    enters(nkey(&other)).await.unwrap_err();

    let server = Server::with(&format!("authorization {{ token: {SECRET:?} }}"));
    let token_file = Some(written(folder.path(), "token", SECRET));
    enters(ConnectSettings { token_file, ..server.settings() }).await.unwrap();
    enters(ConnectSettings { token: Some(SECRET.into()), ..server.settings() }).await.unwrap();
    enters(server.settings()).await.unwrap_err();
}

#[tokio::test]
async fn a_users_jwt_goes_with_a_seed_or_is_a_bearers() {
    let (operator, system, app) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let node = Node::start(
        "n1",
        &configuration(
            &sign(&operator, &operator, "operator", json!({"type": "operator", "version": 2})),
            (&system, &account(&operator, &system, "SYS", false)),
            (&app, &account(&operator, &app, "APP", true)),
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let user = KeyPair::new_user();
    let claims = |bearer: bool| {
        let claims = json!({
            "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}, "bearer_token": bearer,
        });
        sign(&app, &user, "user", claims)
    };
    let with = |bearer: bool, seed: bool| ConnectSettings {
        user_jwt_file: Some(written(folder.path(), "jwt", &claims(bearer))),
        nkey: seed.then(|| written(folder.path(), "seed", &user.seed().unwrap())),
        ..node.connect()
    };
    enters(with(false, true)).await.unwrap();
    enters(with(true, false)).await.unwrap();
    enters(with(false, false)).await.unwrap_err();
    // As they stand in a context.
    let (user_jwt, user_seed) = (Some(claims(false)), Some(user.seed().unwrap()));
    enters(ConnectSettings { user_jwt, user_seed, ..node.connect() }).await.unwrap();
}

/// The certificates in `tests/support/tls` are for `localhost` and 127.0.0.1, for a hundred years, and trusted by nobody else.
#[tokio::test]
async fn tls_may_come_first() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls");
    let node = Node::start(
        "n1",
        &format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, handshake_first: true }}",
            files.join("server.pem"),
            files.join("server-key.pem")
        ),
    );
    let server = Some(node.url.replace("nats://", "tls://"));
    let settings = ConnectSettings { server, tlsca: Some(files.join("ca.pem")), ..ConnectSettings::default() };
    enters(ConnectSettings { tlsfirst: true, ..settings.clone() }).await.unwrap();
    // Without it, both wait for the other to begin.
    enters(settings).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_selected_context_is_the_default() {
    let server = Server::with(&format!("authorization {{ users: [ {{user: me, password: {SECRET:?}}} ] }}"));
    let folder = tempfile::tempdir().unwrap();
    let contexts = folder.path().join("nats/context");
    std::fs::create_dir_all(&contexts).unwrap();
    let file = written(folder.path(), "password", SECRET);
    let context = json!({"url": server.url(), "user": "me", "password": format!("file://{}", file.display())});
    written(&contexts, "mine.json", &context.to_string());
    written(&contexts, "proxied.json", &json!({"url": server.url(), "socks_proxy": "socks5://h"}).to_string());
    written(&folder.path().join("nats"), "context.txt", "mine");
    let ask = async |arguments: &[&str]| -> Output {
        let mut command =
            crate::support::command::embed(&[&["ask", "--model", "m", "--timeout", "20s", "x"], arguments].concat());
        command.env("XDG_CONFIG_HOME", folder.path()).env("RUST_LOG", "info").current_dir("/");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let answer = ask(&[]).await;
    assert!(stderr(&answer).contains("no worker serves"), "it got in: {answer:?}");
    assert!(stderr(&answer).contains("the context that is selected, mine"), "and says how: {answer:?}");
    let answer = ask(&["--context", "proxied"]).await;
    assert!(stderr(&answer).contains("socks_proxy"), "{answer:?}");
    // A server that is named is that server, and nothing else.
    let answer = ask(&["-s", &server.url()]).await;
    assert!(stderr(&answer).contains("refuses the connection"), "{answer:?}");
    assert!(!stderr(&answer).contains(SECRET), "{answer:?}");
}

#[test]
fn no_secret_is_shown() {
    let shown = |mut command: std::process::Command| {
        for (name, value) in [
            ("NATS_URL", format!("nats://me:{SECRET}@127.0.0.1:1")),
            ("NATS_USER", "me".to_owned()),
            ("NATS_PASSWORD", SECRET.to_owned()),
            ("NATS_TOKEN", SECRET.to_owned()),
            ("EMBED_SYS_PASSWORD", SECRET.to_owned()),
            ("EMBED_ROUTE_SIGNING_SEED", SECRET.to_owned()),
            ("EMBED_REGISTRY", format!("s3://key:{SECRET}@bucket/prefix?sig={SECRET}")),
        ] {
            command.env(name, value);
        }
        let answer = command.output().unwrap();
        let text = format!("{}{}", stdout(&answer), stderr(&answer));
        assert!(!text.contains(SECRET), "{command:?}: {text}");
        text
    };
    let binary = |name: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(sibling_binary(name));
        command.args(arguments);
        command
    };
    for arguments in [&["--help"][..], &["ask", "--help"], &["route", "set", "--help"], &["rollout", "start", "--help"]]
    {
        assert!(shown(binary("embed", arguments)).contains("--password-file"), "{arguments:?}");
    }
    assert!(shown(binary("embed-worker", &["run", "--help"])).contains("--nkey"));
    assert!(shown(binary("embed-loadtest", &["run", "--help"])).contains("--token-file"));
    for (name, arguments) in [
        ("embed", &["init", "--help"][..]),
        ("embed", &["dev", "--help"]),
        ("embed-worker", &["run", "--help"]),
        ("embed-worker", &["models", "list", "--help"]),
        ("embed-loadtest", &["accept", "--help"]),
        ("embed-loadtest", &["bench", "--help"]),
    ] {
        assert!(shown(binary(name, arguments)).contains("EMBED_REGISTRY"), "{arguments:?}");
    }
    // Nor in errors, nor in a configuration that is printed.
    for (name, arguments) in [
        ("embed-worker", &["run", "--metrics-addr=127.0.0.1:0"][..]),
        ("embed-worker", &["check"]),
        ("embed-worker", &["models", "list"]),
        ("embed", &["init"]),
        ("embed", &["dev", "--port=0"]),
    ] {
        let mut command = binary(name, arguments);
        // A stack of its own, and no server of the environment's.
        let folder = tempfile::tempdir().unwrap();
        command.current_dir(folder.path()).env("RUST_LOG", "info");
        let text = shown(command);
        assert!(text.contains("s3://***@bucket/prefix?***: there are credentials"), "{arguments:?}: {text}");
    }
    assert!(
        shown(binary("embed-worker", &["run", "--print-config"])).contains("registry = \"s3://***@bucket/prefix?***\"")
    );
    assert!(shown(binary("embed", &["ask", "x"])).contains("127.0.0.1:1"));
    let printed =
        shown(binary("embed-worker", &["run", "--print-config", "--registry", "/r", "--inbox-prefix", "_MINE"]));
    assert!(printed.contains("server = \"nats://127.0.0.1:1\"") && printed.contains("token = \"***\""), "{printed}");
    assert!(printed.contains("inbox_prefix = \"_MINE\""), "{printed}");
}

#[test]
fn a_password_that_looks_like_a_number_gets_in() {
    // Not 73737, nor 7e3.
    for password in ["0073737", "7e3"] {
        let server = Server::with(&format!("authorization {{ users: [ {{user: \"42\", password: {password:?}}} ] }}"));
        let worker = || {
            let mut command = std::process::Command::new(sibling_binary("embed-worker"));
            command.args(["run", "--metrics-addr=127.0.0.1:0", "--server", &server.url()]);
            command.env("EMBED_REGISTRY", registry()).env("EMBED_WORKER__NATS__USER", "42");
            command.env("EMBED_WORKER__NATS__PASSWORD", password);
            command
        };
        let printed = worker().arg("--print-config").output().unwrap();
        assert!(stdout(&printed).contains("password = \"***\""), "{}", stderr(&printed));
        assert!(stdout(&printed).contains("user = \"42\"") && !stdout(&printed).contains(password));
        let mut worker = Daemon::spawn(&mut worker());
        worker.wait_for_log("connected to NATS");
        assert!(!worker.log().contains(password), "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_permitted_is_said_at_once() {
    let limited = r#"users: [ {user: lim, password: lim, permissions: {
        publish: {allow: ["embed.rpc.m", "embed.job.m", "$JS.API.STREAM.INFO.EMBED_m", "$SRV.INFO.embed-worker"]},
        subscribe: {allow: ["_MINE.>"]}
    }}, {user: granted, password: lim, permissions: {
        publish: {allow: ["embed.rpc.m", "embed.rpc.m.*", "embed.job.m", "embed.job.m.*", "$JS.API.STREAM.INFO.*", "$SRV.INFO.embed-worker"]},
        subscribe: {allow: ["_MINE.>"]}
    }}, "#;
    let nodes = [Node::start("n1", &ACCOUNTS.replacen("users: [", limited, 1))];
    let client = nodes[0].client().await;
    provision_m(&client, &["a", "b"], 1).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let user = |inbox: Option<&str>| ConnectSettings {
        user: Some("lim".into()),
        password: Some("lim".into()),
        inbox_prefix: inbox.map(str::to_owned),
        ..nodes[0].connect()
    };
    let ask = async |client: &Client| {
        let options = CallOptions::default().timeout(PATIENCE);
        client.embed(&slug("m"), EmbedRequest::new(["x"]), &options).await
    };
    let limited = Client::connect(&user(Some("_MINE"))).await.unwrap();
    ask(&limited).await.unwrap();
    let began = std::time::Instant::now();
    let error = ask(&Client::connect(&user(None)).await.unwrap()).await.unwrap_err();
    assert!(error.code() == "not_permitted" && error.to_string().contains("--inbox-prefix"), "{error}");

    // A route maps what it may publish to what it may not.
    let mut set = command(&nodes, &["set", "m", "a=50", "b=50"]);
    let answer = tokio::task::spawn_blocking(move || set.output().unwrap()).await.unwrap();
    assert!(answer.status.success() && stderr(&answer).contains("Allow embed.<lane>.m.*"), "{answer:?}");
    let error = ask(&limited).await.unwrap_err();
    assert!(matches!(error, Error::NotPermitted { .. }) && !error.retryable(), "{error:?}");
    assert!(error.to_string().contains("allow embed.rpc.m.* as well"), "{error}");
    let options = PublishOptions::default().timeout(PATIENCE);
    let error = limited.publish(&slug("m"), Lane::Job, EmbedRequest::new(["x"]), &options).await.unwrap_err();
    assert!(error.to_string().contains("allow embed.job.m.* as well"), "{error}");
    assert!(began.elapsed() < PATIENCE, "nobody waits for a time-out");
    // What the README grants is enough, whatever a route does.
    let granted = ConnectSettings { user: Some("granted".into()), ..user(Some("_MINE")) };
    let granted = Client::connect(&granted).await.unwrap();
    ask(&granted).await.unwrap();
    granted.publish(&slug("m"), Lane::Job, EmbedRequest::new(["x"]), &options).await.unwrap();
    // A route that leads to the same variants is no news.
    let mut set = command(&nodes, &["set", "m", "a=40", "b=60"]);
    let answer = tokio::task::spawn_blocking(move || set.output().unwrap()).await.unwrap();
    assert!(!stderr(&answer).contains("Allow"), "{answer:?}");
}

/// A domain is kept to only if everything asks where JetStream is.
#[test]
fn nothing_takes_jetstream_to_be_where_it_is_by_default() {
    let mut folders: Vec<_> =
        ["worker/src", "producer", "loadtest/src"].into_iter().map(|folder| repository().join(folder)).collect();
    let (mut files, mut wrong) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            // Permissions name subjects as they are by default, and are made for others on demand; hostile messages name what does harm.
            let others = ["tests", "control/src/permissions", "chaos/hostile"];
            if path.is_dir() && !others.iter().any(|other| path.ends_with(other)) {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
                let bad = code.filter(|line| line.contains("\"$JS.API") || line.contains("jetstream::new("));
                wrong.extend(bad.map(|line| format!("{}: {line}", path.display())));
            }
        }
    }
    assert!(files > 100, "{files} files were looked at");
    assert!(wrong.is_empty(), "use `embed_connect::api_subject` and `embed_connect::jetstream`: {wrong:#?}");
}

/// Two servers with a JetStream of their own, and a connection to the leaf that uses the hub's.
async fn domains() -> (Node, Node, Client) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let jetstream = |domain: &str| format!("jetstream {{ store_dir: \"@FOLDER@/store\", domain: {domain} }}");
    let hub =
        Node::start("hub", &format!("{ACCOUNTS}\n{}\nleafnodes {{ listen: \"127.0.0.1:{port}\" }}", jetstream("hub")));
    let leaf = Node::start(
        "leaf",
        &format!("{}\nleafnodes {{ remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\" }} ] }}", jetstream("leaf")),
    );
    let from_leaf = ConnectSettings { js_domain: Some("hub".into()), ..leaf.connect() };
    let client = Client::connect(&from_leaf).await.unwrap();
    until("the leaf to know the hub", async || client.nats().request("$JS.hub.API.INFO", "".into()).await.is_ok())
        .await;
    (hub, leaf, client)
}

/// Messages of a stream of the server's own JetStream; nothing if it has no such stream.
async fn stored(client: &Client, stream: &str) -> Option<u64> {
    let answer = client.nats().request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["state"]["messages"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_keeps_to_its_domain() {
    let (hub, leaf, client) = domains().await;
    let model = ModelVariants { model: slug("all-minilm-l6-v2"), variants: vec![slug("v")] };
    provision::apply(client.nats(), std::slice::from_ref(&model), &StreamSettings::default()).await.unwrap();
    let mut worker = std::process::Command::new(sibling_binary("embed-worker"));
    worker.args(["run", "--variant", "all-minilm-l6-v2=v", "--js-domain", "hub", "--metrics-addr", "127.0.0.1:0"]);
    worker.arg("--registry").arg(registry()).arg("--server").arg(&leaf.url);
    let _worker = Daemon::spawn(&mut worker);
    let request = EmbedRequest::new(["a job that is stored at the hub"]);
    client.publish(&model.model, Lane::Job, request, &PublishOptions::default()).await.unwrap();
    let at_hub = hub.client().await;
    until("its result", async || stored(&at_hub, "EMBED_RESULTS_all-minilm-l6-v2").await == Some(1)).await;
    until("it to be done", async || stored(&at_hub, "EMBED_all-minilm-l6-v2").await == Some(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jetstream_domain_is_kept_to() {
    let (hub, leaf, client) = domains().await;
    provision_m(&client, &["a", "b"], 1).await;
    let at_hub = hub.client().await;
    assert_eq!(stored(&at_hub, "EMBED_m").await, Some(0));
    let at_leaf = leaf.client().await;
    assert_eq!(stored(&at_leaf, "EMBED_m").await, None, "the leaf's own JetStream has nothing");

    // Jobs, and the entries of buckets.
    client.publish(&slug("m"), Lane::Job, EmbedRequest::new(["x"]), &PublishOptions::default()).await.unwrap();
    assert_eq!(stored(&at_hub, "EMBED_m").await, Some(1));
    let desired: DesiredVariant = serde_json::from_value(json!({})).unwrap();
    models::serve(&client, &Serve { model: slug("m"), variant: slug("b"), desired }).await.unwrap();
    assert_eq!(stored(&at_hub, "KV_embed_models").await, Some(1));
    assert_eq!(models::desired(&client).await.unwrap().len(), 1);

    // Routes are written in the domain, too, and set on the servers of the account.
    let _calls = Calls::serve(&at_hub, &[("a", "s"), ("b", "s")]).await;
    let nodes = [hub];
    let router = router(&at_hub, &nodes).await;
    set(&router, &slug("m"), &Change::to(Weights::parse(&["a=50", "b=50"]).unwrap(), "test")).await;
    let written = embed_control::route::written(&client).await.unwrap();
    assert_eq!(written[&slug("m")].record.who, "test");
}
