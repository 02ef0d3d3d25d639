//! The end: what has begun is answered, nobody else is taken, and it is over in time. HTTPS, since it goes the same way.

use std::time::Duration;

use embed_testkit::PATIENCE;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{Answer, Http, Stack, address, tls, until};

const SIGTERM: i32 = 15;

fn ask(http: &Http, text: &'static str) -> tokio::task::JoinHandle<Answer> {
    let http = http.clone();
    tokio::spawn(async move { http.embeddings(text).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_begun_is_answered_and_nobody_else_is_taken() {
    let stack = Stack::start(&["--timeout", "1h", "--drain-timeout", "1h"]).await;
    // They keep connections open, one with half of a head.
    let mut half = TcpStream::connect(address(&stack.http.url)).await.unwrap();
    half.write_all(b"POST /v1/emb").await.unwrap();
    let waiting = ask(&stack.http, "!wait");
    until("the call is under way", async || stack.worker.taken() == 1).await;
    stack.gateway.signal(SIGTERM);
    until("nobody is taken", async || TcpStream::connect(address(&stack.http.url)).await.is_err()).await;
    assert!(!waiting.is_finished());
    stack.worker.go();
    waiting.await.unwrap().ok();
    let mut gateway = stack.gateway;
    let (status, log) = tokio::task::spawn_blocking(move || gateway.wait()).await.unwrap();
    assert!(status.success(), "{status}: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_than_the_time_to_drain_is_cut_off_and_said() {
    let stack = Stack::start(&["--timeout", "1h", "--drain-timeout", "200ms"]).await;
    let http = stack.http.clone();
    let cut_off = tokio::spawn(async move {
        http.request(reqwest::Method::POST, "/v1/embeddings").body(r#"{"input": "!wait"}"#).send().await.is_err()
    });
    until("the call is under way", async || stack.worker.taken() == 1).await;
    stack.gateway.signal(SIGTERM);
    let mut gateway = stack.gateway;
    let (status, log) = tokio::task::spawn_blocking(move || gateway.wait()).await.unwrap();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("not all requests were answered"), "{log}");
    assert!(cut_off.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_served_to_those_who_trust_the_certificate() {
    let (cert, key) = (tls("server.pem"), tls("server-key.pem"));
    let server = embed_testkit::NatsServer::start();
    let _worker = crate::support::Worker::start(&crate::support::connect(&server).await, "m").await;
    let arguments = ["--https-cert", cert.to_str().unwrap(), "--https-key", key.to_str().unwrap()];
    let (gateway, http) = crate::support::gateway(&server, &arguments);
    assert!(http.url.starts_with("https://"), "{}", http.url);
    let ca = reqwest::Certificate::from_pem(&std::fs::read(tls("ca.pem")).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).timeout(PATIENCE).no_proxy().build().unwrap();
    let ready =
        async || client.get(format!("{}/readyz", http.url)).send().await.is_ok_and(|answer| answer.status() == 200);
    until("the gateway is ready", ready).await;
    let asked = client.post(format!("{}/v1/embeddings", http.url)).body(r#"{"input": "x"}"#).send().await.unwrap();
    assert_eq!(asked.status(), 200);
    // Neither plain HTTP nor a stranger's trust gets anywhere, and neither holds it up.
    assert!(reqwest::get(format!("http://{}/healthz", address(&http.url))).await.is_err());
    assert!(http.request(reqwest::Method::GET, "/healthz").send().await.is_err());
    let silent = TcpStream::connect(address(&http.url)).await.unwrap();
    let (status, log) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success(), "{log}");
    drop(silent);
    tokio::time::sleep(Duration::ZERO).await;
}
