//! Rollouts that people and controllers change at the same time, where who is first is not left to chance: a message of one is stopped until
//! the other is done.

use std::{sync::atomic::Ordering, time::Duration};

use crate::support::{
    PATIENCE,
    controllers::{Running, assert_replays, config, holds, start},
    fleet::{Fleet, World},
    routed::{Node, alone, comes, line, on_a_line, router, set},
    slug, until,
    variants::Calls,
};
use embed_client::Client;
use embed_control::{
    models::{self, Serve},
    rollout::{self, Controller, Ending, Rollouts, Settings},
    route::Change,
};
use embed_rollout::{
    Rollout,
    state::{Outcome, Phase},
};
use embed_schemas::{ErrorCode, Lane, RouteRecord, Weights, routes::describe};
use serde_json::json;

const LEASE: Duration = Duration::from_secs(20);

/// Somebody ends it, by a controller of their own, as the command does.
async fn abort(client: &Client, nodes: &[Node], rollouts: &Rollouts) -> Rollout {
    let settings = Settings { lease: LEASE, patience: LEASE };
    let theirs = Controller::new(client, router(client, nodes).await, "theirs".into(), settings);
    rollouts.abort(&slug("m"), "them", &theirs).await.unwrap();
    let end = theirs.run(&slug("m"), std::future::pending(), |_| {}).await.unwrap();
    assert_eq!(end.outcome(), Some(Outcome::Aborted), "{:#?}", end.history);
    end
}

/// The route, which the bucket and the server agree on.
async fn route(client: &Client, nodes: &[Node]) -> RouteRecord {
    let report = router(client, nodes).await.actual().await.unwrap();
    let record = report.routes[&slug("m")].record.clone();
    assert_eq!(describe(&report.servers[0].holds[&slug("m")]), describe(&record.lanes), "{report:?}");
    record
}

