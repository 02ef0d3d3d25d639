//! Every program does all that it is for with the permissions of its role, on a server as `deploy/nats` has it, and its log shows that
//! nothing was tried in vain. And what no worker may be talked into.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::Mutex,
};

use crate::support::{
    PATIENCE,
    command::{stderr, stdout},
    configured::{Configured, Folder, password},
    files::{Files, pace},
    people::{MODEL, succeeded},
    slug, until,
};
use async_nats::{HeaderMap, jetstream};
use embed_backfill::{self as backfill, Parameters};
use embed_client::{Client, Error};
use embed_control::permissions::{Permissions, Role, Scope, block};
use embed_schemas::{streams, subjects};
use embed_testkit::{Daemon, sibling_binary, wait_for};
use futures::StreamExt;
use serde_json::{Value, json};

/// What programs try although their role does not have it, and do without: to ask for several outcomes in one request, which would tell of
/// everybody's, and to look how full the stream of results is.
const DONE_WITHOUT: [&str; 2] = ["$JS.API.DIRECT.GET.EMBED_RESULTS_", "$JS.API.STREAM.INFO.EMBED_RESULTS_"];

fn assert_nothing_was_denied(server: &Configured) {
    let mut denied = server.violations();
    let model = |prefix: &str| format!(": {prefix}{MODEL}");
    denied.retain(|line| !DONE_WITHOUT.iter().any(|prefix| line.ends_with(&model(prefix))));
    assert!(denied.is_empty(), "{denied:?}");
}

/// A server with its streams, and a worker, each in its role.
fn stack() -> (Configured, Daemon) {
    stack_in(Folder::new())
}

fn stack_in(folder: Folder) -> (Configured, Daemon) {
    let server = folder.start();
    server.run("init", "init");
    server.run("init", "init --check");
    let worker = server.worker(|command| server.connected("worker", command));
    (server, worker)
}

#[test]
fn callers_producers_backfills_and_those_who_look_after_jobs_work_in_their_roles() {
    let (server, worker) = stack();
    // Calls, as whoever may call.
    for user in ["caller", "gateway", "operator"] {
        assert_eq!(server.json(user, "ask --timeout 1m hello")[0]["variant"], "fp32");
    }
    server.run("caller", "ask --variant fp32 --timeout 1m hello");
    by_http(&server);
    let mut load = Command::new(sibling_binary("embed-loadtest"));
    server.connected("caller", load.args(["run", "--json", "--rate", "5", "--duration", "1", "--warm-up", "0.1"]));
    let load = load.output().unwrap();
    assert!(stdout(&load).contains("Calls answered"), "{}", stderr(&load));

    // Jobs: several at once, and those of before.
    let stored = server.json("producer", "publish --wait --timeout 2m --id mine hello");
    assert_eq!(stored[0]["id"], "mine", "{stored:?}");
    server.run("producer", "jobs result mine");
    server.run("producer", "publish --wait --timeout 2m one two three");
    server.run("gateway", "publish --wait --timeout 2m hello");
    let other = server.embed("producer", &["publish", "--id", "mine", "another text"]).output().unwrap();
    assert!(stderr(&other).contains("id_conflict"), "{}", stderr(&other));

    backfill(&server, "kept.jsonl", &["--keep-results"]);
    backfill(&server, "removed.jsonl", &[]);
    let listed = server.json("backfill", "backfill list");
    assert_eq!((listed.len(), &listed[0]["phase"]), (2, &json!("finished")), "{listed:?}");
    server.run("backfill", &format!("backfill status {}", listed[0]["id"].as_str().unwrap()));
    server.run("backfill", "backfill list --purge");

    // Who looks after jobs: one that failed, and one that waits for a variant that nobody serves.
    server.embed("producer", &["publish", "--wait", "--id", "bad", "--prompt", "none", "x"]).output().unwrap();
    let letters = wait_for("the dead letter", || Some(server.json("jobs", "dead list")).filter(|all| !all.is_empty()));
    assert_eq!(letters[0]["code"], "unknown_prompt");
    // A look at everything, as whoever may see it.
    for user in ["status", "operator"] {
        let status = &server.json(user, "status")[0];
        assert_eq!(
            (&status["unknown"], &status["dead"][0]["code"]),
            (&json!([]), &json!("unknown_prompt")),
            "{status}"
        );
        assert!(status["traffic"].as_array().is_some_and(|all| !all.is_empty()), "{status}");
        assert!(status["queues"].as_array().is_some_and(|all| !all.is_empty()), "{status}");
    }
    server.run("jobs", "dead show bad");
    server.run("jobs", "dead retry bad");
    wait_for("another letter", || {
        Some(server.json("jobs", "dead list"))
            .filter(|all| !all.is_empty() && all[0]["sequence"] != letters[0]["sequence"])
    });
    server.run("jobs", "dead purge --all");
    worker.terminate();
    server.run("producer", "publish --allow-unserved --id waits x");
    assert_eq!(server.json("jobs", "jobs show waits")[0]["state"], "queued");
    assert_eq!(server.json("jobs", "jobs list").len(), 1);
    server.run("jobs", "jobs cancel waits");
    let cancelled = server.embed("producer", &["jobs", "result", "waits"]).output().unwrap();
    assert!(stdout(&cancelled).contains("cancelled") || stderr(&cancelled).contains("cancelled"), "{cancelled:?}");
    assert_nothing_was_denied(&server);
}

