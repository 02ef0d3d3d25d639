//! Rollouts by made-up workers, whose windows say what the tests want, and by controllers whose clocks are set: what is decided, and who
//! decides it when controllers die, sleep, or are several.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{atomic::Ordering, mpsc},
    time::Duration,
};

use crate::support::{
    command,
    controllers::{Running, assert_replays, config, holds, start},
    fleet::{Fleet, WINDOW, World, now_ms},
    routed::{self, alone, cluster, provision, router},
    slug, until,
    variants::{Calls, follow},
};
use embed_control::{
    models,
    rollout::{Controller, Rollouts, Settings, page},
    route::Change,
};
use embed_rollout::{
    Config, Decision,
    state::{Outcome, Phase},
};
use embed_schemas::ErrorCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_good_is_promoted_and_what_is_not_is_rolled_back_whatever_the_clocks_say() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    // The baseline is busy with what had been waiting; callers send nonsense to the candidate, whose worker is eight seconds ahead.
    let world =
        World { backlog: 300, failing: Some((ErrorCode::InvalidRequest, 40)), ahead_ms: 8_000, ..World::default() };
    let fleet = Fleet::start(&client, world).await;
    let rollouts = Rollouts::new(&client);
    let lease = Duration::from_secs(2);
    rollouts.start(start(config()), None).await.unwrap();
    // Controllers that die at each step, on machines with clocks that are off by far more than the lease.
    for (step, ahead) in [(0, 25_000), (1, -25_000)] {
        let controller = Running::start(&nodes, &format!("c{step}"), lease, ahead);
        let rollout = holds(&rollouts, step).await;
        assert!(rollout.started_ms.abs_diff(now_ms()) < 60_000);
        drop(controller);
    }
    let end = Running::start(&nodes, "last", lease, 10_000).end().await;
    assert_eq!(end.outcome(), Some(Outcome::Promoted), "{:#?}", end.history);
    let mut shares: Vec<f64> = end.history.iter().map(|event| event.percent).collect();
    shares.dedup();
    assert_eq!(shares, [0.0, 50.0, 100.0]);
    assert_replays(&rollouts).await;
    let record = rollouts.record(&slug("m"), None).await.unwrap();
    let left_out: u64 = record.stages[0].all().iter().map(|window| window.backlog[0].left_out).sum();
    assert!(left_out >= 600 && record.stages[0].all().iter().all(|w| w.baseline.requests <= 1_000), "{left_out}");

    // The next candidate fails by itself, and the codes are named.
    let router = router(&client, &nodes).await;
    routed::set(&router, &slug("m"), &Change::clear("test")).await;
    fleet.change(|world| world.failing = Some((ErrorCode::Overloaded, 40)));
    rollouts.start(start(config()), None).await.unwrap();
    let end = Running::start(&nodes, "c", lease, 0).end().await;
    assert_eq!(end.outcome(), Some(Outcome::RolledBack), "{:#?}", end.history);
    let reason = &end.history.last().unwrap().sentence;
    assert!(reason.contains("overloaded"), "{reason}");

    // One is too slow.
    fleet.change(|world| (world.failing, world.slowness) = (None, 2));
    rollouts.start(start(config()), None).await.unwrap();
    let end = Running::start(&nodes, "c", lease, 0).end().await;
    assert_eq!(end.outcome(), Some(Outcome::RolledBack), "{:#?}", end.history);
    assert!(end.history.last().unwrap().sentence.contains("p50 is "), "{:?}", end.history.last());
    assert_replays(&rollouts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_controller_acts_whoever_sleeps_or_stands_by() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    // A takeover has thousands of reports to read, within a lease of three seconds; some of them of workers that there are not.
    let _fleet = Fleet::start(&client, World { noise: 300, forged: 3, ..World::default() }).await;
    let rollouts = Rollouts::new(&client);
    let mut slow = config();
    slow.plan.hold = Duration::from_secs(5);
    rollouts.start(start(slow), None).await.unwrap();
    let lease = Duration::from_secs(3);
    let first = Running::start(&nodes, "first", lease, 0);
    until("the first to act", async || first.told("gets 50 %")).await;
    let [second, third] = [Running::start(&nodes, "second", lease, 0), Running::start(&nodes, "third", lease, 0)];
    until("the others to stand by", async || {
        [&second, &third].iter().all(|other| other.told("controller first acts; this one stands by"))
    })
    .await;
    holds(&rollouts, 0).await;
    // It sleeps longer than its lease. Another takes over, and is followed by nobody.
    first.asleep.store(true, Ordering::SeqCst);
    let acts = async || rollouts.get(&slug("m")).await.unwrap().holder.map(|holder| holder.name).unwrap_or_default();
    until("another to act", async || acts().await != "first").await;
    let other = acts().await;
    until("it to go on", async || {
        let rollout = rollouts.get(&slug("m")).await.unwrap();
        matches!(&rollout.phase, Phase::Holding(stage) if stage.windows > 5) || rollout.outcome().is_some()
    })
    .await;
    first.asleep.store(false, Ordering::SeqCst);
    until("the first to find out", async || {
        first.told(&format!("controller {other} acts")) || rollouts.get(&slug("m")).await.unwrap().outcome().is_some()
    })
    .await;
    let ends = [first.end().await, second.end().await, third.end().await];
    assert!(ends.iter().all(|end| end.outcome() == Some(Outcome::Promoted)), "{:#?}", ends[0].history);
    // Whatever happened, happened once.
    let stages = ends[0].history.iter().filter(|event| event.sentence.contains(" of the traffic")).count();
    assert_eq!((stages, ends[0].stages), (2, 2), "{:#?}", ends[0].history);
    assert_replays(&rollouts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_costs_patience_a_pause_costs_nothing_and_a_loss_is_a_loss() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let calls = Calls::serve(&client, &[("a", "s")]).await;
    let candidate = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    let mut patient = config();
    patient.fast.restart = Duration::from_secs(4);
    patient.plan.hold = Duration::from_secs(8);
    rollouts.start(start(patient), None).await.unwrap();
    let controller = Running::start(&nodes, "c", Duration::from_secs(5), 0);
    holds(&rollouts, 0).await;
    // Its only worker is restarted, and back after some windows.
    drop(candidate);
    fleet.change(|world| world.silent = true);
    tokio::time::sleep(WINDOW * 6).await;
    let candidate = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    fleet.change(|world| world.silent = false);
    let windows = holds(&rollouts, 0).await.stage().unwrap().windows;
    until("it to go on", async || {
        rollouts.get(&slug("m")).await.unwrap().stage().is_some_and(|s| s.windows > windows + 8)
    })
    .await;

    // Paused, nothing is kept.
    rollouts.pause(&slug("m"), "me").await.unwrap();
    let kept = async || rollouts.record(&slug("m"), None).await.unwrap().stages[0].windows.len();
    until("the controller to know", async || controller.told("paused by me")).await;
    let before = kept().await;
    let told = controller.told.lock().unwrap().len();
    until("windows in the pause", async || {
        controller.told.lock().unwrap()[told..].iter().filter(|line| *line == "windows").count() > 2
    })
    .await;
    assert_eq!(kept().await, before);
    assert!(before > 8);

    // And then nobody serves it any more.
    drop((candidate, calls));
    let _calls = Calls::serve(&client, &[("a", "s")]).await;
    let end = controller.end().await;
    assert_eq!(end.outcome(), Some(Outcome::RolledBack), "{:#?}", end.history);
    assert!(end.history.last().unwrap().sentence.contains("no worker has served b for 4s"), "{:#?}", end.history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plan_that_cannot_decide_is_refused_and_whoever_forces_it_is_named() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World { requests: 2, ..World::default() }).await;
    let rollouts = Rollouts::new(&client);
    let mut usual = config();
    usual.guarded = Default::default();
    rollouts.start(start(usual.clone()), None).await.unwrap();
    let settings = Settings { lease: Duration::from_secs(5), patience: Duration::from_secs(3) };
    let controller = Controller::new(&client, router(&client, &nodes).await, "c".into(), settings.clone());
    let end = controller.run(&slug("m"), std::future::pending(), |_| {}).await.unwrap();
    assert_eq!(end.outcome(), Some(Outcome::Refused));
    let reason = &end.history.last().unwrap().sentence;
    for words in ["a step of 50 % held for 2s cannot decide at", "p99", "What helps: ", "--any-traffic"] {
        assert!(reason.contains(words), "{words}: {reason}");
    }

    // Somebody wants it all the same, and waits for nothing.
    usual.plan.any_traffic = true;
    rollouts.start(start(usual), None).await.unwrap();
    let controller = Running::start(&nodes, "d", settings.lease, 0);
    until("the first step", async || {
        matches!(rollouts.get(&slug("m")).await.unwrap().phase, Phase::Holding(_) | Phase::Paused { .. })
    })
    .await;
    rollouts.promote(&slug("m"), true, "me").await.unwrap();
    until("the last step", async || {
        let phase = rollouts.get(&slug("m")).await.unwrap().phase;
        matches!(phase, Phase::Holding(stage) if stage.step == 1)
    })
    .await;
    rollouts.promote(&slug("m"), false, "me").await.unwrap();
    let end = controller.end().await;
    assert_eq!(end.outcome(), Some(Outcome::Promoted));
    let html = page(&rollouts.record(&slug("m"), None).await.unwrap()).unwrap().render();
    assert!(html.contains("Forced, without waiting for evidence: 50 % by me, 100 % by me"));
    assert!(!html.contains("Both targets are met"));
}

/// Takes what is posted, one request a connection.
fn listener() -> (String, mpsc::Receiver<serde_json::Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, posted) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
            let body = loop {
                let n = connection.read(&mut buffer).unwrap();
                read.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8_lossy(&read);
                let body = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
                if let Some(body) = body {
                    break body;
                }
            };
            if sender.send(body).is_err() {
                return;
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    (url, posted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn others_hear_of_it_and_its_end_is_a_command() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    let mut short = config();
    short.plan.steps = vec![100.0];
    let id = rollouts.start(start(short), None).await.unwrap().id;
    let ((url, posted), file) = (listener(), nodes[0].file("end.json"));
    let embed = |arguments: &[&str]| {
        let mut command = command::embed(&["rollout", "-s", &nodes[0].url, "--sys-user=sys", "--sys-password=pw"]);
        command.env("HOME", nodes[0].folder.path()).env_remove("XDG_CONFIG_HOME");
        command.arg("--mappings-file").arg(nodes[0].mappings()).args(arguments);
        command
    };
    let on_end = format!("cat > {}; echo $EMBED_ROLLOUT_OUTCOME >> {0}", file.display());
    let mut run =
        embed(&["run", "m", "--json", "--webhook", &url, "--on-end", &on_end, "--metrics-listen=127.0.0.1:0"]);
    let ran = tokio::task::spawn_blocking(move || run.output().unwrap()).await.unwrap();
    assert!(ran.status.success(), "{}", command::stderr(&ran));
    assert!(command::stderr(&ran).contains("/metrics"), "{}", command::stderr(&ran));
    let states: Vec<_> = posted.try_iter().map(|body| (body["id"].clone(), body["state"].clone())).collect();
    let states: Vec<_> = states.iter().map(|(of, state)| (of.as_str().unwrap(), state.as_str().unwrap())).collect();
    assert_eq!(states, ["moving", "holding", "promoted"].map(|state| (id.as_str(), state)));
    let end = std::fs::read_to_string(&file).unwrap();
    assert!(end.starts_with('{') && end.ends_with("}promoted\n"), "{end}");
    let shown = async |arguments: &[&str]| {
        let mut command = embed(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (command::stdout(&output), command::stderr(&output))
    };
    let (history, _) = shown(&["history", "m"]).await;
    assert!(history.contains(&id) && history.contains("promoted"), "{history}");
    let (watched, _) = shown(&["status", "m", "--watch"]).await;
    assert!(watched.contains("gets 100 % of the traffic"), "{watched}");

    // Other lanes are decided on first.
    let refused = shown(&["finish", "m", "--dry-run"]).await;
    assert!(refused.1.contains("did not move: "), "{refused:?}");
    routed::set(&router(&client, &nodes).await, &slug("m"), &Change::all_to(slug("b"), "test")).await;
    // Workers serve what the bucket wants.
    for (variant, default) in [("a", true), ("b", false)] {
        let desired = serde_json::from_value(serde_json::json!({ "default": default })).unwrap();
        let serve = models::Serve { model: slug("m"), variant: slug(variant), desired };
        models::serve(&client, &serve).await.unwrap();
    }
    let (would, _) = shown(&["finish", "m", "--dry-run"]).await;
    let steps = ["make b the default variant of m", "remove the route of m", "unserve a"];
    assert_eq!(would.lines().collect::<Vec<_>>(), steps.map(|step| format!("would {step}")));
    drop(calls);
    let _worker = follow(&client).await;
    // The server refuses to read its files: what is done stays done, and what is not is left for the next time.
    std::fs::write(nodes[0].file("other.conf"), "no_such_setting\n").unwrap();
    let (done, stderr) = shown(&["finish", "m"]).await;
    assert_eq!(done, format!("done: {}\n", steps[0]), "{stderr}");
    assert!(stderr.contains("was not changed, and all servers are as before"), "{stderr}");
    assert_eq!(models::desired(&client).await.unwrap()[&(slug("m"), slug("b"))].default, Some(true));
    std::fs::write(nodes[0].file("other.conf"), "").unwrap();
    let (done, stderr) = shown(&["finish", "m"]).await;
    assert_eq!(
        done.lines().collect::<Vec<_>>(),
        steps[1..].iter().map(|step| format!("done: {step}")).collect::<Vec<_>>(),
        "{stderr}"
    );
    assert_eq!(shown(&["finish", "m"]).await.0, "nothing is left to do\n");
    let (_, route) = router(&client, &nodes).await.current(&slug("m")).await.unwrap();
    assert!(route.is_none_or(|route| route.lanes.is_empty()));
    assert!(!models::desired(&client).await.unwrap().contains_key(&(slug("m"), slug("a"))));
}

#[test]
fn a_plan_can_be_seen_before_it_begins() {
    let steps = ["--steps=5:10m,50", "--hold=1h", "--restart=1m"];
    let mut command =
        command::embed(&["rollout", "start", "m", "--from=a", "--to=b", "--print-config", "-s=nats://127.0.0.1:1"]);
    let output = command.args(steps).output().unwrap();
    let config: Config = toml::from_str(&command::stdout(&output)).unwrap();
    assert_eq!(config.plan.steps, [5.0, 50.0]);
    assert_eq!([0, 1].map(|step| config.at(step).plan.hold.as_secs()), [600, 3_600]);
    assert_eq!(config.fast.restart, Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_death_of_the_leader_of_the_bucket_costs_time_alone() {
    let mut nodes = cluster().await;
    let client = nodes[0].client().await;
    provision(&client, &["a", "b"], 3).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    let mut slow = config();
    slow.plan.hold = Duration::from_secs(4);
    rollouts.start(start(slow), None).await.unwrap();
    let controller = Running::start(&nodes, "c", Duration::from_secs(5), 0);
    holds(&rollouts, 0).await;
    let info = client.nats().request("$JS.API.STREAM.INFO.KV_embed_rollouts", "".into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
    let leader = info["cluster"]["leader"].as_str().unwrap().to_owned();
    nodes.iter_mut().find(|node| node.name == leader).unwrap().kill();
    let end = controller.end().await;
    assert_eq!(end.outcome(), Some(Outcome::Promoted), "{leader}: {:#?}", end.history);
    assert_replays(&rollouts).await;
    let verdicts = rollouts.record(&slug("m"), None).await.unwrap().stages.into_iter().flat_map(|stage| stage.verdicts);
    assert!(verdicts.into_iter().all(|recorded| recorded.verdict.decision != Decision::RollBack));
}
