//! `embed status`: what it says where little is to be seen, and the page as it is served. The page itself is opened in deploy/tests.

use std::collections::BTreeSet;

use crate::support::{
    Server,
    command::{embed, output, run, stderr, stdout},
    configured::Folder,
    people::{MODEL, succeeded},
    slug, until,
};
use embed_testkit::{Daemon, NatsServer};
use futures::{FutureExt, StreamExt};
use reqwest::{Client as Http, StatusCode, header};
use serde_json::Value;

/// `embed status --serve`, and its address.
fn serve(server: &NatsServer) -> (Daemon, String) {
    let daemon = Daemon::spawn(&mut embed(&["--json", "-s", &server.url(), "status", "--serve=127.0.0.1:0"]));
    let url = daemon.json_line()["url"].as_str().unwrap().to_owned();
    (daemon, url)
}

fn http() -> Http {
    // One of us may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Http::builder().no_proxy().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_nothing_on_it_is_told_as_it_is() {
    let server = Server::start();
    let answer = run(&["-s", &server.url(), "status"]).await;
    let text = stdout(&answer);
    assert!(answer.status.success(), "{text}{}", stderr(&answer));
    for said in ["thing needs attention", "! no worker answers", "run `embed init`", "There are no streams"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let answer = run(&["-s", &server.url(), "--json", "status"]).await;
    let status: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!((&status["workers"], &status["rollouts"]), (&Value::Array(Vec::new()), &Value::Null), "{status}");
}

#[test]
fn who_may_not_see_something_is_told_who_may() {
    let server = Folder::new().start();
    server.run("init", "init");
    let [status] = server.json("metrics", "status").try_into().unwrap();
    assert_eq!((&status["workers"], &status["queues"]), (&Value::Array(Vec::new()), &Value::Null), "{status}");
    let unknown = status["unknown"].as_array().unwrap();
    let part = |name: &str| unknown.iter().find(|one| one["part"] == name).unwrap_or(&Value::Null);
    for name in ["traffic", "rollouts", "routes"] {
        let (reason, next) = (part(name)["reason"].as_str(), part(name)["next"].as_str());
        assert!(reason.is_some_and(|text| text.contains("does not permit")), "{name}: {status}");
        assert!(next.is_some_and(|text| text.contains("--print-permissions status")), "{name}: {status}");
    }
    // Whoever may not ask workers.
    let [status] = server.json("init", "status").try_into().unwrap();
    assert_eq!((&status["workers"], &status["streams"][0]["model"]), (&Value::Null, &MODEL.into()), "{status}");
    let text = succeeded("status", server.embed("init", &["status"]).output().unwrap());
    assert!(text.contains("Not known: cannot ask workers how they stand"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_served_for_this_machine_and_for_nobody_elses_pages() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (mut daemon, url) = serve(&server);
    let http = http();
    let page = http.get(&url).send().await.unwrap();
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
    assert!(page.text().await.unwrap().contains("<h1>akidb-embed</h1>"));
    for (path, kind) in
        [("status.css", "text/css"), ("status.js", "text/javascript"), ("status.json", "application/json")]
    {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        assert!(answer.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with(kind), "{path}");
        assert!(answer.headers().contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
    }
    assert_eq!(http.get(format!("{url}other")).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let elsewhere = http.get(&url).header(header::HOST, "attacker.example:9465").send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::MISDIRECTED_REQUEST);
    assert!(!elsewhere.text().await.unwrap().contains("<table"));

    // Nobody looks: nothing is asked. Many look at once: it is asked once.
    let mut asked = client.nats().subscribe(embed_schemas::control::STATUS_SUBJECT).await.unwrap();
    // An answer of the server's, by which it has the subscription.
    client.jobs_fill(&slug("m")).await.unwrap();
    assert!(asked.next().now_or_never().is_none());
    let json = format!("{url}status.json");
    let look = async || http.get(&json).send().await.unwrap().text().await.unwrap();
    // What was found a moment ago is good for a second.
    let (mut looks, mut answers, mut questions) = (BTreeSet::new(), 0, 0);
    until("a question to workers", async || {
        for text in futures::future::join_all((0..20).map(|_| look())).await {
            looks.insert(serde_json::from_str::<Value>(&text).unwrap()["taken"].to_string());
            answers += 1;
        }
        while asked.next().now_or_never().flatten().is_some() {
            questions += 1;
        }
        questions > 0
    })
    .await;
    assert!(looks.len() < answers && questions <= looks.len(), "{questions} questions, {looks:?}, {answers} answers");
    assert!(daemon.is_running());
    let (status, log) = daemon.terminate();
    assert!(status.success() && log.is_empty(), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_this_machine_it_says_what_others_will_see() {
    let server = Server::start();
    let daemon = Daemon::spawn(&mut embed(&["--json", "-s", &server.url(), "status", "--serve=0.0.0.0:0"]));
    let url = daemon.json_line()["url"].as_str().unwrap().replace("0.0.0.0", "127.0.0.1");
    assert!(daemon.log().contains("whoever reaches"), "{}", daemon.log());
    // It has whatever name its network gives it.
    let answer = http().get(&url).header(header::HOST, "embed.example").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_back_with_the_server() {
    let mut server = Server::start();
    let (_daemon, url) = serve(&server);
    let json = async || {
        let answer = http().get(format!("{url}status.json")).send().await.unwrap();
        serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap()
    };
    assert_eq!(json().await["server"]["connected"], true);
    server.kill();
    until("it is seen", async || json().await["server"]["connected"] == false).await;
    let lost = json().await;
    assert!(lost["attention"][0].as_str().unwrap().contains("no connection"), "{lost}");
    server.restart();
    until("it is back", async || json().await["server"]["connected"] == true).await;
}

#[test]
fn an_address_that_is_taken_is_named() {
    let server = Server::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--serve={}", taken.local_addr().unwrap());
    let answer = output(&["-s", &server.url(), "status", &address]);
    assert!(!answer.status.success() && stderr(&answer).contains("--serve: cannot listen on"), "{}", stderr(&answer));
}
