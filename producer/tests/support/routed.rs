//! Servers whose routes can be changed: with a system account and a file of mappings, alone or as a cluster.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::{
    provision::{self, ModelVariants},
    route::{Applied, Change, Outcome, RouteSettings, Router},
};
use embed_schemas::{Slug, streams::StreamSettings};
use embed_testkit::{Daemon, Relay, Stopped, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{slug, until};

/// Accounts of a server without JWTs: who comes without credentials is in the global one.
pub(crate) const ACCOUNTS: &str = r#"
authorization { users: [ {user: "app", password: "app"} ] }
no_auth_user: "app"
accounts { $SYS { users: [ {user: "sys", password: "pw"} ] } }
mappings { include "embed-mappings.conf" }
include "other.conf"
"#;

/// A server of the test's own. Killed when dropped.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) folder: TempDir,
    pub(crate) url: String,
    daemon: Option<Daemon>,
}

impl Node {
    /// Starts a server with these lines of configuration, in which `@FOLDER@` is its folder.
    pub(crate) fn start(name: &str, more: &str) -> Self {
        let node = Self::prepare(name, more);
        node.started()
    }

    fn prepare(name: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let text = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:-1\"\nports_file_dir: {path:?}\n\
             jetstream {{ store_dir: {:?} }}\n{}\n",
            path.join("store"),
            more.replace("@FOLDER@", path.to_str().unwrap())
        );
        std::fs::write(path.join("server.conf"), text).unwrap();
        std::fs::write(path.join("embed-mappings.conf"), "").unwrap();
        std::fs::write(path.join("other.conf"), "").unwrap();
        Self { name: name.to_owned(), folder, url: String::new(), daemon: None }
    }

    fn launch(&mut self) {
        let mut command = Command::new(embed_testkit::nats_server_binary());
        self.daemon = Some(Daemon::spawn(command.arg("-c").arg(self.file("server.conf"))));
    }

    fn started(mut self) -> Self {
        self.launch();
        self.await_ports();
        self
    }

    fn await_ports(&mut self) {
        let daemon = self.daemon.as_mut().unwrap();
        let file = self.folder.path().join(format!("nats-server_{}.ports", daemon.id()));
        self.url = wait_for("nats-server to listen", || {
            assert!(daemon.is_running(), "nats-server ended: {}", daemon.log());
            let ports: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.to_owned())
        });
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn mappings(&self) -> PathBuf {
        self.file("embed-mappings.conf")
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    pub(crate) fn restart(&mut self) {
        self.launch();
        self.await_ports();
    }

    pub(crate) fn signal(&self, signal: i32) {
        self.daemon.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn connect(&self) -> ConnectSettings {
        ConnectSettings { server: Some(self.url.clone()), ..ConnectSettings::default() }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.connect()).await.unwrap()
    }

    /// Asks it something through the system account.
    pub(crate) async fn system(&self, what: &str) -> Value {
        self.asked(what, "").await
    }

    /// The shares of a model that it holds in the lane of calls, as `a=50 b=50`, without asking anybody else.
    pub(crate) async fn holds(&self, model: &str) -> String {
        let answer = self.asked("ACCOUNTZ", r#"{"account": "$G"}"#).await;
        let mut before = 0;
        let mut shares: Vec<String> = Vec::new();
        for to in
            answer["data"]["account_detail"]["mappings"][format!("embed.rpc.{model}")].as_array().into_iter().flatten()
        {
            let weight = to["weight"].as_u64().unwrap();
            shares.push(format!("{}={}", to["subject"].as_str().unwrap().rsplit('.').next().unwrap(), weight - before));
            before = weight;
        }
        shares.sort();
        shares.join(" ")
    }

    async fn asked(&self, what: &str, body: &str) -> Value {
        let options = async_nats::ConnectOptions::with_user_and_password("sys".into(), "pw".into());
        let system = options.connect(&self.url).await.unwrap();
        let id = system.server_info().server_id;
        let body = body.to_owned().into();
        let answer = system.request(format!("$SYS.REQ.SERVER.{id}.{what}"), body).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }
}

/// A server with model `m` and these variants, the first its default.
pub(crate) async fn alone(variants: &[&str]) -> (Node, Client) {
    let node = Node::start("n1", ACCOUNTS);
    let client = node.client().await;
    provision(&client, variants, 1).await;
    (node, client)
}

pub(crate) async fn provision(client: &Client, variants: &[&str], replicas: usize) {
    let model = ModelVariants { model: slug("m"), variants: variants.iter().map(|v| slug(v)).collect() };
    let settings = StreamSettings { replicas, ..StreamSettings::default() };
    provision::apply(client.nats(), &[model], &settings).await.unwrap();
}

/// Three servers that are one cluster, each with its file.
pub(crate) async fn cluster() -> Vec<Node> {
    let nodes = clustered(ACCOUNTS);
    // There is a leader, and it knows the others.
    until("the cluster to be one", async || {
        let mut known = 0;
        for node in &nodes {
            let meta = node.system("JSZ").await["data"]["meta_cluster"].take();
            let replicas = meta["replicas"].as_array().map_or(0, Vec::len);
            known = known.max(replicas);
        }
        known == 2
    })
    .await;
    nodes
}

/// Three servers that are to be one cluster, with these lines of configuration.
pub(crate) fn clustered(more: &str) -> Vec<Node> {
    // The listeners are held until all ports are known, so that they differ.
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
    drop(listeners);
    let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let mut nodes: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(i, port)| {
            let cluster =
                format!("cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}", routes.join(", "));
            Node::prepare(&format!("n{}", i + 1), &format!("{more}\n{cluster}"))
        })
        .collect();
    nodes.iter_mut().for_each(Node::launch);
    nodes.iter_mut().for_each(Node::await_ports);
    nodes
}

