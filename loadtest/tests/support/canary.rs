//! Two variants on workers of their own, behind a server whose routes can be changed, and traffic for whichever the route says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use embed_client::{CallOptions, Client};
use embed_connect::ConnectSettings;
use embed_schemas::{EmbedRequest, EmbedResult, Slug};
use embed_testkit::{Daemon, sibling_binary, wait_for};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const MODEL: &str = "all-minilm-l6-v2";

/// Short holds, and few requests asked for: what errs here errs half of the time. How long anything takes is the machine's business.
const DECISIONS: &str = r#"
[plan]
hold = "6s"
window = "500ms"
looks = 2
settle = "500ms"

[fast]
restart = "3s"

[guarded]
metrics = ["errors"]
errors = 0.2
min_requests = 10
min_tail = 1
min_block = 1
correlation = 0.0

[shadow]
min_texts = 20
min_length_texts = 4
slower = 20.0
"#;

/// The stack. The baseline is the variant `fp32`, the candidate `canary`.
pub(crate) struct Canary {
    /// Held for as long as the stack is to live.
    _dev: Daemon,
    pub(crate) ready: Value,
    /// `None` once it is dead.
    pub(crate) candidate: Option<Daemon>,
    folder: TempDir,
}

impl Canary {
    /// Starts it. `registry` and `environment` are the candidate's worker's.
    pub(crate) fn start(registry: &Path, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(sibling_binary("embed"));
        command.args(["dev", "--json", "--port", "0", "--data-dir"]).arg(folder.path().join("dev"));
        command.args(["--variant", &format!("{MODEL}=fp32")]).env("EMBED_REGISTRY", embed_testkit::registry());
        let dev = Daemon::spawn(worker_settings(&mut command));
        let ready = dev.json_line();
        let this = Self { _dev: dev, ready, candidate: None, folder };
        let both = ["--variant", &format!("{MODEL}=fp32"), "--variant", &format!("{MODEL}=canary")];
        let init = this.embed(&["init"]).args(both).env("EMBED_REGISTRY", embed_testkit::registry()).output().unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let candidate = this.worker(registry, environment);
        Self { candidate: Some(candidate), ..this }
    }

    /// A worker that serves the candidate, and nothing else.
    fn worker(&self, registry: &Path, environment: &[(&str, &str)]) -> Daemon {
        let config = self.folder.path().join("candidate.toml");
        std::fs::write(&config, format!("[[variant]]\nmodel = \"{MODEL}\"\nname = \"canary\"\ndefault = false\n"))
            .unwrap();
        let mut command = Command::new(sibling_binary("embed-worker"));
        command.args(["run", "--json", "--metrics-addr", "127.0.0.1:0", "--config"]).arg(config);
        command.args(["--server", self.ready["nats_url"].as_str().unwrap()]).env("EMBED_REGISTRY", registry);
        let worker = Daemon::spawn(worker_settings(&mut command).envs(environment.iter().copied()));
        worker.json_line();
        worker
    }

    /// The command `embed` on this server.
    pub(crate) fn embed(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(sibling_binary("embed"));
        command.args(arguments).env("NATS_URL", self.ready["nats_url"].as_str().unwrap());
        command
    }

    /// `embed rollout …` or `embed route …`.
    pub(crate) fn routing(&self, what: &str, arguments: &[&str]) -> Command {
        let mut command = self.embed(&[what, "--route-config", self.ready["route_config"].as_str().unwrap()]);
        command.args(arguments);
        command
    }

    /// The arguments of `embed rollout start` from `fp32` to `canary`. Five percent of what busy cores get through are few requests, even
    /// in a longer time, which decide about a wide margin only.
    fn start_arguments(&self, steps: &str) -> Vec<String> {
        let config = self.folder.path().join("decisions.toml");
        let mut decisions = DECISIONS.to_owned();
        if steps.starts_with("5,") {
            for (usual, few) in
                [("errors = 0.2", "errors = 0.5"), ("\"6s\"", "\"120s\""), ("min_requests = 10", "min_requests = 5")]
            {
                decisions = decisions.replace(usual, few);
            }
        }
        std::fs::write(&config, decisions).unwrap();
        let rest = ["--from=fp32", "--to=canary", "--lane=rpc", "--lease=10s", "--patience=60s", "--json", "--config"];
        let mut arguments = vec!["start".to_owned(), MODEL.to_owned(), format!("--steps={steps}")];
        arguments.extend(rest.map(str::to_owned));
        arguments.push(config.to_string_lossy().into_owned());
        arguments
    }

