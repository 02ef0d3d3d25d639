//! A backfill through the real binaries, with parts of the stack killed in the middle: every row comes out exactly once.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    Stack, embed,
    gate::{GATE, Gate},
};
use async_nats::jetstream;
use embed_testkit::{Daemon, wait_for};
use serde_json::Value;

const ROWS: usize = 600;
/// Rows in a job.
const CHUNK: usize = 8;
/// Jobs under way.
const WINDOW: usize = 8;
/// Jobs that are done when something happens.
const SOME: usize = 20;

/// Rows with texts of many lengths; their ids say where they are from.
fn write_input(path: &Path) {
    let row = |i: usize| {
        let text = format!("row {i} {}", "and some more words ".repeat(i % 17));
        serde_json::json!({"id": format!("row-{i}"), "text": text}).to_string()
    };
    fs::write(path, (0..ROWS).map(|i| row(i) + "\n").collect::<String>()).unwrap();
}

fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |content| content.iter().filter(|byte| **byte == b'\n').count())
}

fn assert_every_row_once(output: &Path) {
    let text = fs::read_to_string(output).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..ROWS).map(|i| format!("row-{i}")).collect();
    assert_eq!(ids, expected, "every row once, in the order of the input");
    assert!(rows.iter().all(|row| row["embedding"].as_array().is_some_and(|vector| vector.len() == 384)));
    let distinct: BTreeSet<String> = rows.iter().map(|row| row["embedding"].to_string()).collect();
    assert_eq!(distinct.len(), ROWS, "no row has the vector of another");
}

/// A backfill of [`ROWS`] rows in small jobs, with a small window, whose jobs pass through the gate.
fn backfill(stack: &Stack, input: &Path, output: &Path) -> Daemon {
    backfill_with_options(
        stack,
        input,
        output,
        &["--window", &WINDOW.to_string(), "--variant", GATE, "--allow-unserved"],
    )
}

fn backfill_with_options(stack: &Stack, input: &Path, output: &Path, options: &[&str]) -> Daemon {
    let mut command = embed(&stack.nats);
    command.args(["backfill", "run", "--chunk", &CHUNK.to_string(), "--json"]).args(options).arg(input).arg(output);
    Daemon::spawn(&mut command)
}

/// Runs `disturb` when some rows are out and others cannot be; then checks the summary and the output.
fn backfill_with(disturb: impl FnOnce(Stack, &Gate) -> Stack) {
    let stack = Stack::start();
    let gate = Gate::new(&stack.nats);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    write_input(&input);
    let mut running = backfill(&stack, &input, &output);
    gate.pass(SOME);
    wait_for("the first rows", || (lines(&output) > 0).then_some(()));
    let stack = disturb(stack, &gate);
    gate.open();
    let summary = running.json_line();
    assert_eq!((&summary["rows"], &summary["stored"], &summary["failed"]), (&ROWS.into(), &ROWS.into(), &0.into()));
    let (status, log) = running.wait();
    assert!(status.success(), "{log}");
    assert_every_row_once(&output);
    drop(stack);
}

#[test]
fn undisturbed() {
    backfill_with(|stack, _| stack);
}

#[test]
fn the_worker_is_killed_and_started_again() {
    backfill_with(|stack, gate| {
        let Stack { worker, nats } = stack;
        // It has asked for these, and gets no further with them.
        worker.signal(libc::SIGSTOP);
        gate.pass(WINDOW);
        worker.kill();
        let worker = Stack::start_worker(&nats);
        Stack { worker, nats }
    });
}

/// How many outcomes have been stored; the backfill removes what it has read.
fn stored(stack: &Stack) -> u64 {
    let look = async {
        let client = async_nats::connect(stack.nats.url()).await.unwrap();
        let results = jetstream::new(client).get_stream("EMBED_RESULTS_all-minilm-l6-v2").await.unwrap();
        results.cached_info().state.last_sequence
    };
    tokio::runtime::Runtime::new().unwrap().block_on(look)
}

