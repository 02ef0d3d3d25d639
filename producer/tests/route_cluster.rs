//! Routes on three servers: one that is down, one that refuses, a change whose author died.

use crate::support::{
    command::stdout,
    routed::{Node, cluster, command, led_by_another, provision, router, set},
    slug, until,
    variants::Calls,
};
use embed_control::{
    provision::{self as provisioning, Given, ModelVariants},
    route::{Change, Outcome, Report, ServerState},
};
use embed_schemas::{RouteState, Weights, routes::describe, streams::StreamSettings};
use serde_json::{Value, json};

fn change(shares: &[&str]) -> Change {
    Change::to(Weights::parse(shares).unwrap(), "test")
}

/// The server that leads the bucket of routes.
async fn leader(nodes: &[Node]) -> usize {
    let client = nodes[0].client().await;
    let context = async_nats::jetstream::new(client.nats().clone());
    let info: Value = context.request("STREAM.INFO.KV_embed_routes", &json!({})).await.unwrap();
    let leader = info["cluster"]["leader"].as_str().unwrap();
    nodes.iter().position(|node| node.name == leader).unwrap()
}

/// A server that leads nothing that routes need, so that it can be taken away without a wait for another leader.
async fn victim(nodes: &[Node]) -> usize {
    let leader = leader(nodes).await;
    // The first is the one that the test's own clients are connected to.
    (1..3).find(|i| *i != leader).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_is_changed_and_one_that_is_down_is_known_and_caught_up() {
    let mut nodes = cluster().await;
    let client = nodes[0].client().await;
    provision(&client, &["a", "b"], 3).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    // A bucket that somebody made with one copy gets those of the streams, without being told how many that are; and so does what came later.
    let context = async_nats::jetstream::new(client.nats().clone());
    let late = ["KV_embed_routes", "EMBED_EXHAUSTED_m"];
    let copies = async |stream: &str| {
        let info: Value = context.request(format!("STREAM.INFO.{stream}"), &json!({})).await.unwrap();
        (info["config"].clone(), info["config"]["num_replicas"].clone())
    };
    for stream in late {
        let (mut config, _) = copies(stream).await;
        config["num_replicas"] = 1.into();
        let _: Value = context.request(format!("STREAM.UPDATE.{stream}"), &config).await.unwrap();
        assert_eq!(copies(stream).await.1, 1);
    }
    let given = Given { replicas: false, ..Given::ALL };
    let model = ModelVariants { model: slug("m"), variants: vec![slug("a"), slug("b")] };
    provisioning::apply_given(client.nats(), &[model], &StreamSettings::default(), given).await.unwrap();
    for stream in late {
        assert_eq!(copies(stream).await.1, 3);
    }

    let router = router(&client, &nodes).await;
    let m = slug("m");
    let applied = set(&router, &m, &change(&["a=95", "b=5"])).await;
    assert_eq!(applied.servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    eprintln!("three servers: {:?}", applied.took);

    let down = victim(&nodes).await;
    let name = nodes[down].name.clone();
    nodes[down].kill();
    let applied = set(&router, &m, &change(&["a=50", "b=50"])).await;
    eprintln!("with one down: {:?}", applied.took);
    assert_eq!(applied.missing, std::slice::from_ref(&name));
    let answer = command(&nodes, &["show"]).output().unwrap();
    assert_eq!(answer.status.code(), Some(1));
    let text = stdout(&answer);
    assert!(text.contains(&format!("server {name}: NO ANSWER")) && text.contains("not in effect everywhere"), "{text}");

    nodes[down].restart();
    let mut report = None;
    until("it is back", async || match router.sync(false, "test", &[]).await {
        Ok(synced) => {
            eprintln!("synced: {:?}", synced.servers);
            report.insert(synced).is_as_wanted()
        }
        Err(error) => {
            eprintln!("not synced: {error}");
            false
        }
    })
    .await;
    let report = report.unwrap();
    assert!(report.servers.iter().all(|server| describe(&server.holds[&m]) == "a=50 b=50"));
    assert_eq!(report.routes[&m].record.problem, None);

    // Servers that hold what is wanted are not bothered.
    let loaded = |report: &Report| report.servers.iter().map(|server| server.since.clone()).collect::<Vec<_>>();
    let again = router.sync(false, "test", &[]).await.unwrap();
    assert!(loaded(&report).iter().all(Option::is_some));
    assert_eq!(loaded(&again), loaded(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_one_server_refuses_is_undone_everywhere() {
    let nodes = cluster().await;
    let client = nodes[0].client().await;
    provision(&client, &["a", "b"], 3).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    set(&router, &m, &change(&["a=95", "b=5"])).await;
    std::fs::write(nodes[1].file("other.conf"), "\n\nno_such_setting\n").unwrap();
    let end = router.set(&m, &change(&["a=50", "b=50"])).await.unwrap();
    assert!(end.to_string().contains("server n2: it refuses to reload") && end.code() == "undone", "{end}");
    let report = router.actual().await.unwrap();
    assert!(report.is_as_wanted(), "{report:?}");
    for server in &report.servers {
        assert_eq!(describe(&server.holds[&m]), "a=95 b=5", "{}", server.name);
    }
    // A rollback is not undone for the sake of one server: it is told which.
    let end = router.set(&m, &Change::all_to(slug("a"), "test")).await.unwrap();
    assert!(end.to_string().contains("server n2") && end.code() == "half_applied", "{end}");
    if end.to_string().contains("could not be written down") {
        // The bucket has a second, and this machine may be busy.
        drop(router.sync(false, "test", &[]).await.unwrap());
    }
    let report = router.actual().await.unwrap();
    let states: Vec<_> = report.servers.iter().map(|server| server.state).collect();
    assert_eq!(states, [ServerState::AsWanted, ServerState::Differs, ServerState::AsWanted]);
    let report = router.sync(true, "test", &[]).await.unwrap();
    assert!(report.is_as_wanted() || report.unfinished().next().is_some(), "{report:?}");
    std::fs::write(nodes[1].file("other.conf"), "").unwrap();
    let report = router.sync(true, "test", &[]).await.unwrap();
    assert!(report.is_as_wanted(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_author_died_is_told_and_finished_or_undone() {
    let nodes = cluster().await;
    let client = nodes[0].client().await;
    provision(&client, &["a", "b"], 3).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    set(&router, &m, &change(&["a=95", "b=5"])).await;
    let slow = victim(&nodes).await;
    for (undo, expected) in [(false, "a=60 b=40"), (true, "a=60 b=40")] {
        let (a, b) = if undo { ("a=10", "b=90") } else { ("a=60", "b=40") };
        // A server that hangs keeps the author waiting after it has written down what it is about to do.
        nodes[slow].signal(libc::SIGSTOP);
        let mut author = command(&nodes, &["set", "m", a, b]).spawn().unwrap();
        until("the intent", async || {
            let last = router.history(&m).await.unwrap().pop().unwrap().record;
            last.state == RouteState::Applying && describe(&last.lanes).contains(a)
        })
        .await;
        author.kill().unwrap();
        assert_eq!(author.wait().unwrap().code(), None, "it was killed before it was done");
        nodes[slow].signal(libc::SIGCONT);
        let answer = command(&nodes, &["show"]).output().unwrap();
        assert!(stdout(&answer).contains("was begun and not finished"), "{}", stdout(&answer));
        until("sync", async || router.sync(undo, "test", &[]).await.is_ok_and(|report| report.is_as_wanted())).await;
        let report = router.actual().await.unwrap();
        for server in &report.servers {
            assert_eq!(describe(&server.holds[&m]), expected, "{}", server.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_needs_neither_a_leader_nor_a_quorum_and_is_written_down_later() {
    let mut nodes = cluster().await;
    provision(&nodes[0].client().await, &["a", "b"], 3).await;
    // The first is the one that everybody here is connected to, and that stays.
    if leader(&nodes).await == 0 {
        nodes.swap(0, 1);
    }
    let led = leader(&nodes).await;
    let other = 3 - led;
    let client = nodes[0].client().await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    set(&router, &m, &change(&["a=50", "b=50"])).await;

    // Another model, whose route nobody can read while that lasts.
    let other_model = Change { lanes: vec![embed_schemas::Lane::Rpc], force: true, ..change(&["x=30", "y=70"]) };
    set(&router, &slug("other"), &other_model).await;

    // Leader and quorum hang.
    [led, other].iter().for_each(|i| nodes[*i].signal(libc::SIGSTOP));
    let mut emergency = command(&nodes, &["set", "m", "--all-to", "b", "--who", "me", "--write-within", "0s"]);
    let began = std::time::Instant::now();
    let answer = tokio::task::spawn_blocking(move || emergency.output().unwrap()).await.unwrap();
    eprintln!("an emergency without a quorum: {:?}", began.elapsed());
    assert_eq!(answer.status.code(), Some(3), "{answer:?}");
    let told = crate::support::command::stderr(&answer);
    assert!(told.contains(&format!("is in effect on {}", nodes[0].name)), "{told}");
    assert!(told.contains("could not be written down") && told.contains("embed route sync"), "{told}");
    assert!(told.contains(&nodes[led].name) && told.contains(&nodes[other].name), "who was not reached: {told}");
    assert_eq!(nodes[0].holds("m").await, "b=100");
    assert_eq!(nodes[0].holds("other").await, "x=30 y=70", "what is in effect for others stays");
    let mut show = command(&nodes, &["show", "m"]);
    let answer = tokio::task::spawn_blocking(move || show.output().unwrap()).await.unwrap();
    let held = format!("  server {} holds\n    m: b=100\n", nodes[0].name);
    assert!(answer.status.code() == Some(1) && stdout(&answer).contains("what is wanted is not known"), "{answer:?}");
    assert!(stdout(&answer).contains(&held), "{answer:?}");

    // Back again, the bucket knows nothing, and whoever looks is told.
    [led, other].iter().for_each(|i| nodes[*i].signal(libc::SIGCONT));
    let mut found = None;
    until("the bucket to answer", async || match router.actual().await {
        Ok(report) => found.insert(report).servers.iter().all(|server| server.id.is_some()),
        Err(_) => false,
    })
    .await;
    let report = found.unwrap();
    assert_eq!(describe(&report.routes[&m].record.lanes), "a=50 b=50");
    assert_eq!(report.unwritten[&m].who, "me");
    assert!(report.unfinished().any(|line| line.contains("me has put b=100 onto the servers")), "{report:?}");
    // Whatever changes a route next writes it down, and does not go over it: here a change of one lane.
    let rpc = Change { lanes: vec![embed_schemas::Lane::Rpc], ..change(&["a=10", "b=90"]) };
    let everywhere = |end: Outcome| matches!(end, Outcome::Applied(applied) if applied.missing.is_empty());
    until("another change", async || router.set(&m, &rpc).await.is_ok_and(everywhere)).await;
    let report = router.actual().await.unwrap();
    assert!(report.unwritten.is_empty(), "{report:?}");
    for server in &report.servers {
        assert_eq!(describe(&server.holds[&m]), "rpc: b=90 a=10, job: b=100, bulk: b=100", "{}", server.name);
    }
    let history = router.history(&m).await.unwrap();
    let written = history.iter().find(|entry| entry.record.who == "me").unwrap();
    assert!(written.record.problem.as_ref().unwrap().contains("could not be written down"), "{written:?}");

    // The leader alone: the command tells the servers at once, and stays until it is written down.
    set(&router, &m, &change(&["a=50", "b=50"])).await;
    let led = led_by_another(&client, &nodes).await;
    nodes[led].signal(libc::SIGSTOP);
    let mut emergency = command(&nodes, &["set", "m", "--all-to", "a", "--who", "you", "--write-within", "2m"]);
    let answer = tokio::task::spawn_blocking(move || emergency.output().unwrap()).await.unwrap();
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(nodes[0].holds("m").await, "a=100");
    let (_, record) = router.current(&m).await.unwrap();
    let record = record.unwrap();
    assert_eq!((describe(&record.lanes), record.who.as_str()), ("a=100".to_owned(), "you"));
    nodes[led].signal(libc::SIGCONT);
}
