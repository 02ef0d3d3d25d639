//! Hostile input on real processes, in a short form: nobody dies of it, every job is accounted for, and honest traffic is served beside it.
//! The long form is `embed-loadtest chaos --hostile`: a million calls and 100,000 jobs.

use std::process::Command;

use embed_testkit::{nats_server_binary, registry, sibling_binary};
use serde_json::Value;

#[test]
fn thousands_of_hostile_messages_cost_themselves_and_nobody_else() {
    let mut command = Command::new(sibling_binary("embed-loadtest"));
    command.args([
        "chaos",
        "--hostile",
        "--calls",
        "3000",
        "--jobs",
        "1500",
        "--workers",
        "1",
        "--ack-wait",
        "3",
        "--json",
    ]);
    let output =
        command.env("EMBED_REGISTRY", registry()).env("NATS_SERVER_BIN", nats_server_binary()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
    let verdicts = format!("{:#}\n{:#}\n{said}", report["verdicts"], report["notes"]);
    for none in ["lost", "left", "forged", "ended"] {
        assert_eq!(report[none], 0, "{none}\n{verdicts}");
    }
    assert_eq!(report["honest"]["findings"], Value::Array(Vec::new()), "{verdicts}");
    assert!(report["accepted"].as_u64().unwrap() > 1_000, "{verdicts}");
    // Some of each are dead letters, and what is fair is done.
    assert!(report["jobs"]["unreadable headers"]["dead"].as_u64().unwrap() > 0, "{verdicts}");
    assert!(report["jobs"]["fair"]["outcome"].as_u64().unwrap() > 0, "{verdicts}");
    assert!(report["calls"]["fair"]["answers"]["result"].as_u64().unwrap() > 0, "{verdicts}");
    assert!(output.status.success(), "{verdicts}");
}
