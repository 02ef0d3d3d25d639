//! Rollouts on real workers: what is good is promoted, what is not is rolled back, each for the right reason. What is decided by times is
//! tested with workers that are made up (`producer/tests/rollout.rs`), since nobody can say how fast a machine is during a test.

use std::{
    process::Output,
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use crate::support::canary::{Canary, MODEL, nonsense, traffic};
use embed_testkit::{
    Daemon, TestRegistry,
    model_registry::{FIRST, SECOND},
    wait_for,
};
use serde_json::{Value, json};

/// One at a time: they compare times, and the cores are there only once.
static ALONE: Mutex<()> = Mutex::new(());

/// Half of the traffic at once: these are about what is found, and a small share would take longer to show it.
const HALF: &str = "50,100";

fn sentences() -> Vec<String> {
    (0..50).map(|n| format!("sentence number {n} of those that are asked for again and again")).collect()
}

/// The rollout that a command printed.
fn rollout(output: &Output) -> Value {
    let lines = String::from_utf8_lossy(&output.stdout);
    let parsed = lines.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let parsed = parsed.unwrap_or_else(|| panic!("no rollout: {output:?}"));
    parsed["rollout"].clone()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All online calls go to this variant, and every server knows.
fn assert_all_at(canary: &Canary, variant: &str) {
    let route = canary.route();
    assert_eq!(route["routes"][MODEL]["lanes"]["rpc"], json!({variant: 100}), "{route}");
    assert_eq!(route["as_wanted"], true, "{route}");
}

#[test]
fn an_equal_candidate_is_promoted_whatever_nonsense_it_is_sent() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let canary = Canary::start(&embed_testkit::registry(), &[]);
    let (_traffic, answered) = traffic(&canary, &sentences());
    let _nonsense = nonsense(&canary);
    let mut controller = canary.start_rollout(HALF);
    canary.status_when("the first step", |rollout| rollout["phase"]["name"] == "holding");
    // Another carries it on.
    controller.kill();
    let mut command = canary.routing("rollout", &["run", MODEL, "--lease=10s", "--json"]);
    controller = Daemon::spawn(&mut command);
    let status = canary.status_when("the end", |rollout| rollout["phase"]["name"] == "ended");
    let end = &status["rollout"];
    assert_eq!(end["phase"]["outcome"], "promoted", "{status}");
    assert_all_at(&canary, "canary");
    assert!(answered.load(Ordering::SeqCst) > 0);
    controller.wait();

    // Everything that went into the verdicts is on record, and gives the same verdicts again, without any server.
    let (page, record) = (canary.file("page.html"), canary.file("record.json"));
    let (page, record) = (page.to_str().unwrap(), record.to_str().unwrap());
    let report =
        canary.routing("rollout", &["report", MODEL, "--save", record, "-o", page, "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert!(report["verdicts"].as_u64().unwrap() >= 4 && report["different"] == 0, "{report}");
    let mut offline = canary.routing("rollout", &["report", "--record", record, "-o", page]);
    let offline = offline.env("NATS_URL", "nats://127.0.0.1:1").output().unwrap();
    assert!(offline.status.success(), "{}", said(&offline));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Stage 2: 100 %") && page.contains("Distribution of the latencies"));

    // A record that was tampered with does not.
    let mut tampered: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    for window in tampered["stages"][0]["windows"].as_array_mut().unwrap() {
        let counts = window["baseline"].clone();
        window["baseline"] = std::mem::replace(&mut window["candidate"], counts);
    }
    std::fs::write(record, tampered.to_string()).unwrap();
    let page = canary.file("tampered.html");
    let check = ["report", "--record", record, "-o", page.to_str().unwrap()];
    assert!(!canary.routing("rollout", &check).output().unwrap().status.success());

    // It was one lane's: whoever ends it decides on the others first.
    let finish = canary.routing("rollout", &["finish", MODEL, "--dry-run"]).output().unwrap();
    assert!(said(&finish).contains("did not move: job, bulk"), "{finish:?}");
    let set = canary.routing("route", &["set", MODEL, "--all-to=canary", "--who=me"]).output().unwrap();
    assert!(set.status.success(), "{}", said(&set));

    // What comes after it is said, and who has to do it.
    let finish = canary.routing("rollout", &["finish", MODEL, "--dry-run"]).output().unwrap();
    assert!(said(&finish).contains("workers' configuration serves canary"), "{finish:?}");

    // Where the bucket wants it, workers follow: what names no variant goes to it, without a route.
    let serve = ["models", "serve", MODEL, "canary", "--wait", "--timeout=2m"];
    let serve = canary.embed(&serve).output().unwrap();
    assert!(serve.status.success(), "{}", said(&serve));
    let finish = canary.routing("rollout", &["finish", MODEL, "--json"]).output().unwrap();
    let finished: Value = serde_json::from_slice(&finish.stdout).unwrap_or_default();
    let done: Vec<_> = finished["finished"].as_array().into_iter().flatten().map(|one| one["what"].clone()).collect();
    let steps = [format!("make canary the default variant of {MODEL}"), format!("remove the route of {MODEL}")];
    assert_eq!(done, steps, "{}", said(&finish));
    assert_eq!(canary.route()["routes"][MODEL]["lanes"], json!({}));
    let asked = canary.embed(&["ask", "--json", "hello"]).output().unwrap();
    let asked: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
    assert_eq!(asked["variant"], "canary", "{asked}");
}

#[test]
fn a_candidate_that_errs_is_rolled_back_and_one_that_dies_too() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // It refuses texts that the baseline takes; none of those that it is probed with.
    let mut canary = Canary::start(&embed_testkit::registry(), &[("EMBED_WORKER__TOKENIZE__MAX_TEXT_BYTES", "4096")]);
    let long = "a text that is longer than the candidate takes ".repeat(110);
    let texts: Vec<_> = sentences().into_iter().take(4).chain([long]).collect();
    let (calls, _) = traffic(&canary, &texts);
    let output = canary.roll_out(HALF);
    let end = rollout(&output);
    assert_eq!(end["phase"]["outcome"], "rolled_back", "{}", said(&output));
    let reason = end["phase"]["reason"].as_str().unwrap();
    assert!(reason.contains("text_too_large"), "{reason}");
    assert_all_at(&canary, "fp32");

    // The next one: its only worker dies.
    drop(calls);
    let (_calls, _) = traffic(&canary, &sentences());
    let mut controller = canary.start_rollout(HALF);
    canary.status_when("traffic for it", |rollout| rollout["phase"]["name"] == "holding");
    canary.candidate.take().unwrap().kill();
    let status = canary.status_when("the end", |rollout| rollout["phase"]["name"] == "ended");
    let phase = &status["rollout"]["phase"];
    assert_eq!(phase["outcome"], "rolled_back", "{status}");
    let reason = phase["reason"].as_str().unwrap();
    assert!(reason.contains("no worker has served canary") || reason.contains("answered nothing"), "{reason}");
    assert_all_at(&canary, "fp32");
    assert_eq!(controller.wait().0.code(), Some(1));
}

#[test]
fn a_candidate_whose_vectors_are_off_gets_no_traffic_or_loses_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let registry = TestRegistry::new();
    registry.import_second();
    // It says that it is in the same space, and is not.
    let space = std::fs::read_to_string(registry.version(FIRST).join("metadata.json")).unwrap();
    let space: Value = serde_json::from_str(&space).unwrap();
    registry.edit(SECOND, |metadata| metadata["space"] = space["space"].clone());
    registry.promote(MODEL, SECOND);
    let canary = Canary::start(registry.path(), &[]);
    let (_traffic, _) = traffic(&canary, &sentences());
    let output = canary.roll_out(HALF);
    let end = rollout(&output);
    assert_eq!(end["phase"]["outcome"], "refused", "{}", said(&output));
    assert!(end["phase"]["reason"].as_str().unwrap().contains("mean cosine"), "{end}");
    assert_eq!(canary.route()["routes"], json!({}), "no traffic was ever moved");

    // It is mended, gets traffic, and then another version takes its place.
    registry.promote(MODEL, FIRST);
    wait_for("the good version", || {
        let asked = canary.embed(&["ask", "--json", "--variant", "canary", "hello"]).output().unwrap();
        let asked: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        (asked["version"] == FIRST).then_some(())
    });
    let mut controller = canary.start_rollout(HALF);
    canary.status_when("traffic for it", |rollout| rollout["phase"]["name"] == "holding");
    registry.promote(MODEL, SECOND);
    let status = canary.status_when("the end", |rollout| rollout["phase"]["name"] == "ended");
    let phase = &status["rollout"]["phase"];
    assert_eq!(phase["outcome"], "rolled_back", "{status}");
    assert!(phase["reason"].as_str().unwrap().contains("mean cosine"), "{status}");
    let history = status["rollout"]["history"].to_string();
    assert!(history.contains("now serves version"), "{history}");
    assert_all_at(&canary, "fp32");
    controller.wait();
}

#[test]
fn people_have_the_last_word() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let canary = Canary::start(&embed_testkit::registry(), &[]);
    let (_traffic, _) = traffic(&canary, &sentences());
    let mut controller = canary.start_rollout("5,50,100");
    canary.status_when("traffic for it", |rollout| rollout["phase"]["name"] == "holding");
    let tell = |arguments: &[&str]| canary.routing("rollout", arguments).args([MODEL, "--json"]).output().unwrap();
    let second = canary.roll_out("5,50,100");
    assert!(second.status.code() == Some(1) && said(&second).contains("under_way"), "{second:?}");
    assert_eq!(rollout(&tell(&["pause", "--who", "me"]))["phase"]["reason"], "paused by me");
    assert!(said(&tell(&["pause"])).contains("only a rollout that holds a step can be paused"));
    // Two steps further, at a person's word.
    assert!(tell(&["promote", "--who", "me"]).status.success());
    canary.status_when("the second step", |rollout| {
        rollout["phase"]["step"] == 1 && rollout["phase"]["name"] == "holding"
    });
    assert!(tell(&["pause"]).status.success());
    assert!(tell(&["resume"]).status.success());
    canary.status_when("the same step again", |rollout| rollout["stages"] == 3);

    // Somebody else changes the route: they are not overruled, and it waits.
    let set = ["set", MODEL, "fp32=60", "canary=40", "--lane=rpc", "--who=them"];
    assert!(canary.routing("route", &set).output().unwrap().status.success());
    let status = canary.status_when("the pause", |rollout| rollout["phase"]["name"] == "paused");
    let reason = status["rollout"]["phase"]["reason"].as_str().unwrap();
    assert!(reason.contains("them has changed the route to rpc: fp32=60 canary=40"), "{reason}");

    let aborted = rollout(&tell(&["abort", "--who", "me"]));
    assert_eq!(
        (&aborted["phase"]["outcome"], &aborted["phase"]["reason"]),
        (&"aborted".into(), &"aborted by me".into())
    );
    assert_all_at(&canary, "fp32");
    assert!(said(&tell(&["abort"])).contains("nothing to abort"));
    assert_eq!(controller.wait().0.code(), Some(1));
}
