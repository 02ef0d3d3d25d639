//! The large backfill in a short form: whatever is killed on the way, every row is there once, with its own vector, in bounded memory. The long
//! form is `embed-loadtest backfill`; nothing is wanted of time here.

use std::{fs, path::Path, process::Command};

use embed_testkit::{nats_server_binary, registry, sibling_binary};
use serde_json::Value;

/// Fewer than would fill a minute of two slow cores.
const ROWS: u64 = 6000;

fn backfill(arguments: &[&str], out: &Path) -> Value {
    let mut command = Command::new(sibling_binary("embed-loadtest"));
    command.args(["backfill", "--json", "--untimed", "--rows", &ROWS.to_string()]);
    // A job that nobody holds any more is not to be waited for.
    command.args(["--ack-wait", "3", "--out"]).arg(out).args(arguments);
    command.env("EMBED_REGISTRY", registry()).env("NATS_SERVER_BIN", nats_server_binary());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(output.status.success(), "{:#}\n{:#}\n{said}", report["verdicts"], report["notes"]);
    let run = &report["runs"][0];
    assert_eq!((&run["verified"]["distinct"], &run["played"]["summary"]["stored"]), (&ROWS.into(), &ROWS.into()));
    report
}

#[test]
fn every_row_is_there_once_and_again_only_what_changed_is_embedded() {
    let folder = tempfile::tempdir().unwrap();
    let report = backfill(&["--changed", "0.02", "--engine-texts", "200"], folder.path());
    let changed = &report["changed"]["run"];
    let count = |name: &str| changed["played"]["summary"][name].as_u64().unwrap();
    assert!(count("stored") < ROWS / 20 && count("reused") > ROWS * 9 / 10, "{changed}");
    assert!(report["engine_rows_per_second"].as_array().is_some_and(|rates| rates.len() == 2), "{report}");
    // The page and the document say the same.
    let written: Value = serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(written, report);
    assert!(fs::read_to_string(folder.path().join("report.html")).unwrap().contains("Rows there once"));
}

#[test]
fn whoever_is_killed_every_row_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let report = backfill(&["--changed", "0", "--kills", "4", "--engine-texts", "0"], folder.path());
    let kills = report["runs"][0]["played"]["kills"].as_array().unwrap();
    assert_eq!(kills.len(), 4, "{kills:?}");
    assert!(report["changed"].is_null(), "{report}");
}

#[test]
fn what_cannot_be_done_is_said() {
    for (arguments, code, reason) in [
        (["--kills", "2"], 1, "--kills"),
        (["--changed", "2"], 1, "--changed"),
        (["--rows", "1"], 2, "--rows"),
        (["--precision", "fp7"], 2, "fp32"),
    ] {
        let mut command = Command::new(sibling_binary("embed-loadtest"));
        let output = command.arg("backfill").args(arguments).env("EMBED_REGISTRY", registry()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(reason), "{arguments:?}: {said}");
    }
}