fn percents(rollout: &Rollout) -> Vec<f64> {
    let mut percents: Vec<f64> = rollout.history.iter().map(|event| event.percent).collect();
    percents.dedup();
    percents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_controller_that_was_held_up_does_nothing_to_the_rollout_that_has_followed() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    let (relay, connect) = line(&nodes[0]);
    // It is about to give the candidate its first share, when the rollout is ended and another begun.
    let first = rollouts.start(start(config()), None).await.unwrap();
    let stopped = relay.stop_at("$KV.embed_routes.m ", 1);
    let live = Running::over(connect, &nodes, "live", LEASE, 0);
    comes("the first weights", &stopped).await;
    abort(&client, &nodes, &rollouts).await;
    assert_eq!(describe(&route(&client, &nodes).await.lanes), "rpc: a=100");
    let second = rollouts.start(start(config()), None).await.unwrap();
    stopped.pass();
    // And then about to write down what it has judged of the second, when a third is begun.
    let held = holds(&rollouts, 0).await;
    assert_eq!(held.id, second.id);
    assert_eq!(percents(&held), [0.0, 50.0], "the first has left nothing to it");
    let stopped = relay.stop_at("$KV.embed_rollouts.m ", 1);
    comes("what is judged", &stopped).await;
    abort(&client, &nodes, &rollouts).await;
    let third = rollouts.start(start(config()), None).await.unwrap();
    stopped.pass();
    let end = live.end().await;
    assert_eq!((&end.id, end.outcome()), (&third.id, Some(Outcome::Promoted)), "{:#?}", end.history);
    assert_eq!((percents(&end), end.stages), (vec![0.0, 50.0, 100.0], 2), "{:#?}", end.history);
    assert_eq!(describe(&route(&client, &nodes).await.lanes), "rpc: b=100");
    assert_replays(&rollouts).await;
    let record = rollouts.record(&slug("m"), None).await.unwrap();
    assert!(record.stages.iter().all(|stage| stage.stage.from_ms >= third.started_ms));
    // Whatever was over stays as it was.
    let past = rollouts.history(&slug("m")).await.unwrap();
    let past: Vec<_> = past.iter().map(|rollout| (&rollout.id, rollout.outcome().unwrap())).collect();
    let aborted = Outcome::Aborted;
    assert_eq!(past, [(&first.id, aborted), (&second.id, aborted), (&third.id, Outcome::Promoted)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_controller_knows_of_one_rollout_is_nothing_to_the_next() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    let mut long = config();
    long.plan.hold = Duration::from_secs(600);
    rollouts.start(start(long), None).await.unwrap();
    let live = Running::start(&nodes, "live", LEASE, 0);
    holds(&rollouts, 0).await;
    // It sleeps while that one is ended and another begun, whose first stage has the same number.
    live.asleep.store(true, Ordering::SeqCst);
    let told = live.told.lock().unwrap().len();
    until("it to sleep", async || live.told.lock().unwrap().len() > told).await;
    abort(&client, &nodes, &rollouts).await;
    let second = rollouts.start(start(config()), None).await.unwrap();
    live.asleep.store(false, Ordering::SeqCst);
    let end = live.end().await;
    assert_eq!((&end.id, end.outcome()), (&second.id, Some(Outcome::Promoted)), "{:#?}", end.history);
    assert_replays(&rollouts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_rollout_has_taken_back_itself_is_not_somebody_elses_change() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    let router = router(&client, &nodes).await;
    let (relay, connect) = line(&nodes[0]);
    rollouts.start(start(config()), None).await.unwrap();
    let begins = relay.stop_at("$KV.embed_routes.m ", 1);
    let controller = Running::over(connect, &nodes, "c", LEASE, 0);
    comes("the first share", &begins).await;
    // It is written down, and then nobody can ask the servers until it is taken back.
    let unasked = relay.stop_at("$SYS.REQ.SERVER.PING ", 1);
    begins.pass();
    comes("a question to the servers", &unasked).await;
    until("it to be taken back", async || {
        let (_, record) = router.current(&slug("m")).await.unwrap();
        record.is_some_and(|record| record.problem.is_some_and(|problem| problem.starts_with("undone: ")))
    })
    .await;
    unasked.pass();
    // It goes on when they answer.
    let held = holds(&rollouts, 0).await;
    assert_eq!(percents(&held), [0.0, 50.0], "{:#?}", held.history);
    assert!(controller.told("embed route sync") || controller.told("as before"), "{:?}", controller.told);
    assert_eq!(controller.end().await.outcome(), Some(Outcome::Promoted));
    assert_eq!(describe(&route(&client, &nodes).await.lanes), "rpc: b=100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_step_is_not_begun_over_a_change_that_somebody_has_made_since_it_was_decided() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let rollouts = Rollouts::new(&client);
    rollouts.start(start(config()), None).await.unwrap();
    // It is decided that the candidate gets its first share, and whoever has decided it dies before anybody hears of it.
    let (relay, connect) = line(&nodes[0]);
    let stopped = relay.stop_at("$KV.embed_routes.m ", 1);
    let decided = Running::over(connect, &nodes, "c", LEASE, 0);
    comes("the first share", &stopped).await;
    drop(decided);
    relay.go_down();
    stopped.pass();
    let weights = Weights::parse(&["a=90", "b=10"]).unwrap();
    let change = Change { lanes: vec![Lane::Rpc], ..Change::to(weights, "you") };
    set(&router(&client, &nodes).await, &slug("m"), &change).await;
    let next = Running::start(&nodes, "c", LEASE, 0);
    until("the rollout to be paused", async || {
        let rollout = rollouts.get(&slug("m")).await.unwrap();
        assert!(!matches!(rollout.phase, Phase::Holding(_)), "{:#?}", rollout.history);
        matches!(rollout.phase, Phase::Paused { .. })
    })
    .await;
    let history = rollouts.get(&slug("m")).await.unwrap().history;
    let last = &history.last().unwrap().sentence;
    assert!(last.contains("the weights could not be changed") && last.contains("you"), "{last}");
    let route = route(&client, &nodes).await;
    assert_eq!((route.who.as_str(), describe(&route.lanes).as_str()), ("you", "rpc: a=90 b=10"));
    drop(next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollback_leaves_the_route_to_whoever_has_changed_it_at_the_same_moment() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let world = World { failing: Some((ErrorCode::Overloaded, 60)), ..World::default() };
    let _fleet = Fleet::start(&client, world).await;
    let rollouts = Rollouts::new(&client);
    let router = router(&client, &nodes).await;
    // Before it has written down what it is about to do; when it has, but no server knows; when they know, and its end is not written down.
    for moment in ["$KV.embed_routes.m ", ".RELOAD ", "\"state\":\"applied\""] {
        let (relay, connect) = line(&nodes[0]);
        rollouts.start(start(config()), None).await.unwrap();
        let controller = Running::over(connect, &nodes, "c", LEASE, 0);
        until("the first share", async || controller.told("b gets 50 %")).await;
        let stopped = relay.stop_at(moment, 1);
        comes("the rollback", &stopped).await;
        let weights = Weights::parse(&["a=90", "b=10"]).unwrap();
        let change = Change { lanes: vec![Lane::Rpc], ..Change::to(weights, "you") };
        set(&router, &slug("m"), &change).await;
        stopped.pass();
        let end = controller.end().await;
        assert_eq!(end.outcome(), Some(Outcome::RolledBack), "{moment}: {:#?}", end.history);
        let last = &end.history.last().unwrap().sentence;
        let left = last.contains("you has changed the route to rpc: a=90 b=10, which is left as it is");
        // The bucket has a second to be told the end, so it may have been over before.
        assert!(left || moment.contains("applied"), "{moment}: {last}");
        let route = route(&client, &nodes).await;
        assert_eq!((route.who.as_str(), describe(&route.lanes).as_str()), ("you", "rpc: a=90 b=10"), "{moment}");
        set(&router, &slug("m"), &Change::clear("test")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_takes_over_does_not_find_out_again_what_a_plan_comes_to() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World { requests: 2, ..World::default() }).await;
    let rollouts = Rollouts::new(&client);
    let mut usual = config();
    usual.guarded = Default::default();
    let id = rollouts.start(start(usual), None).await.unwrap().id;
    let first = Running::start(&nodes, "first", LEASE, 0);
    until("the plan to be checked", async || first.told("cannot decide at")).await;
    drop(first);
    // What it has found out, in words that nobody else would find.
    let key = format!("m.{id}.power");
    let context = async_nats::jetstream::new(client.nats().clone());
    let bucket = context.get_key_value("embed_rollouts").await.unwrap();
    let found = bucket.get(&key).await.unwrap().unwrap();
    let mut found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    assert!(found["found"]["Err"].as_str().unwrap().contains("cannot decide at"), "{found}");
    found["found"]["Err"] = "so it was found before".into();
    bucket.put(&key, found.to_string().into()).await.unwrap();
    let next = Running::start(&nodes, "first", LEASE, 0);
    // It holds for the same traffic, give or take a tenth. While there are few windows, one that is late makes it another, and all is found out anew.
    until("what was found before", async || {
        let now = bucket.get(&key).await.unwrap().unwrap();
        let mut now: serde_json::Value = serde_json::from_slice(&now).unwrap();
        if now["found"] != found["found"] {
            now["found"] = found["found"].clone();
            bucket.put(&key, now.to_string().into()).await.unwrap();
        }
        next.told("so it was found before")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_a_rollout_is_kept_though_its_controller_dies_before_it_has_said_so_twice() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World { failing: Some((ErrorCode::Overloaded, 60)), ..World::default() }).await;
    let rollouts = Rollouts::new(&client);
    let first = rollouts.start(start(config()), None).await.unwrap();
    let (relay, connect) = line(&nodes[0]);
    let stopped = relay.stop_at(".end ", 1);
    let controller = Running::over(connect, &nodes, "c", LEASE, 0);
    comes("its end", &stopped).await;
    drop(controller);
    relay.go_down();
    stopped.pass();
    let end = rollouts.get(&slug("m")).await.unwrap();
    assert_eq!(end.outcome(), Some(Outcome::RolledBack));
    assert!(rollouts.history(&slug("m")).await.unwrap().is_empty(), "it has died too late for this test");
    rollouts.start(start(config()), None).await.unwrap();
    let past = rollouts.history(&slug("m")).await.unwrap();
    assert_eq!(past, [end]);
    assert_eq!(rollouts.record(&slug("m"), Some(&first.id)).await.unwrap().rollout.id, first.id);
}

/// A rollout that has given everything to `b`.
fn promoted() -> Rollout {
    let mut rollout = Rollout::begin(start(config()), 0).unwrap();
    rollout.phase = Phase::Ended { outcome: Outcome::Promoted, reason: String::new() };
    rollout
}

/// Wants a variant to be served.
async fn want(client: &Client, variant: &str, desired: serde_json::Value) {
    let desired = serde_json::from_value(desired).unwrap();
    models::serve(client, &Serve { model: slug("m"), variant: slug(variant), desired }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_others_change_while_a_rollout_is_finished_stays() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let (m, router, promoted) = (slug("m"), router(&client, &nodes).await, promoted());
    want(&client, "a", json!({"default": true})).await;
    want(&client, "b", json!({})).await;
    set(&router, &m, &Change::all_to(slug("b"), "test")).await;
    let (relay, at_the_end, theirs) = on_a_line(&nodes).await;
    let all = rollout::endings(&at_the_end, &theirs, &promoted).await.unwrap();
    assert_eq!(all, [Ending::Default, Ending::Route, Ending::Unserve]);
    let finish = async |ending| rollout::end(&at_the_end, &theirs, &promoted, ending, "me", PATIENCE).await;

    // Another version of the candidate is wanted, once what was wanted before has been read.
    let stopped = relay.stop_at("$SRV.INFO", 1);
    let (end, ()) = tokio::join!(finish(Ending::Default), async {
        comes("the default", &stopped).await;
        want(&client, "b", json!({"version": "v2"})).await;
        stopped.pass();
    });
    assert_eq!(end.unwrap_err().code(), "contended");
    let wanted = models::desired(&client).await.unwrap().remove(&(m.clone(), slug("b"))).unwrap();
    assert_eq!((wanted.version.as_str(), wanted.default), ("v2", None));

    // Somebody gives everything back to the variant before, once the route has been looked at; and before that, while workers were waited for.
    let stopped = relay.stop_at("\"$KV.embed_routes.m\"", 2);
    let (end, ()) = tokio::join!(finish(Ending::Route), async {
        comes("the removal of the route", &stopped).await;
        set(&router, &m, &Change::all_to(slug("a"), "you")).await;
        stopped.pass();
    });
    assert_eq!(end.unwrap_err().code(), "superseded");
    let refused = finish(Ending::Route).await.unwrap_err().to_string();
    assert!(refused.contains("you has set the route of m to a=100: not all is at b"), "{refused}");
    assert_eq!(describe(&route(&client, &nodes).await.lanes), "a=100");
    let refused = finish(Ending::Unserve).await.unwrap_err().to_string();
    assert!(refused.contains("variant a gets 100 %"), "{refused}");
}
