//! Many workers on simulated devices, in a short form: what is measured, and that pieces become one report. The long form is by hand:
//! `embed-loadtest scale`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use embed_testkit::{nats_server_binary, registry, sibling_binary};
use serde_json::Value;

fn scale(arguments: &str, out: &Path) -> Output {
    let mut command = Command::new(sibling_binary("embed-loadtest"));
    command.arg("scale").args(arguments.split(' ')).args(["--json", "--repeats", "1", "--out"]).arg(out);
    command.env("EMBED_REGISTRY", registry()).env("NATS_SERVER_BIN", nats_server_binary()).output().unwrap()
}

/// The report. Whether costs are flat is not for a busy machine to say in a second.
fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"))
}

fn figure(row: &Value, name: &str) -> f64 {
    row["figures"][name][0].as_f64().unwrap_or_else(|| panic!("{name} of {row}"))
}

#[test]
fn workers_on_simulated_devices_are_measured_piece_by_piece() {
    let folder = tempfile::tempdir().unwrap();
    let output = scale(
        "--only workers,calls --servers 1 --workers 2 --text-time 2ms --texts-per-job 16 --duration 1",
        folder.path(),
    );
    let first = report(&output);
    let [jobs, calls] = &first["rows"].as_array().unwrap()[..] else { panic!("{first}") };
    // Two devices that take 2 ms for a text: 1,000 texts/s, and what was begun before.
    for (row, rate) in [(jobs, "stored, texts/s"), (calls, "answered, calls/s")] {
        let rate = figure(row, rate);
        assert!(rate > 0.0 && rate < 2000.0, "{row}");
        assert_eq!(figure(row, "failed"), 0.0, "{row}");
        assert!(figure(row, "least share, % of an even one") > 0.0, "both had some: {row}");
    }
    assert!(figure(jobs, "server, µs/text") > 0.0 && figure(jobs, "workers, µs/text") > 0.0, "{jobs}");
    assert!(figure(calls, "p99, ms") >= 2.0, "{calls}");

    let more =
        "--only idle,backlog,rows --servers 1 --workers 1 --models 2 --duration 0.5 --backlog 20 --rows 5000,10000";
    let second = report(&scale(more, folder.path()));
    let rows = second["rows"].as_array().unwrap();
    let parts: Vec<_> = rows.iter().map(|row| row["part"].as_str().unwrap()).collect();
    assert_eq!(parts, ["workers", "calls", "idle", "idle", "backlog", "rows", "rows"], "what was there stays");
    for (then, now) in [jobs, calls].into_iter().zip(rows) {
        assert_eq!((&then["setting"], &then["measured"]), (&now["setting"], &now["measured"]));
    }
    let (nobody, somebody) = (&rows[2], &rows[3]);
    let workers = |row: &Value| row["setting"]["workers"].as_u64();
    assert_eq!((workers(nobody), workers(somebody)), (Some(0), Some(1)));
    let memory = |row: &Value| figure(row, "workers' memory, MB");
    assert!(memory(nobody) == 0.0 && memory(somebody) > 0.0, "{somebody}");
    assert!(figure(&rows[4], "servers' disk with the results, MB") > figure(&rows[4], "servers' disk, MB"), "{second}");
    assert!(rows[5..].iter().all(|row| figure(row, "CPU, µs/text") > 0.0), "{second}");
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("Jobs by workers: stored") && page.contains("the sum of the engines"));
}