    /// Runs a rollout to its end, which must come by itself. Without a shadow, which would be found out first.
    pub(crate) fn roll_out(&self, steps: &str) -> Output {
        self.routing("rollout", &[]).args(self.start_arguments(steps)).arg("--no-shadow").output().unwrap()
    }

    /// Starts a rollout that begins with a shadow, and leaves it to its controller, which is this process. Whether its steps could decide at
    /// the traffic that a busy machine gets through does not matter to that.
    pub(crate) fn start_shadow(&self, hold: &str) -> Daemon {
        let shadow = ["--any-traffic".to_owned(), "--shadow=50%".to_owned(), format!("--shadow-hold={hold}")];
        Daemon::spawn(self.routing("rollout", &[]).args(self.start_arguments("50,100")).args(shadow))
    }

    /// Starts a rollout, and leaves it to its controller, which is this process.
    pub(crate) fn start_rollout(&self, steps: &str) -> Daemon {
        Daemon::spawn(self.routing("rollout", &[]).args(self.start_arguments(steps)).arg("--no-shadow"))
    }

    /// The last rollout, with its last verdict.
    pub(crate) fn status(&self) -> Value {
        let output = self.routing("rollout", &["status", MODEL, "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until the rollout is so, and returns it.
    pub(crate) fn status_when(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            std::thread::sleep(Duration::from_millis(200));
            Some(self.status()).filter(|status| wanted(&status["rollout"]))
        })
    }

    /// What the route says now, and whether every server holds it.
    pub(crate) fn route(&self) -> Value {
        let output = self.routing("route", &["show", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn worker_settings(command: &mut Command) -> &mut Command {
    command
        .env("NATS_SERVER_BIN", embed_testkit::nats_server_binary())
        .env("EMBED_WORKER__WORKER__STATS_WINDOW", "500ms")
        .env("EMBED_WORKER__MODELS__REFRESH", "1s")
        // On a busy machine a call may wait long, and is to be answered all the same.
        .env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m")
}

/// Something that goes on until it is dropped.
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start(run: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Self { stop, thread: Some(thread::spawn(move || run(&stopped))) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

/// Calls to the candidate, by its name, that are no requests: what no worker can answer.
pub(crate) fn nonsense(canary: &Canary) -> Background {
    let url = canary.ready["nats_url"].as_str().unwrap().to_owned();
    Background::start(move |stop| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(url).await.unwrap();
            while !stop.load(Ordering::SeqCst) {
                // Whatever it answers, and if it is gone.
                let _ = client.request(format!("embed.rpc.{MODEL}.canary"), "{\"texts\": 7}".into()).await;
            }
        });
    })
}

/// Calls that are under way at the same time: enough for a small share of them to tell something within seconds.
const LINES: usize = 16;

/// Online calls that name no variant, one after the other on each line. Counts those that were answered.
pub(crate) fn traffic(canary: &Canary, texts: &[String]) -> (Background, Arc<AtomicU64>) {
    let answered = Arc::new(AtomicU64::new(0));
    let count = answered.clone();
    let hear = move |_: &EmbedResult| {
        count.fetch_add(1, Ordering::SeqCst);
    };
    (calls(canary, texts, hear), answered)
}

/// The same. Counts the answers by the variants that gave them.
pub(crate) fn traffic_by_variant(canary: &Canary, texts: &[String]) -> (Background, Arc<Mutex<BTreeMap<String, u64>>>) {
    let answered = Arc::<Mutex<BTreeMap<String, u64>>>::default();
    let count = answered.clone();
    let hear = move |result: &EmbedResult| *count.lock().unwrap().entry(result.variant.to_string()).or_default() += 1;
    (calls(canary, texts, hear), answered)
}

fn calls(canary: &Canary, texts: &[String], hear: impl Fn(&EmbedResult) + Send + 'static) -> Background {
    let url = canary.ready["nats_url"].as_str().unwrap().to_owned();
    let texts = texts.to_vec();
    Background::start(move |stop| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = ConnectSettings { server: Some(url), ..ConnectSettings::default() };
            let client = Client::connect(&settings).await.unwrap();
            let model: Slug = MODEL.parse().unwrap();
            let line = async |line: usize| {
                let mut next = line;
                while !stop.load(Ordering::SeqCst) {
                    let request = EmbedRequest::new([texts[next % texts.len()].as_str()]);
                    next += 1;
                    let options = CallOptions::default().timeout(Duration::from_secs(5));
                    // A candidate may fail; that is what is being found out.
                    if let Ok(result) = client.embed(&model, request, &options).await {
                        hear(&result);
                    }
                }
            };
            futures::future::join_all((0..LINES).map(line)).await;
        });
    })
}