/// `embed gateway`, from its start to its end.
fn by_http(server: &Configured) {
    let mut command = server.embed("gateway", &["gateway", "--json", "--listen", "127.0.0.1:0"]);
    let gateway = Daemon::spawn(command.env_remove("EMBED_GATEWAY_KEYS"));
    let ready = gateway.json_line();
    let address = ready["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let body = json!({"model": MODEL, "input": "hello"}).to_string();
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    wait_for("an answer by HTTP", || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all((head.clone() + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    let (status, log) = gateway.terminate();
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_waits_for_room_in_a_stream_that_it_may_not_look_at() {
    let small = || {
        let (server, worker) = stack();
        server.run("init", "init --results-max-bytes 1MiB");
        (server, worker)
    };
    let (server, _worker) = tokio::task::spawn_blocking(small).await.unwrap();
    let [backfills, workers] = ["backfill", "worker"].map(|user| server.settings(user));
    let (backfills, workers) = (Client::connect(&backfills).await.unwrap(), Client::connect(&workers).await.unwrap());
    let model = slug(MODEL);
    assert!(matches!(backfills.results_fill(&model).await, Err(Error::Rejected { .. })));
    // Somebody else's.
    let context = jetstream::new(workers.nats().clone());
    let others = subjects::store(&model, &"other".parse().unwrap());
    context.publish(others, vec![b'x'; 1_000_000].into()).await.unwrap().await.unwrap();
    let files = Files::new(20);
    let parameters = Parameters { model: model.clone(), ..files.parameters(5) };
    let told = Mutex::new(None);
    let hear = |progress: &backfill::Progress| *told.lock().unwrap() = Some(*progress);
    let (pace, never) = (pace(), std::future::pending());
    let run = backfill::run(&backfills, parameters, &files.output, false, &pace, never, hear);
    let make_room = async {
        until("it waits", async || told.lock().unwrap().is_some_and(|progress| progress.is_held)).await;
        assert_eq!(workers.jobs_fill(&model).await.unwrap().messages, 0, "nothing is begun");
        let fill = workers.results_fill(&model).await.unwrap();
        assert_eq!((fill.messages, fill.max_bytes), (1, Some(1 << 20)));
        assert_eq!(
            backfills.results_fill_by_worker(&model, None).await.unwrap(),
            Some(fill),
            "a worker tells the same"
        );
        context.get_stream(streams::results_stream(&model)).await.unwrap().purge().await.unwrap();
    };
    let (summary, ()) = tokio::join!(run, make_room);
    assert_eq!(summary.unwrap().stored, 20);
    assert!(!told.lock().unwrap().unwrap().is_held);
    assert_nothing_was_denied(&server);
}

/// A few hundred rows, as the user who does such things.
fn backfill(server: &Configured, name: &str, more: &[&str]) {
    let input = server.folder.file(name);
    let rows = (0..200).map(|n| format!("{}\n", json!({"id": n, "text": format!("row number {n}")})));
    std::fs::write(&input, rows.collect::<String>()).unwrap();
    let output = input.with_extension("out.jsonl");
    let arguments = [&["backfill", "run", input.to_str().unwrap(), output.to_str().unwrap()], more].concat();
    succeeded("backfill", server.embed("backfill", &arguments).output().unwrap());
    assert_eq!(std::fs::read_to_string(output).unwrap().lines().count(), 200);
}

#[test]
fn models_routes_and_rollouts_are_changed_in_their_roles() {
    let (server, _worker) = stack();
    server.run("models", &format!("models serve {MODEL} canary --wait"));
    server.run("models", "models refresh");
    assert_eq!(server.json("models", "models list").len(), 1);

    let split = server.routed("routes", &format!("route set {MODEL} fp32=50 canary=50"));
    assert!(split.contains("on 1 of 1 servers"), "{split}");
    // What is published without a variant is checked where the route leads it.
    let variants = |count: usize| -> Vec<Value> {
        (0..count).map(|_| server.json("caller", "ask --timeout 1m x")[0]["variant"].clone()).collect()
    };
    let asked = variants(12);
    assert!(asked.contains(&"fp32".into()) && asked.contains(&"canary".into()), "{asked:?}");
    server.run("producer", "publish --wait --timeout 2m a b c d");
    server.routed("routes", "route show");
    server.routed("routes", &format!("route show {MODEL} --history"));
    let refused = server.embed("models", &["models", "unserve", MODEL, "canary"]).output().unwrap();
    assert!(stderr(&refused).contains("gets 50 %"), "{}", stderr(&refused));
    server.routed("routes", &format!("route set {MODEL} --all-to fp32"));
    server.routed("routes", "route sync");

    rollout(&server);

    server.routed("routes", &format!("route clear {MODEL}"));
    server.run("models", &format!("models unserve {MODEL} canary"));
    server.run("operator", "models list");
    server.run("operator", "init --check");
    metrics(&server);
    assert_nothing_was_denied(&server);
}

/// A rollout with its shadow, its probes and its windows, which a person ends.
fn rollout(server: &Configured) {
    let start = format!("{} --lane rpc", starting(server));
    let shadowed = Daemon::spawn(&mut server.routing("rollouts", &format!("{start} --shadow 100% --shadow-hold 1m")));
    phase(server, "shadow");
    server.run("caller", "ask --timeout 1m something to compare");
    server.routed("rollouts", &format!("rollout abort {MODEL}"));
    drop(shadowed);
    server.routed("rollouts", &format!("{start} --no-shadow --steps 50,100 --detach"));
    let controller = Daemon::spawn(&mut server.routing("rollouts", "rollout run --json"));
    phase(server, "holding");
    wait_for("a window to be judged", || status(server)["phase"]["windows"].as_u64().filter(|windows| *windows > 0));
    server.routed("rollouts", &format!("rollout pause {MODEL}"));
    phase(server, "paused");
    server.routed("rollouts", &format!("rollout resume {MODEL}"));
    server.routed("rollouts", &format!("rollout abort {MODEL}"));
    server.routed("rollouts", "rollout list");
    server.routed("rollouts", &format!("rollout history {MODEL}"));
    server.routed("rollouts", &format!("rollout report {MODEL}"));
    drop(controller);
}

/// The command that starts a rollout of all lanes, with short steps.
fn starting(server: &Configured) -> String {
    let config = server.folder.file("decisions.toml");
    let text = "[plan]\nhold = \"1m\"\nwindow = \"500ms\"\nlooks = 2\nsettle = \"500ms\"\n[guarded]\nmetrics = [\"errors\"]\nerrors = 0.5\n\
                min_requests = 5\nmin_tail = 1\nmin_block = 1\ncorrelation = 0.0\n";
    std::fs::write(&config, text).unwrap();
    format!("rollout start {MODEL} --from fp32 --to canary --any-traffic --json --config {}", config.display())
}

/// The rollout as it stands. Until it has begun, there is none.
fn status(server: &Configured) -> Value {
    let output = server.routing("rollouts", &format!("rollout status {MODEL} --json")).output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()["rollout"].take()
}

/// Waits until what it is doing has this in its words.
fn phase(server: &Configured, wanted: &str) {
    wait_for(wanted, || status(server)["phase"].to_string().contains(wanted).then_some(()));
}

/// To end a rollout changes what is served: whoever does it has that role as well.
#[test]
fn a_rollout_is_promoted_in_its_role_and_finished_by_whoever_looks_after_models_too() {
    let scope = Scope::new(&[MODEL.parse().unwrap()], "releases");
    let permissions = block(&Permissions::of(&[Role::Rollouts, Role::Models], &scope));
    let user = format!("{{ user: releases, password: {:?}, permissions: {permissions} }}", password("releases"));
    let (server, _worker) = stack_in(Folder::new().change("roles.conf", |text| {
        // The system account's user answers in its inboxes, too.
        let (inboxes, users) = ("\"_INBOX.rollouts.>\"\n", "\n    users: [\n");
        assert!(text.contains(inboxes) && text.contains(users));
        text.replacen(inboxes, &format!("{inboxes} \"_INBOX.releases.>\"\n"), 1).replacen(
            users,
            &format!("{users}{user}\n"),
            1,
        )
    }));
    server.run("models", &format!("models serve {MODEL} canary --wait"));
    server.routed("rollouts", &format!("{} --no-shadow --steps 50,100 --detach", starting(&server)));
    let controller = Daemon::spawn(&mut server.routing("rollouts", "rollout run --json"));
    for step in 0..2 {
        wait_for("the step to be held", || {
            let phase = status(&server)["phase"].take();
            (phase["step"] == step && phase.to_string().contains("holding")).then_some(())
        });
        server.routed("rollouts", &format!("rollout promote {MODEL}"));
    }
    phase(&server, "promoted");
    drop(controller);

    let finish = format!("rollout finish {MODEL}");
    let would = server.routed("rollouts", &format!("{finish} --dry-run"));
    let steps = ["make canary the default variant of all-minilm-l6-v2", "remove the route of all-minilm-l6-v2"];
    assert_eq!(would.lines().collect::<Vec<_>>(), steps.map(|step| format!("would {step}")));
    let done = server.routed("releases", &format!("{finish} --timeout 1m"));
    assert_eq!(done.lines().collect::<Vec<_>>(), steps.map(|step| format!("done: {step}")));
    assert_eq!(server.routed("releases", &finish).trim(), "nothing is left to do");
    assert_eq!(server.json("caller", "ask --timeout 1m hello")[0]["variant"], "canary");
    assert_nothing_was_denied(&server);
}

/// Figures that come through NATS.
fn metrics(server: &Configured) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = Client::connect(&server.settings("metrics")).await.unwrap();
        let mut windows = client.nats().subscribe(format!("embed.stats.{MODEL}.*")).await.unwrap();
        for verb in ["PING", "INFO", "STATS"] {
            let answer = client.nats().request(format!("$SRV.{verb}.embed-worker"), "".into()).await.unwrap();
            assert!(!answer.payload.is_empty(), "{verb}");
        }
        tokio::time::timeout(PATIENCE, windows.next()).await.unwrap().unwrap();
    });
}

/// A worker has more permissions than whoever asks it. What it sends on somebody's behalf goes to inboxes and nowhere else.
#[test]
fn a_worker_lends_its_permissions_to_nobody() {
    let (server, _worker) = stack();
    server.run("producer", "publish --wait --timeout 2m --id precious hello");
    let evil = [
        format!("$JS.API.STREAM.PURGE.EMBED_RESULTS_{MODEL}"),
        format!("$JS.API.STREAM.DELETE.EMBED_{MODEL}"),
        format!("embed.result.{MODEL}.forged"),
        format!("$KV.embed_models.{MODEL}.fp32"),
        format!("$KV.embed_routes.{MODEL}"),
        "embed.control.refresh".to_owned(),
    ];
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let caller = Client::connect(&server.settings("caller")).await.unwrap();
        let producer = Client::connect(&server.settings("producer")).await.unwrap();
        let request = json!({"texts": ["x"]}).to_string();
        for reply in evil {
            for subject in [format!("embed.rpc.{MODEL}"), "$SRV.INFO.embed-worker".to_owned()] {
                caller.nats().publish_with_reply(subject, reply.clone(), request.clone().into()).await.unwrap();
            }
            let mut header = HeaderMap::new();
            header.insert("Reply-To", reply.as_str());
            let sent =
                producer.nats().publish_with_headers(format!("embed.job.{MODEL}"), header, request.clone().into());
            sent.await.unwrap();
        }
        caller.nats().flush().await.unwrap();
        producer.nats().flush().await.unwrap();
    });
    // Everything that came before has been dealt with.
    server.run("producer", "publish --wait --timeout 2m --id after hello");
    server.run("caller", "ask --timeout 1m hello");
    assert!(server.json("producer", "jobs result precious").len() == 1, "nothing was purged");
    let forged = server.embed("producer", &["jobs", "result", "forged"]).output().unwrap();
    assert!(!forged.status.success(), "{forged:?}");
    server.run("init", "init --check");
    assert_eq!(server.json("models", "models list").len(), 1);
}