/// Sees to it that another server than the first leads the bucket of routes, so that it is lost with the others; and says which.
pub(crate) async fn led_by_another(client: &Client, nodes: &[Node]) -> usize {
    let context = async_nats::jetstream::new(client.nats().clone());
    let mut led = 0;
    until("another leader than the first server", async || {
        let info: Result<Value, _> = context.request("STREAM.INFO.KV_embed_routes", &json!({})).await;
        let name = info.ok().and_then(|info| info["cluster"]["leader"].as_str().map(str::to_owned));
        led = nodes.iter().position(|node| Some(&node.name) == name.as_ref()).unwrap_or_default();
        if name.is_some() && led == 0 {
            let _: Result<Value, _> = context.request("STREAM.LEADER.STEPDOWN.KV_embed_routes", &json!({})).await;
        }
        led != 0
    })
    .await;
    led
}

/// How `embed route` is told of these servers.
pub(crate) fn settings(nodes: &[Node]) -> RouteSettings {
    RouteSettings {
        sys_user: Some("sys".into()),
        sys_password: Some("pw".into()),
        mappings_files: nodes.iter().map(Node::mappings).collect(),
        ..RouteSettings::default()
    }
}

pub(crate) async fn router(client: &Client, nodes: &[Node]) -> Router {
    Router::connect(client, &nodes[0].connect(), &settings(nodes)).await.unwrap()
}

/// A line to a server, on which a test can stop a message.
pub(crate) fn line(node: &Node) -> (Relay, ConnectSettings) {
    let relay = Relay::start(node.url.trim_start_matches("nats://").to_owned());
    let connect = ConnectSettings { server: Some(relay.address().to_owned()), ..ConnectSettings::default() };
    (relay, connect)
}

/// Whoever is at this end of a line has a connection and a router of its own.
pub(crate) async fn on_a_line(nodes: &[Node]) -> (Relay, Client, Router) {
    let (relay, connect) = line(&nodes[0]);
    let (client, router) = Router::dial(&connect, &settings(nodes)).await.unwrap();
    (relay, client, router)
}

/// Waits until what is to be stopped has come.
pub(crate) async fn comes(what: &str, stopped: &Stopped) {
    until(what, async || stopped.has_come()).await;
}

/// Sets a route, which every server that answers holds then, as the bucket does.
pub(crate) async fn set(router: &Router, model: &Slug, change: &Change) -> Applied {
    let mut set = router.set(model, change).await.unwrap();
    if matches!(set, Outcome::Unwritten { .. }) {
        // The bucket has a second in an emergency, and this machine may be busy.
        set = router.set(model, change).await.unwrap();
    }
    match set {
        Outcome::Applied(applied) => applied,
        other => panic!("{other}"),
    }
}

/// `embed route` on these servers, as a user runs it.
pub(crate) fn command(nodes: &[Node], arguments: &[&str]) -> Command {
    let mut command = super::command::embed(&["route", "-s", &nodes[0].url, "--sys-user=sys", "--sys-password=pw"]);
    command.env("HOME", nodes[0].folder.path()).env_remove("XDG_CONFIG_HOME").current_dir(Path::new("/"));
    for node in nodes {
        command.arg("--mappings-file").arg(node.mappings());
    }
    command.args(arguments).stdin(std::process::Stdio::null());
    command
}
