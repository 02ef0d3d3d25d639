//! `embed route` on one server: what is refused before anything changes, and what is found and repaired afterwards.

use std::path::Path;

use crate::support::{
    command::{stderr, stdout},
    routed::{ACCOUNTS, Node, alone, command, provision, router, set},
    slug,
    variants::Calls,
};
use embed_control::route::{Change, Outcome, RouteError, ServerState};
use embed_schemas::{Lane, RouteState, Weights, routes::describe};
use serde_json::Value;

fn change(shares: &[&str]) -> Change {
    Change::to(Weights::parse(shares).unwrap(), "test")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_set_shown_cleared_and_remembered() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let run = async |arguments: &[&str]| {
        let mut command = command(&nodes, arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let answer = run(&["show"]).await;
    assert!(stdout(&answer).contains("no routes") && answer.status.success(), "{}", stderr(&answer));
    let answer = run(&["set", "m", "a=1", "b=99", "--who", "me", "--note", "a trial"]).await;
    assert!(stdout(&answer).starts_with("m: b=99 a=1 (before: default variant), on 1 of 1 servers"), "{answer:?}");
    assert!(answer.status.success());
    let options = embed_client::CallOptions::default();
    for _ in 0..50 {
        client.embed(&slug("m"), embed_schemas::EmbedRequest::new(["x"]), &options).await.unwrap();
    }
    assert!(calls.of("b") > 25 && calls.of("a") + calls.of("b") == 50);

    // One lane is changed, the others stay.
    assert!(run(&["set", "m", "a=100", "--lane", "rpc", "--who", "you"]).await.status.success());
    let answer = run(&["show", "m", "--json"]).await;
    let report: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(report["as_wanted"], true, "{report}");
    assert_eq!(report["routes"]["m"]["who"], "you");
    assert_eq!(report["routes"]["m"]["from"]["rpc"]["b"], 99);
    assert_eq!(report["servers"][0]["holds"]["m"]["rpc"]["a"], 100);
    assert_eq!(report["servers"][0]["holds"]["m"]["job"]["b"], 99);

    // The way out is one command; a variant that nobody serves is no way out.
    let started = std::time::Instant::now();
    let answer = run(&["set", "m", "--all-to", "b"]).await;
    eprintln!("emergency: {:?}, {}", started.elapsed(), stdout(&answer));
    assert!(stdout(&answer).starts_with("m: b=100 "), "{answer:?}");
    let answer = run(&["set", "m", "--all-to", "gone"]).await;
    assert!(stderr(&answer).contains("no worker serves variant gone of model m; served are: a, b"), "{answer:?}");

    let answer = run(&["clear", "m"]).await;
    assert!(stdout(&answer).starts_with("m: default variant (before: b=100)"), "{answer:?}");
    let history = stdout(&run(&["show", "m", "--history"]).await);
    assert!(history.contains("me applied: default variant -> b=99 a=1, \"a trial\"]"), "{history}");
    assert!(history.contains("you applied"), "{history}");

    // Settings are given once. Nobody hears that they are kept, which is no reason to fail.
    let (unread, stderr) = std::io::pipe().unwrap();
    drop(unread);
    let mut remember = command(&nodes, &["--remember", "show"]);
    assert!(remember.stdout(std::process::Stdio::null()).stderr(stderr).status().unwrap().success());
    let mut bare = crate::support::command::embed(&["route", "-s", &nodes[0].url, "show"]);
    bare.env("HOME", nodes[0].folder.path()).env_remove("XDG_CONFIG_HOME").current_dir(Path::new("/"));
    assert!(bare.output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_says_where_the_system_account_is_and_options_may_stand_anywhere() {
    let (node, _client) = alone(&["a", "b"]).await;
    let contexts = node.folder.path().join("config/nats/context");
    std::fs::create_dir_all(&contexts).unwrap();
    std::fs::write(contexts.join("mine.json"), serde_json::json!({"url": node.url}).to_string()).unwrap();
    let mut command =
        crate::support::command::embed(&["route", "show", "--context=mine", "--sys-user=sys", "--sys-password=pw"]);
    command.arg("--mappings-file").arg(node.mappings()).arg("--json");
    command.env("XDG_CONFIG_HOME", node.folder.path().join("config")).current_dir(Path::new("/"));
    let answer = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(answer.status.success(), "{}", stderr(&answer));
    let report: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(report["servers"][0]["name"], "n1", "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_holds_wherever_it_can_whatever_fails_elsewhere() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    // The file of another server cannot be written: before ours, or after it.
    for first in [true, false] {
        set(&router, &m, &change(&["a=50", "b=50"])).await;
        let mut command =
            crate::support::command::embed(&["route", "-s", &nodes[0].url, "--sys-user=sys", "--sys-password=pw"]);
        command.env("HOME", nodes[0].folder.path()).env_remove("XDG_CONFIG_HOME").current_dir(Path::new("/"));
        let (ours, theirs) = (nodes[0].mappings(), Path::new("/nonexistent/x.conf").to_owned());
        for file in if first { [theirs, ours] } else { [ours, theirs] } {
            command.arg("--mappings-file").arg(file);
        }
        command.args(["set", "m", "--all-to", "b"]);
        let answer = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(answer.status.code(), Some(1), "{answer:?}");
        assert!(stderr(&answer).contains("/nonexistent/x.conf"), "{answer:?}");
        let report = router.actual().await.unwrap();
        let entry = &report.routes[&m];
        assert_eq!(describe(&entry.record.lanes), "b=100", "the bucket wants it");
        assert_eq!(describe(&report.servers[0].holds[&m]), "b=100", "and the server that can be reached holds it");
        // It is finished once everything can be written.
        drop(router.sync(false, "test", &[]).await.unwrap());
        assert_eq!(router.actual().await.unwrap().routes[&m].record.state, RouteState::Applied);
    }
    // What is no emergency is taken back.
    set(&router, &m, &change(&["a=50", "b=50"])).await;
    let mut command = command(&nodes, &["--mappings-file", "/nonexistent/x.conf", "set", "m", "a=90", "b=10"]);
    let answer = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(answer.status.code() == Some(1) && stderr(&answer).contains("/nonexistent/x.conf"), "{answer:?}");
    let report = router.actual().await.unwrap();
    assert_eq!(describe(&report.routes[&m].record.lanes), "a=50 b=50");
    assert_eq!(describe(&report.servers[0].holds[&m]), "a=50 b=50");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_routed_is_refused_before_anything_changes() {
    let (node, client) = alone(&["a", "b", "c"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s"), ("c", "t"), ("d", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    let error = router.set(&m, &change(&["a=90", "c=10"])).await.unwrap_err();
    assert!(matches!(error, RouteError::Spaces { .. }) && error.to_string().contains("--force"), "{error}");
    let error = router.set(&m, &change(&["a=90", "d=10"])).await.unwrap_err();
    assert!(error.to_string().contains("EMBED_m/d-job does not exist"), "{error}");
    let error = router.set(&m, &change(&["a=90", "x=10"])).await.unwrap_err();
    assert_eq!(error.code(), "not_served", "{error}");
    // Somebody's wildcard is in the way.
    std::fs::write(nodes[0].file("other.conf"), "mappings { \"embed.*.m\": \"elsewhere\" }\n").unwrap();
    assert!(nodes[0].system("RELOAD").await["error"].is_null());
    let error = router.set(&m, &change(&["a=90", "b=10"])).await.unwrap_err();
    assert!(error.to_string().contains("server n1 maps embed.*.m, which overlaps embed.rpc.m"), "{error}");
    assert_eq!(router.actual().await.unwrap().routes.len(), 0, "nothing was written down");
    assert_eq!(std::fs::read_to_string(nodes[0].mappings()).unwrap(), "");

    std::fs::write(nodes[0].file("other.conf"), "").unwrap();
    assert!(nodes[0].system("RELOAD").await["error"].is_null());
    let forced = Change { force: true, ..change(&["a=90", "c=10"]) };
    assert!(set(&router, &m, &forced).await.missing.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_is_refused_is_undone_and_told_with_file_and_line() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    set(&router, &m, &change(&["a=95", "b=5"])).await;
    std::fs::write(nodes[0].file("other.conf"), "# fine\nmax_payload: \"much\"\n").unwrap();
    let end = router.set(&m, &change(&["a=50", "b=50"])).await.unwrap();
    assert_eq!(end.code(), "undone", "{end}");
    assert!(end.to_string().contains("server n1: it refuses to reload: "), "{end}");
    assert!(end.to_string().contains("other.conf:2:"), "{end}");
    let report = router.actual().await.unwrap();
    assert!(report.is_as_wanted(), "{report:?}");
    let record = &report.routes[&m].record;
    assert_eq!((describe(&record.lanes), record.state), ("a=95 b=5".to_owned(), RouteState::Applied));
    assert!(record.problem.as_ref().unwrap().contains("other.conf:2:"), "it is on record");
    // In an emergency it is left, and told.
    let end = router.set(&m, &Change::all_to(slug("a"), "test")).await.unwrap();
    assert_eq!(end.code(), "half_applied", "{end}");
    let report = router.actual().await.unwrap();
    assert_eq!(report.servers[0].state, ServerState::Differs);
    assert!(report.unfinished().next().unwrap().contains("begun and not finished"));
    std::fs::write(nodes[0].file("other.conf"), "").unwrap();
    let report = router.sync(false, "test", &[]).await.unwrap();
    assert!(report.is_as_wanted(), "{report:?}");
    assert_eq!(describe(&report.routes[&m].record.lanes), "a=100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_that_was_edited_by_hand_is_shown_and_repaired() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    set(&router, &slug("m"), &change(&["a=95", "b=5"])).await;
    let text = std::fs::read_to_string(nodes[0].mappings()).unwrap();
    let edited = text.replacen("weight: 95", "weight: 60", 1).replacen("weight: 5}", "weight: 40}", 1);
    std::fs::write(nodes[0].mappings(), edited).unwrap();
    assert!(router.actual().await.unwrap().is_as_wanted(), "nobody has read it yet");
    assert!(nodes[0].system("RELOAD").await["error"].is_null());
    let answer = command(&nodes, &["show"]).output().unwrap();
    assert_eq!(answer.status.code(), Some(1));
    let expected = "embed.bulk.m: a=60 b=40, wanted: a=95 b=5";
    assert!(stdout(&answer).contains("server n1: DIFFERS") && stdout(&answer).contains(expected), "{answer:?}");
    assert!(command(&nodes, &["sync"]).output().unwrap().status.success());
    assert_eq!(std::fs::read_to_string(nodes[0].mappings()).unwrap(), text);
    // A file that is not ours is not overwritten.
    std::fs::write(nodes[0].mappings(), "# mine\n").unwrap();
    let end = router.set(&slug("m"), &change(&["a=50", "b=50"])).await.unwrap();
    assert!(end.to_string().contains("not written"), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_may_get_to_the_servers_by_other_means() {
    let node = Node::start("n1", ACCOUNTS);
    let client = node.client().await;
    provision(&client, &["a", "b"], 1).await;
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let (url, mappings) = (node.url.clone(), node.mappings());
    let run = |arguments: &[&str]| {
        let route = ["route", "-s", &url, "--sys-user=sys", "--sys-password=pw", "--route-config=/nowhere/route.toml"];
        crate::support::command::embed(&[&route[..], arguments].concat()).output().unwrap()
    };
    let answer = run(&["set", "m", "a=90", "b=10"]);
    assert!(stderr(&answer).contains("--mappings-file") && stderr(&answer).contains("--render"), "{answer:?}");
    let answer = run(&["set", "m", "a=90", "b=10", "--render"]);
    assert!(answer.status.success(), "{answer:?}");
    assert!(stdout(&run(&["show"])).contains("unfinished"), "it waits for the file");
    std::fs::write(mappings, stdout(&answer)).unwrap();
    let answer = run(&["sync"]);
    assert!(answer.status.success() && stdout(&answer).contains("as wanted"), "{answer:?}");
    let nodes = [node];
    let router = router(&client, &nodes).await;
    let report = router.actual().await.unwrap();
    assert_eq!(report.routes[&slug("m")].record.lanes[&Lane::Job].to_string(), "a=90 b=10");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_change_routes_at_the_same_time_do_not_lose_each_others_changes() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let set = async |model: String, share: u8| {
        let router = router(&client, &nodes).await;
        let weights = Weights::parse(&[format!("a={share}"), format!("b={}", 100 - share)]).unwrap();
        let change = Change { lanes: vec![Lane::Rpc], force: true, ..Change::to(weights, "test") };
        router.set(&slug(&model), &change).await.unwrap()
    };
    // Each model has an author of its own; all write the same file.
    for share in [10, 20, 30] {
        let all = futures::future::join_all((0..6).map(|i| set(format!("m{i}"), share + i))).await;
        for end in all {
            assert!(matches!(&end, Outcome::Applied(applied) if applied.missing.is_empty()), "{end}");
        }
    }
    // One model has six: each is told whether it is theirs that holds.
    let all = futures::future::join_all((0..6).map(|i| set("m0".to_owned(), 40 + i))).await;
    let applied = |end: &&Outcome| matches!(end, Outcome::Applied(_));
    for end in all.iter().filter(|end| !applied(end)) {
        assert_eq!(end.code(), "superseded", "{end}");
    }
    assert!(all.iter().any(|end| applied(&end)));
    let report = router(&client, &nodes).await.actual().await.unwrap();
    assert!(report.is_as_wanted(), "{:?}", report.unfinished().chain(report.trouble()).collect::<Vec<_>>());
    for i in 1..6u8 {
        let expected = format!("b={} a={}", 70 - i, 30 + i);
        assert_eq!(report.servers[0].holds[&slug(&format!("m{i}"))][&Lane::Rpc].to_string(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_may_be_declared_in_a_file_tried_and_watched() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let m = slug("m");
    let run = async |arguments: &[&str]| {
        let mut command = command(&nodes, arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let answer = run(&["set", "m", "a=50", "b=50", "--dry-run"]).await;
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(stdout(&answer), "m: default variant would become a=50 b=50\n");
    let answer = run(&["set", "m", "a=50", "x=50", "--dry-run"]).await;
    assert!(answer.status.code() == Some(1) && stderr(&answer).contains("no worker serves variant x"), "{answer:?}");

    let file = nodes[0].file("routes.toml");
    let (declared, name) = (|text: &str| std::fs::write(&file, text).unwrap(), file.to_str().unwrap());
    declared("[route.m]\nweights = {a = 95, b = 5}\nbulk = {a = 100}\nnote = \"from a file\"\n");
    let change = "m: default variant would become rpc: a=95 b=5, job: a=95 b=5, bulk: a=100\n";
    let answer = run(&["diff", "-f", name]).await;
    assert_eq!((answer.status.code(), stdout(&answer).as_str()), (Some(1), change), "{answer:?}");
    let answer = run(&["apply", "-f", name, "--dry-run"]).await;
    assert_eq!((answer.status.code(), stdout(&answer).as_str()), (Some(0), change), "{answer:?}");
    assert!(router.history(&m).await.unwrap().is_empty(), "nothing is written down so far");
    let answer = run(&["apply", "-f", name]).await;
    assert!(answer.status.success() && stdout(&answer).starts_with("m: rpc: a=95 b=5, job: "), "{answer:?}");
    let history = router.history(&m).await.unwrap();
    assert_eq!(history[0].record.note.as_deref(), Some("from a file"));
    assert_eq!(describe(&router.actual().await.unwrap().servers[0].holds[&m]), describe(&history[0].record.lanes));
    // A second time there is nothing to do.
    let answer = run(&["apply", "-f", name]).await;
    assert!(answer.status.success() && stdout(&answer).contains("as the file declares"), "{answer:?}");
    assert!(run(&["diff", "-f", name]).await.status.success());
    assert_eq!(router.history(&m).await.unwrap(), history);
    // What differs on a server is another question, and here there is nothing.
    assert!(run(&["diff"]).await.status.success());
    declared("[route.m]\nweight = {a = 95, b = 5}\n");
    let answer = run(&["apply", "-f", name]).await;
    assert!(answer.status.code() == Some(1) && stderr(&answer).contains("unknown field `weight`"), "{answer:?}");

    // Without the system account: what is written down.
    let mut bare =
        crate::support::command::embed(&["route", "-s", &nodes[0].url, "--route-config=/nowhere/route.toml", "show"]);
    let answer = tokio::task::spawn_blocking(move || bare.output().unwrap()).await.unwrap();
    assert!(answer.status.success(), "{answer:?}");
    assert!(stdout(&answer).contains("m: rpc: a=95 b=5") && stdout(&answer).contains("is not known"), "{answer:?}");

    // Whoever watches sees a change, and only changes.
    let mut watching = command(&nodes, &["show", "m", "--watch", "--json"]);
    let mut watching = watching.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    let mut next = move || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let (first, mut next) = tokio::task::spawn_blocking(move || (next(), next)).await.unwrap();
    assert_eq!(first["routes"]["m"]["lanes"]["rpc"]["a"], 95);
    // What the file does not name is left alone, unless it is to go.
    declared("");
    assert!(run(&["apply", "-f", name]).await.status.success());
    assert_eq!(router.history(&m).await.unwrap(), history);
    assert!(run(&["apply", "-f", name, "--prune"]).await.status.success());
    let seen = tokio::task::spawn_blocking(move || {
        loop {
            let report = next();
            if report["as_wanted"] == true {
                return report;
            }
        }
    });
    assert_eq!(seen.await.unwrap()["routes"]["m"]["lanes"], serde_json::json!({}));
    watching.kill().unwrap();
    watching.wait().unwrap();
}
