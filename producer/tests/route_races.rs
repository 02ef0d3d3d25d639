//! Several who change routes at the same time, where who is first is not left to chance: a message of one is stopped until the other is done.

use std::time::Duration;

use crate::support::{
    command::stderr,
    routed::{alone, comes, line, on_a_line, router, set},
    slug, until,
    variants::Calls,
};
use embed_client::Client;
use embed_control::route::{Change, Outcome, Router};
use embed_schemas::{
    Lane, RouteState, Slug, Weights,
    routes::{RouteRecord, describe},
};
use serde_json::{Value, json};

fn change(shares: &[&str], who: &str) -> Change {
    Change { force: true, ..Change::to(Weights::parse(shares).unwrap(), who) }
}

fn emergency(to: &str, who: &str) -> Change {
    Change { force: true, ..Change::all_to(slug(to), who) }
}

/// What the bucket wants, and what the server holds.
async fn stands(router: &Router, model: &Slug) -> (String, String) {
    let report = router.actual().await.unwrap();
    let wanted = report.routes.get(model).map(|entry| describe(&entry.record.lanes)).unwrap_or_default();
    let held = report.servers[0].holds.get(model).map(describe).unwrap_or_default();
    (wanted, held)
}

fn both(lanes: &str) -> (String, String) {
    (lanes.to_owned(), lanes.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_leaves_an_emergency_that_comes_at_the_same_time() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let (m, router) = (slug("m"), router(&client, &nodes).await);
    let file = nodes[0].file("routes.toml");
    std::fs::write(&file, "[route.m]\nweights = {a = 95, b = 5}\n").unwrap();
    // Before it has written down what it is about to do; and when it has, but no server knows.
    for moment in ["$KV.embed_routes.m ", ".RELOAD "] {
        set(&router, &m, &change(&["a=50", "b=50"], "test")).await;
        let (relay, _) = line(&nodes[0]);
        let stopped = relay.stop_at(moment, 1);
        let server = ["route", "-s", relay.address(), "--sys-user=sys", "--sys-password=pw"];
        let mut apply = crate::support::command::embed(&server);
        apply.env("HOME", nodes[0].folder.path()).env_remove("XDG_CONFIG_HOME");
        apply.arg("--mappings-file").arg(nodes[0].mappings()).args(["apply", "-f"]).arg(&file);
        let applied = tokio::task::spawn_blocking(move || apply.output().unwrap());
        comes("apply", &stopped).await;
        set(&router, &m, &emergency("b", "me")).await;
        stopped.pass();
        let answer = applied.await.unwrap();
        let told = stderr(&answer);
        assert!(answer.status.code() == Some(3) && told.contains("was changed by me at the same time"), "{answer:?}");
        assert_eq!(stands(&router, &m).await, both("b=100"), "{moment}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_fails_says_that_anothers_holds_if_it_does() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let (m, router) = (slug("m"), router(&client, &nodes).await);
    set(&router, &m, &change(&["a=50", "b=50"], "test")).await;
    let (relay, _client, failing) = on_a_line(&nodes).await;
    // The server refuses it, and when it is about to be taken back it is too late for that.
    std::fs::write(nodes[0].file("other.conf"), "no_such_setting\n").unwrap();
    let stopped = relay.stop_at("\"undone: ", 1);
    let theirs = change(&["a=30", "b=70"], "them");
    let (end, ()) = tokio::join!(failing.set(&m, &theirs), async {
        comes("it to be taken back", &stopped).await;
        std::fs::write(nodes[0].file("other.conf"), "").unwrap();
        set(&router, &m, &change(&["a=10", "b=90"], "me")).await;
        stopped.pass();
    });
    let end = end.unwrap();
    assert!(matches!(&end, Outcome::Superseded { who, .. } if who == "me"), "{end}");
    assert_eq!(stands(&router, &m).await, both("b=90 a=10"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_holds_though_somebody_who_began_earlier_has_the_server_read_an_older_file_later() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let (m, router) = (slug("m"), router(&client, &nodes).await);
    set(&router, &m, &change(&["a=50", "b=50"], "test")).await;
    let older = std::fs::read(nodes[0].mappings()).unwrap();
    let (relay, _client, theirs) = on_a_line(&nodes).await;
    // The server has read the change, and is about to be asked whether it holds it.
    let stopped = relay.stop_at(".ACCOUNTZ ", 3);
    let to = change(&["a=10", "b=90"], "me");
    let (end, ()) = tokio::join!(theirs.set(&m, &to), async {
        comes("the last question", &stopped).await;
        assert_eq!(nodes[0].holds("m").await, "a=10 b=90");
        std::fs::write(nodes[0].mappings(), older).unwrap();
        nodes[0].system("RELOAD").await;
        assert_eq!(nodes[0].holds("m").await, "a=50 b=50");
        stopped.pass();
    });
    let end = end.unwrap();
    assert!(matches!(&end, Outcome::Applied(_)), "{end}");
    assert_eq!(stands(&router, &m).await, both("b=90 a=10"));
}

/// The server's copy of the bucket takes no more than so many bytes at a time.
async fn limit(client: &Client, bytes: i32) {
    let context = async_nats::jetstream::new(client.nats().clone());
    let info: Value = context.request("STREAM.INFO.KV_embed_routes", &json!({})).await.unwrap();
    let mut config = info["config"].clone();
    config["max_msg_size"] = bytes.into();
    let _: Value = context.request("STREAM.UPDATE.KV_embed_routes", &config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_effect_is_said_to_be_though_its_end_cannot_be_written_down() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let (m, router) = (slug("m"), router(&client, &nodes).await);
    for (to, wanted) in [(change(&["a=50", "b=50"], "me"), "a=50 b=50"), (emergency("b", "me"), "b=100")] {
        let (relay, _client, theirs) = on_a_line(&nodes).await;
        let stopped = relay.stop_at("\"state\":\"applied\"", 1);
        let (end, ()) = tokio::join!(theirs.set(&m, &to), async {
            comes("its end", &stopped).await;
            limit(&client, 1).await;
            stopped.pass();
        });
        let end = end.unwrap();
        let Outcome::Applied(applied) = end else { panic!("{end}") };
        assert_eq!((describe(&applied.record.lanes).as_str(), applied.record.state), (wanted, RouteState::Applying));
        limit(&client, -1).await;
        let report = router.sync(false, "test", &[]).await.unwrap();
        assert!(report.is_as_wanted(), "{report:?}");
        assert_eq!(stands(&router, &m).await, both(wanted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_is_written_down_whatever_else_is_written_at_that_moment() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let (m, o, router) = (slug("m"), slug("o"), router(&client, &nodes).await);
    let rpc = |change: Change| Change { lanes: vec![Lane::Rpc], ..change };
    set(&router, &o, &rpc(change(&["a=50", "b=50"], "test"))).await;
    // Whoever comes second finds the mark of an emergency of which the bucket does not know, and writes it down; with a change of its own, or
    // with another emergency.
    for second in [change(&["a=20", "b=80"], "you"), emergency("a", "you")] {
        let older = router.current(&o).await.unwrap().1.unwrap();
        let (relay, _client, cut_off) = on_a_line(&nodes).await;
        let stuck = relay.stop_at("KV_embed_routes", 1);
        let end = cut_off.set(&o, &rpc(emergency("b", "me"))).await.unwrap();
        assert_eq!(end.code(), "unwritten", "{end}");
        relay.go_down();
        drop(stuck);
        assert_eq!(router.actual().await.unwrap().unwritten[&o].who, "me");

        let (relay, _client, theirs) = on_a_line(&nodes).await;
        // Once for all routes, and once more before it is written over what was read.
        let stopped = relay.stop_at("\"$KV.embed_routes.o\"", 2);
        let second = rpc(second);
        let (end, ()) = tokio::join!(theirs.set(&m, &second), async {
            comes("the mark to be read", &stopped).await;
            // The end of an older change is written late.
            write(&client, &o, &RouteRecord { problem: Some("late".to_owned()), ..older }).await;
            stopped.pass();
        });
        // The bucket has a second in an emergency, and this machine may be busy.
        let end = end.unwrap();
        assert!(matches!(end, Outcome::Applied(_) | Outcome::Unwritten { .. }), "{end}");
        until("it to be written down", async || router.sync(false, "test", &[]).await.unwrap().is_as_wanted()).await;
        assert_eq!(stands(&router, &o).await, both("rpc: b=100"));
        assert_eq!(router.current(&o).await.unwrap().1.unwrap().who, "me");
        // Back, for the next one.
        set(&router, &o, &rpc(change(&["a=50", "b=50"], "test"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_is_not_written_down_over_what_has_been_wanted_since() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let (o, router) = (slug("o"), router(&client, &nodes).await);
    let rpc = |change: Change| Change { lanes: vec![Lane::Rpc], ..change };
    set(&router, &o, &rpc(change(&["a=50", "b=50"], "test"))).await;
    let (relay, _client, cut_off) = on_a_line(&nodes).await;
    let stuck = relay.stop_at("KV_embed_routes", 1);
    let end = cut_off.set(&o, &rpc(emergency("b", "me"))).await.unwrap();
    assert_eq!(end.code(), "unwritten", "{end}");
    relay.go_down();
    drop(stuck);
    // Whoever writes it down has compared it with what was wanted before, when somebody wants something else.
    let mark = router.actual().await.unwrap().unwritten[&o].clone();
    let (relay, _client, theirs) = on_a_line(&nodes).await;
    let stopped = relay.stop_at("\"$KV.embed_routes.o\"", 2);
    let (end, ()) = tokio::join!(theirs.sync(false, "test", &[]), async {
        comes("the mark to be read", &stopped).await;
        let lanes = [(Lane::Rpc, Weights::parse(&["a=10", "b=90"]).unwrap())].into_iter().collect();
        let when = humantime::parse_rfc3339(&mark.when).unwrap() + Duration::from_secs(1);
        let when = humantime::format_rfc3339_millis(when).to_string();
        write(&client, &o, &RouteRecord { lanes, when, who: "you".to_owned(), ..mark.clone() }).await;
        stopped.pass();
    });
    assert!(end.unwrap().is_as_wanted());
    assert_eq!(stands(&router, &o).await, both("rpc: b=90 a=10"));
    assert_eq!(router.current(&o).await.unwrap().1.unwrap().who, "you");
    let history = router.history(&o).await.unwrap();
    assert!(history.iter().all(|entry| entry.record.who != "me"), "{history:?}");
}

async fn write(client: &Client, model: &Slug, record: &RouteRecord) {
    let context = async_nats::jetstream::new(client.nats().clone());
    let payload = serde_json::to_vec(record).unwrap();
    context.publish(format!("$KV.embed_routes.{model}"), payload.into()).await.unwrap().await.unwrap();
}