#[test]
fn one_of_two_workers_is_killed_and_only_what_it_held_waits_to_be_given_to_the_other() {
    let ack_wait = Duration::from_secs(30);
    let stack = Stack::start_with("30s");
    // It holds no more texts than this; the window is all there is, so that the rest is there for the other to take.
    let most = 256;
    let limit = ("EMBED_WORKER__LIMITS__BULK_TEXTS", &*most.to_string());
    let other = Stack::start_worker_with(&stack.nats, &[limit]);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    write_input(&input);
    // It has asked for jobs, which it gets, and does no more.
    other.signal(libc::SIGSTOP);
    let started = Instant::now();
    let running = backfill_with_options(&stack, &input, &output, &["--window", &(ROWS / CHUNK).to_string()]);
    let all_others = ((ROWS - most) / CHUNK) as u64;
    wait_for("all others", || (stored(&stack) >= all_others).then_some(()));
    let took = started.elapsed();
    other.kill();
    // Until then, nothing that the stopped one has is given to another.
    assert!(took < ack_wait, "{took:?}");
    let summary = running.json_line();
    assert_eq!((&summary["rows"], &summary["stored"]), (&ROWS.into(), &ROWS.into()));
    assert_every_row_once(&output);
}

#[test]
fn the_server_is_killed_and_started_again() {
    backfill_with(|mut stack, gate| {
        stack.worker.signal(libc::SIGSTOP);
        gate.pass(WINDOW);
        stack.nats.kill();
        stack.worker.signal(libc::SIGCONT);
        stack.nats.restart();
        stack
    });
}

#[test]
fn the_backfill_itself_is_killed_and_resumed() {
    let stack = Stack::start();
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    write_input(&input);
    let gate = Gate::new(&stack.nats);
    let running = backfill(&stack, &input, &output);
    gate.pass(SOME);
    let state = folder.path().join("out.jsonl.backfill.json");
    // Some progress is recorded, and there is more to do.
    wait_for("progress to be recorded", || {
        let state: Value = serde_json::from_slice(&fs::read(&state).ok()?).ok()?;
        (state["done"]["rows"].as_u64()? > 0).then_some(())
    });
    running.kill();
    assert!(lines(&output) < ROWS);
    gate.open();
    let resumed =
        embed(&stack.nats).args(["backfill", "resume", "--json", "--allow-unserved"]).arg(&output).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_every_row_once(&output);
}

#[test]
fn the_whole_stack_in_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(embed_testkit::sibling_binary("embed"));
    command.args(["dev", "--json", "--port", "0", "--data-dir"]).arg(folder.path().join("dev"));
    command
        .env("EMBED_REGISTRY", embed_testkit::registry())
        .env("NATS_SERVER_BIN", embed_testkit::nats_server_binary());
    // On a busy machine a call may wait long, and is to be answered all the same.
    command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
    let mut dev = Daemon::spawn(&mut command);
    let ready = dev.json_line();
    let url = ready["nats_url"].as_str().unwrap();
    let embed = |arguments: &[&str]| {
        let mut command = Command::new(embed_testkit::sibling_binary("embed"));
        command.args(arguments).args(["--server", url, "--json"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let asked = embed(&["ask", "hello world"]);
    assert_eq!((&asked["dim"], &asked["items"][0]["tokens"]), (&384.into(), &4.into()));
    let published = embed(&["publish", "--wait", "--id", "dev-1", "hello world"]);
    assert!(published.to_string().contains("dev-1"), "{published}");
    let load = Command::new(embed_testkit::sibling_binary("embed-loadtest"))
        .args(["run", "--server", url, "--json", "--rate", "5", "--duration", "2", "--warm-up", "0"])
        .output()
        .unwrap();
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    let report: Value = serde_json::from_slice(&load.stdout).unwrap();
    assert_eq!(report["answered"], report["due"], "{report}");
    assert!(report["latency_ms"]["p99.9"].as_f64().unwrap() >= report["latency_ms"]["p50"].as_f64().unwrap());

    let processes: Vec<u64> = ["nats_server", "worker"].iter().map(|p| ready["pids"][p].as_u64().unwrap()).collect();
    let resident: u64 = processes.iter().map(|process| resident_megabytes(*process)).sum();
    assert!(resident < 700, "the stack has {resident} MB resident");
    dev.signal(libc::SIGTERM);
    let (status, log) = dev.wait();
    assert!(status.success(), "{log}");
    for process in processes {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} was left behind");
    }
}

fn resident_megabytes(process: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1000
}
