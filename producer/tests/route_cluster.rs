//! Routes on three servers: one that is down, one that refuses, a change whose author died.

mod support;

use embed_control::route::{Change, Report, ServerState};
use embed_schemas::{RouteState, Weights, routes::describe};
use serde_json::{Value, json};
use support::{
    command::stdout,
    routed::{Node, cluster, command, provision, router},
    slug, until,
    variants::Calls,
};

fn change(shares: &[&str]) -> Change {
    Change::to(Weights::parse(shares).unwrap(), "test")
}

/// A server that leads nothing that routes need, so that it can be taken away without a wait for another leader.
async fn victim(nodes: &[Node]) -> usize {
    let client = nodes[0].client().await;
    let context = async_nats::jetstream::new(client.nats().clone());
    let info: Value = context.request("STREAM.INFO.KV_embed_routes", &json!({})).await.unwrap();
    let leader = info["cluster"]["leader"].as_str().unwrap();
    // The first is the one that the test's own clients are connected to.
    (1..3).find(|i| nodes[*i].name != leader).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_is_changed_and_one_that_is_down_is_known_and_caught_up() {
    let mut nodes = cluster().await;
    let client = nodes[0].client().await;
    provision(&client, &["a", "b"], 3).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    let applied = router.set(&m, &change(&["a=95", "b=5"])).await.unwrap();
    assert_eq!(applied.servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    eprintln!("three servers: {:?}", applied.took);

    let down = victim(&nodes).await;
    let name = nodes[down].name.clone();
    nodes[down].kill();
    let applied = router.set(&m, &change(&["a=50", "b=50"])).await.unwrap();
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
    router.set(&m, &change(&["a=95", "b=5"])).await.unwrap();
    std::fs::write(nodes[1].file("other.conf"), "\n\nno_such_setting\n").unwrap();
    let error = router.set(&m, &change(&["a=50", "b=50"])).await.unwrap_err();
    assert!(error.to_string().contains("server n2: it refuses to reload") && error.code() == "undone", "{error}");
    let report = router.actual().await.unwrap();
    assert!(report.is_as_wanted(), "{report:?}");
    for server in &report.servers {
        assert_eq!(describe(&server.holds[&m]), "a=95 b=5", "{}", server.name);
    }
    // A rollback is not undone for the sake of one server: it is told which.
    let error = router.set(&m, &Change::all_to(slug("a"), "test")).await.unwrap_err();
    assert!(error.to_string().contains("server n2") && error.code() == "half_applied", "{error}");
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
    router.set(&m, &change(&["a=95", "b=5"])).await.unwrap();
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
