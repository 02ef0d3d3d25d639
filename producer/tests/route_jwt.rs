//! Routes where accounts are JWTs: the account's claims are changed, and no file.

mod support;

use std::path::Path;

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::route::{Change, Claims, RouteSettings, Router};
use embed_schemas::{EmbedRequest, Weights, routes::describe};
use nkeys::KeyPair;
use serde_json::{Value, json};
use support::{
    routed::{Node, provision},
    slug,
    variants::Calls,
};

fn sign(key: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let claims = json!({"sub": subject.public_key(), "name": name, "nats": nats});
    Claims::new(claims).unwrap().encode(key, 1_700_000_000).unwrap()
}

fn account(operator: &KeyPair, account: &KeyPair, name: &str, jetstream: bool) -> String {
    let storage = if jetstream { -1 } else { 0 };
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
    });
    // A mapping of somebody else's, and a field that this program has never heard of.
    let mappings = json!({"theirs": [{"subject": "theirs.mapped", "weight": 100}]});
    sign(
        operator,
        account,
        name,
        json!({
            "type": "account", "version": 2, "limits": limits, "mappings": mappings, "unheard_of": {"x": 1},
        }),
    )
}

/// A credentials file.
fn user(folder: &Path, account: &KeyPair, name: &str) -> std::path::PathBuf {
    let user = KeyPair::new_user();
    let limits = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let token = sign(account, &user, name, limits);
    let path = folder.join(format!("{name}.creds"));
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_changed_and_nothing_else_of_them() {
    let (operator, system, app) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let signing = KeyPair::new_operator();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(
        "n1",
        &format!(
            "operator: {}\nsystem_account: {}\nresolver {{ type: full, dir: {:?} }}\nresolver_preload {{ {}: {}\n{}: {} }}",
            sign(
                &operator,
                &operator,
                "operator",
                json!({"type": "operator", "version": 2, "signing_keys": [signing.public_key()]})
            ),
            system.public_key(),
            folder.path().join("jwt"),
            system.public_key(),
            account(&operator, &system, "SYS", false),
            app.public_key(),
            account(&operator, &app, "APP", true),
        ),
    );
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
    let applied = router.set(&slug("m"), &change).await.unwrap();
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
    assert_eq!(now["nats"]["mappings"].as_object().unwrap().len(), 4);

    router.set(&slug("m"), &Change::all_to(slug("a"), "test")).await.unwrap();
    let report = router.actual().await.unwrap();
    assert_eq!(describe(&report.servers[0].holds[&slug("m")]), "a=100");
    router.set(&slug("m"), &Change::clear("test")).await.unwrap();
    assert_eq!(claims().await["nats"]["mappings"].as_object().unwrap().len(), 1);
    assert!(router.actual().await.unwrap().is_as_wanted());
}
