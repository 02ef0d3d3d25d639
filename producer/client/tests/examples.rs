//! The examples, on a real stack.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use embed_testkit::{Daemon, nats_server_binary, registry, sibling_binary};

fn dev(folder: &std::path::Path) -> (Daemon, String) {
    let mut command = Command::new(sibling_binary("embed"));
    command.args(["dev", "--json", "--port", "0", "--data-dir"]).arg(folder);
    command.env("EMBED_REGISTRY", registry()).env("NATS_SERVER_BIN", nats_server_binary());
    let dev = Daemon::spawn(&mut command);
    let url = dev.json_line()["nats_url"].as_str().unwrap().to_owned();
    (dev, url)
}

fn run(url: &str, example: &str, arguments: &[&str], input: &str) -> Vec<String> {
    let mut command = Command::new(sibling_binary(&format!("examples/{example}")));
    command.args(arguments).env("NATS_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert!(status.success(), "{example}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn calls_jobs_and_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (_dev, url) = dev(folder.path());
    let calls = run(&url, "calls", &["the sea", "a mountain"], "");
    assert!(calls.len() == 2 && calls[1].starts_with("a mountain: 384 dimensions"), "{calls:?}");
    let jobs = run(&url, "jobs", &[], "");
    assert!(jobs.len() == 3 && jobs.iter().all(|line| line.ends_with(": 384 dimensions")), "{jobs:?}");
    let lines: String = (0..500).map(|n| format!("line {n}\n")).collect();
    let stream = run(&url, "stream", &[], &lines);
    assert_eq!(stream.len(), 500);
    assert!(stream[499].starts_with("500: ") && stream[499].ends_with(" 384 dimensions"), "{}", stream[499]);
}
