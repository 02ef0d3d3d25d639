//! A NATS server, workers that need no model, and the command `embed gateway` between them and a client.

mod worker;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use embed_client::{Client, ConnectSettings};
pub(crate) use embed_testkit::PATIENCE;
use embed_testkit::{Daemon, NatsServer, sibling_binary};
use reqwest::{Method, Response, StatusCode, header::HeaderMap};
use serde_json::Value;
pub(crate) use worker::{Worker, vector};

/// Somebody who asks a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) url: String,
    client: reqwest::Client,
    key: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, code and field of an error.
    pub(crate) fn error(&self) -> (u16, String, Value) {
        let body = self.json();
        (self.status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), body["error"]["param"].clone())
    }

    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        self
    }
}

impl Http {
    pub(crate) fn new(url: &str) -> Self {
        // One of us may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        Self { url: url.to_owned(), client, key: None }
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub(crate) async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.request(Method::POST, path).body(body.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// What `/v1/embeddings` answers to these texts.
    pub(crate) async fn embeddings(&self, input: impl Into<Value>) -> Answer {
        self.post("/v1/embeddings", &serde_json::json!({"model": "m", "input": input.into()})).await
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        until("the gateway is ready", async || self.get("/readyz").await.status == StatusCode::OK).await;
    }
}

/// Everything that a test needs, on one server.
pub(crate) struct Stack {
    pub(crate) server: NatsServer,
    pub(crate) worker: Worker,
    pub(crate) gateway: Daemon,
    pub(crate) http: Http,
}

impl Stack {
    /// A worker that serves the model `m`, and a gateway that is ready.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let server = NatsServer::start();
        let worker = Worker::start(&connect(&server).await, "m").await;
        let (gateway, http) = gateway(&server, arguments);
        http.ready().await;
        Self { server, worker, gateway, http }
    }
}

pub(crate) async fn connect(server: &NatsServer) -> Client {
    let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
    Client::connect(&settings).await.unwrap()
}

/// `embed gateway` on a free port, free of the surroundings' settings.
pub(crate) fn command(server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(sibling_binary("embed"));
    for variable in
        ["NATS_URL", "NATS_CONTEXT", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "EMBED_REGISTRY", "EMBED_GATEWAY_KEYS"]
    {
        command.env_remove(variable);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.args(["gateway", "--json", "--server", server, "--listen", "127.0.0.1:0"]).args(arguments);
    command
}

pub(crate) fn gateway(server: &NatsServer, arguments: &[&str]) -> (Daemon, Http) {
    spawn(&mut command(&server.url(), arguments))
}

pub(crate) fn spawn(command: &mut Command) -> (Daemon, Http) {
    let daemon = Daemon::spawn(command);
    let url = daemon.json_line()["url"].as_str().unwrap().to_owned();
    (daemon, Http::new(&url))
}

/// Host and port of a URL.
pub(crate) fn address(url: &str) -> String {
    url.split_once("//").unwrap().1.to_owned()
}

/// Certificates for `localhost` and 127.0.0.1, trusted by nobody else.
pub(crate) fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/tls").join(name)
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
