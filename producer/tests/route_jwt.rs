//! Routes where accounts are JWTs: the account's claims are changed, and no file.

use std::time::Duration;

use crate::support::{
    jwt::{account, configuration, sign, user},
    routed::{Node, clustered, led_by_another, provision, set},
    slug, until,
    variants::Calls,
};
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::route::{Change, Claims, Entry, Outcome, RouteSettings, Router};
use embed_schemas::{EmbedRequest, Weights, routes::describe};
use nkeys::KeyPair;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_changed_and_nothing_else_of_them() {
    let (operator, system, app) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let signing = KeyPair::new_operator();
    let folder = tempfile::tempdir().unwrap();
    let trusted = json!({"type": "operator", "version": 2, "signing_keys": [signing.public_key()]});
    let configuration = configuration(
        &sign(&operator, &operator, "operator", trusted),
        (&system, &account(&operator, &system, "SYS", false)),
        (&app, &account(&operator, &app, "APP", true)),
    );
    let node = Node::start("n1", &configuration);
    let creds = user(folder.path(), &app, "app");
    let connect = ConnectSettings { creds: Some(creds.clone()), ..node.connect() };
    let client = Client::connect(&connect).await.unwrap();
    provision(&client, &["a", "b"], 1).await;
    let calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;

    let sys_creds = Some(user(folder.path(), &system, "sys"));
    let reading = RouteSettings { sys_creds, ..RouteSettings::default() };
    let router = Router::connect(&client, &connect, &reading).await.unwrap();
    let change = Change::to(Weights::parse(&["a=5", "b=95"]).unwrap(), "test");
    let error = router.set(&slug("m"), &change).await.unwrap_err().to_string();
    assert!(error.contains("--signing-seed-file"), "{error}");
    let wrong = RouteSettings { signing_seed: Some(app.seed().unwrap()), ..reading.clone() };
    let error = Router::connect(&client, &connect, &wrong).await.unwrap_err().to_string();
    assert!(error.contains("that of the operator"), "{error}");
    // Somebody else's operator: a server would store such claims, and drop the account at its next start.
    let other = RouteSettings { signing_seed: Some(KeyPair::new_operator().seed().unwrap()), ..reading.clone() };
    let router = Router::connect(&client, &connect, &other).await.unwrap();
    let error = router.set(&slug("m"), &change).await.unwrap_err().to_string();
    assert!(error.contains("does not trust") && error.contains(&operator.public_key()), "{error}");
    assert!(router.history(&slug("m")).await.unwrap().is_empty(), "nothing was written down");

    let seed = folder.path().join("operator.seed");
    std::fs::write(&seed, signing.seed().unwrap()).unwrap();
    let settings = RouteSettings { signing_seed_file: Some(seed), ..reading };
    let router = Router::connect(&client, &connect, &settings).await.unwrap();
    let applied = set(&router, &slug("m"), &change).await;
    eprintln!("by claims: {:?}", applied.took);
    for _ in 0..100 {
        client.embed(&slug("m"), EmbedRequest::new(["x"]), &Default::default()).await.unwrap();
    }
    assert!(calls.of("b") > 50 && calls.of("a") + calls.of("b") == 100);
    let claims = async || {
        let options = async_nats::ConnectOptions::with_credentials_file(settings.sys_creds.clone().unwrap()).await;
        let client = options.unwrap().connect(&node.url).await.unwrap();
        let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", app.public_key());
        let token = client.request(subject, "".into()).await.unwrap().payload;
        let token = String::from_utf8(token.to_vec()).unwrap();
        let body = token.split('.').nth(1).unwrap().to_owned();
        serde_json::from_slice::<Value>(&data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap()
    };
    let now = claims().await;
    assert_eq!(now["nats"]["unheard_of"]["x"], 1);
    assert_eq!(now["nats"]["mappings"]["theirs"][0]["subject"], "theirs.mapped");
    // Theirs, one for each lane, and one for the jobs of tenants in each that has any.
    assert_eq!(now["nats"]["mappings"].as_object().unwrap().len(), 6);

    let back = Change::all_to(slug("a"), "test");
    match router.set(&slug("m"), &back).await.unwrap() {
        Outcome::Applied(_) => {}
        // The bucket has a second, and this machine may be busy.
        Outcome::Unwritten { applied, .. } => {
            let end = router.reconcile(&slug("m"), &back, &applied, Duration::from_secs(20)).await.unwrap();
            assert!(matches!(end, Outcome::Applied(_)), "{end}");
        }
        end => panic!("{end}"),
    }
    // Nor may the end have been written down in time.
    drop(router.sync(false, "test", &[]).await.unwrap());
    let report = router.actual().await.unwrap();
    assert_eq!(describe(&report.servers[0].holds[&slug("m")]), "a=100");
    set(&router, &slug("m"), &Change::clear("test")).await;
    assert_eq!(claims().await["nats"]["mappings"].as_object().unwrap().len(), 1);
    assert!(router.actual().await.unwrap().is_as_wanted());

    // Who may publish where nothing is mapped to alone is named: it would see time-outs.
    let narrow = KeyPair::new_user();
    let permissions = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "pub": {"allow": ["embed.rpc.m"]}, "sub": {},
    });
    let token = sign(&app, &narrow, "narrow", permissions);
    let files = ["jwt", "seed"].map(|name| folder.path().join(format!("narrow.{name}")));
    std::fs::write(&files[0], token).unwrap();
    std::fs::write(&files[1], narrow.seed().unwrap()).unwrap();
    let [jwt, seed] = files;
    let connect = ConnectSettings { user_jwt_file: Some(jwt), nkey: Some(seed), ..node.connect() };
    let _narrow = Client::connect(&connect).await.unwrap();
    let pinned = ["embed.rpc.m.a".to_owned()];
    let lacking = router.lacking(&pinned).await;
    assert!(matches!(lacking.as_slice(), [one] if one.contains("embed")), "{lacking:?}");
    assert!(router.lacking(&["embed.rpc.m".to_owned()]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_claims_count_and_every_server_gets_them() {
    let (operator, system, app) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = clustered(&configuration(
        &sign(&operator, &operator, "operator", json!({"type": "operator", "version": 2})),
        (&system, &account(&operator, &system, "SYS", false)),
        (&app, &account(&operator, &app, "APP", true)),
    ));
    let creds = Some(user(folder.path(), &app, "app"));
    let connect = ConnectSettings { creds, ..nodes[0].connect() };
    let client = Client::connect(&connect).await.unwrap();
    // What is asked before there is a leader is not answered later.
    let answers = async || {
        let asked = client.nats().request("$JS.API.INFO", "".into());
        tokio::time::timeout(std::time::Duration::from_millis(300), asked).await.is_ok_and(|answer| answer.is_ok())
    };
    until("JetStream", answers).await;
    provision(&client, &["a", "b"], 3).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let seed = folder.path().join("operator.seed");
    std::fs::write(&seed, operator.seed().unwrap()).unwrap();
    let sys_creds = Some(user(folder.path(), &system, "sys"));
    let settings = RouteSettings { sys_creds, signing_seed_file: Some(seed), ..RouteSettings::default() };
    let router = Router::connect(&client, &connect, &settings).await.unwrap();
    let m = slug("m");
    let to = |shares: &[&str]| Change::to(Weights::parse(shares).unwrap(), "test");
    let all_hold = async |expected: &str| {
        let report = router.actual().await.unwrap();
        assert_eq!(report.servers.len(), 3, "{report:?}");
        report.servers.iter().all(|server| server.holds.get(&m).is_some_and(|held| describe(held) == expected))
    };
    set(&router, &m, &to(&["a=5", "b=95"])).await;
    assert!(all_hold("b=95 a=5").await);

    // One that was away knows the old ones. That the first to answer has the right ones is not enough.
    let context = async_nats::jetstream::new(client.nats().clone());
    let info: Value = context.request("STREAM.INFO.KV_embed_routes", &json!({})).await.unwrap();
    let away = (1..3).find(|i| info["cluster"]["leader"] != nodes[*i].name).unwrap();
    nodes[away].kill();
    set(&router, &m, &to(&["a=50", "b=50"])).await;
    nodes[away].restart();
    until("it to catch up", async || {
        let synced = router.sync(false, "test", &[]).await;
        synced.is_ok_and(|report| report.servers.len() == 3 && report.is_as_wanted())
    })
    .await;
    assert!(all_hold("a=50 b=50").await);

    // One that was away has newer ones than the others: of somebody who could reach nobody else.
    let file = nodes[away].folder.path().join(format!("jwt/{}.jwt", app.public_key()));
    nodes[away].kill();
    let body = std::fs::read_to_string(&file).unwrap().split('.').nth(1).unwrap().to_owned();
    let mut claims: Value =
        serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap();
    claims["nats"]["unheard_of"]["x"] = 2.into();
    let later = claims["iat"].as_u64().unwrap() + 1_000;
    std::fs::write(&file, Claims::new(claims).unwrap().encode(&operator, later).unwrap()).unwrap();
    nodes[away].restart();
    until("it to be back", async || {
        router.actual().await.is_ok_and(|report| report.servers.iter().all(|server| server.id.is_some()))
    })
    .await;
    set(&router, &m, &to(&["a=10", "b=90"])).await;
    assert!(all_hold("b=90 a=10").await);
    for node in &nodes {
        let file = node.folder.path().join(format!("jwt/{}.jwt", app.public_key()));
        let body = std::fs::read_to_string(file).unwrap().split('.').nth(1).unwrap().to_owned();
        let claims: Value =
            serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap();
        assert_eq!(claims["nats"]["unheard_of"]["x"], 2, "{}", node.name);
    }

    // An emergency without a quorum: the claims themselves carry what cannot be written down.
    led_by_another(&client, &nodes).await;
    nodes[1..].iter().for_each(|node| node.signal(libc::SIGSTOP));
    let end = router.set(&m, &Change::all_to(slug("a"), "me")).await.unwrap();
    assert_eq!(end.code(), "unwritten", "{end}");
    let held = router.held().await.unwrap();
    let first = held.iter().find(|server| server.name == nodes[0].name).unwrap();
    assert_eq!(describe(&first.holds[&m]), "a=100");
    nodes[1..].iter().for_each(|node| node.signal(libc::SIGCONT));
    until("it to be written down", async || {
        let synced = router.sync(false, "test", &[]).await;
        synced.is_ok_and(|report| report.servers.len() == 3 && report.is_as_wanted())
    })
    .await;
    assert!(all_hold("a=100").await);
    assert_eq!(router.current(&m).await.unwrap().1.unwrap().who, "me");

    // One that is taken back: others keep their routes, it is on record, and whoever goes on trying to write it down is told.
    let other = Change { lanes: vec![embed_schemas::Lane::Rpc], force: true, ..to(&["x=30", "y=70"]) };
    set(&router, &slug("other"), &other).await;
    led_by_another(&client, &nodes).await;
    nodes[1..].iter().for_each(|node| node.signal(libc::SIGSTOP));
    let emergency = Change::all_to(slug("b"), "me");
    let fenced = Change { only_after: Some(1), ..emergency.clone() };
    assert_eq!(router.set(&m, &fenced).await.unwrap_err().code(), "system_account", "nobody knows whether it is so");
    let end = router.set(&m, &emergency).await.unwrap();
    let Outcome::Unwritten { applied, .. } = end else { panic!("{end}") };
    let held = router.held().await.unwrap();
    let first = held.iter().find(|server| server.name == nodes[0].name).unwrap();
    assert_eq!(describe(&first.holds[&m]), "b=100");
    assert_eq!(describe(&first.holds[&slug("other")]), "rpc: y=70 x=30");
    nodes[1..].iter().for_each(|node| node.signal(libc::SIGCONT));
    until("it to be taken back", async || {
        let synced = router.sync(true, "undoer", &[]).await;
        synced.is_ok_and(|report| report.servers.len() == 3 && report.is_as_wanted())
    })
    .await;
    assert!(all_hold("a=100").await);
    let now = router.current(&m).await.unwrap().1.unwrap();
    assert_eq!((describe(&now.lanes), now.who.as_str()), ("a=100".to_owned(), "undoer"));
    let history = router.history(&m).await.unwrap();
    let told = |entry: &Entry| entry.record.problem.as_ref().is_some_and(|problem| problem.contains("b=100, by me at"));
    assert!(history.iter().any(told), "{history:?}");
    let end = router.reconcile(&m, &emergency, &applied, Duration::from_secs(20)).await.unwrap();
    assert_eq!(end.code(), "superseded", "{end}");
}
