//! `embed doctor` against real servers and a real worker: everything fine, and one thing after another that is not.

use std::process::Output;

use crate::support::{
    command::{embed, stderr, stdout},
    configured::{Configured, Folder, password},
    people::MODEL,
};
use serde_json::Value;

/// What was found of one thing: all verdicts, and all that was said.
struct Found {
    verdicts: Vec<String>,
    said: String,
}

/// What it finds, and its exit status.
struct Report {
    all: Value,
    status: i32,
}

impl Report {
    fn read(output: &Output) -> Self {
        let all =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}{}", stdout(output), stderr(output)));
        Self { all, status: output.status.code().unwrap() }
    }

    fn of(&self, check: &str) -> Found {
        let lines: Vec<&Value> =
            self.all["checks"].as_array().unwrap().iter().filter(|line| line["check"] == check).collect();
        assert!(!lines.is_empty(), "{check} is not in {}", self.all);
        for line in &lines {
            assert_eq!(line["verdict"] == "ok", line["next"].is_null(), "a next step where all is not well: {line}");
        }
        let text = |line: &&Value, field: &str| line[field].as_str().unwrap().to_owned();
        Found {
            verdicts: lines.iter().map(|line| text(line, "verdict")).collect(),
            said: lines.iter().map(|line| text(line, "found") + "\n").collect(),
        }
    }

    /// The one verdict of a check, with what must be said.
    fn is(&self, check: &str, verdict: &str, said: &str) {
        let found = self.of(check);
        assert!(
            found.verdicts == [verdict] && found.said.contains(said),
            "{check} is not {verdict}, {said}: {:#}",
            self.all
        );
    }
}

impl Configured {
    fn doctor(&self, user: &str, more: &[&str]) -> Report {
        let arguments = [&["doctor", "--json"][..], more].concat();
        let mut command = self.embed(user, &arguments);
        Report::read(&command.env("HOME", self.folder.file("")).output().unwrap())
    }
}

#[test]
fn everything_is_looked_at_and_what_is_wrong_is_named_with_what_to_do() {
    let server = Folder::new().start();
    // A server without streams and workers. To whoever is to make them, that is no failure.
    let before = server.doctor("operator", &["--role", "init"]);
    before.is("streams", "warning", "KV_embed_models: missing");
    before.is("workers", "warning", "no worker answers");
    assert_eq!((before.all["verdict"].as_str(), before.status), (Some("warning"), 0), "{:#}", before.all);
    let bare = server.doctor("operator", &["--role", "init", "--role", "models"]);
    bare.is("nats", "ok", "nats-server 2.");
    bare.is("streams", "failed", "KV_embed_models: missing");
    bare.is("workers", "failed", "no worker answers");
    bare.is("sync_interval", "not_checked", "only the system account");
    assert_eq!((bare.all["verdict"].as_str(), bare.status), (Some("failed"), 1));

    server.doctor("init", &[]).is("workers", "not_checked", "may not ask");

    // Everything there, seen by somebody who may see it.
    server.run("init", "init");
    let worker = server.worker(|command| server.connected("worker", command));
    let secret = password("routes-sys");
    let arguments = ["--role", "operator", "--sys-user", "routes-sys", "--sys-password", &secret];
    let all = server.doctor("operator", &arguments);
    for (check, said) in [
        ("nats", "nats-server 2."),
        ("servers", "all answer: embed-1"),
        ("sync_interval", "always, on all servers"),
        ("clock", " s off the server's"),
        ("permissions", "user operator of account EMBED may do all that operator needs"),
        ("streams", "as they should be for 1 models with 1 variants"),
        ("workers", "fp32 live v1"),
        ("registry", MODEL),
    ] {
        all.is(check, "ok", said);
    }
    all.is("gateway", "not_checked", "none is named");
    assert_eq!((all.all["verdict"].as_str(), all.status), (Some("ok"), 0), "{:#}", all.all);

    // Somebody with another role: by what the server says, and, for one that may not ask, by what is tried. Nobody hears of that, and nothing
    // is stored.
    let operator = server.doctor("operator", &["--role", "worker"]);
    operator.is("permissions", "failed", "may not publish on _INBOX.>");
    let before = server.json("operator", "jobs list").len();
    let caller = server.doctor("caller", &["--role", "caller", "--model", MODEL]);
    caller.is("permissions", "not_checked", "may do what of caller can be tried");
    assert_eq!(caller.status, 0, "{:#}", caller.all);
    let caller = server.doctor("caller", &["--role", "producer", "--model", MODEL]);
    caller.is("permissions", "failed", &format!("may not publish on embed.job.{MODEL}"));
    caller.is("clock", "ok", " s off the server's");
    caller.is("jetstream", "not_checked", "may not ask");
    assert_eq!(caller.status, 1);
    assert_eq!(server.json("operator", "jobs list").len(), before, "nothing that was tried is stored");
    let printed = server.embed("caller", &["doctor", "--role", "producer", "--model", MODEL]).output().unwrap();
    assert!(
        stdout(&printed).contains("-> give it what `embed init --print-permissions producer --model"),
        "{printed:?}"
    );

    // A worker that has stopped.
    worker.terminate();
    let stopped = server.doctor("operator", &["--gateway", "http://127.0.0.1:1"]);
    stopped.is("workers", "failed", "no worker answers");
    stopped.is("gateway", "failed", "http://127.0.0.1:1");
    stopped.is("streams", "ok", "as they should be");
    assert_eq!(stopped.status, 1);
}

#[test]
fn without_a_server_that_is_what_is_said_and_the_rest_is_not_checked() {
    let output =
        embed(&["doctor", "--json", "--server", "nats://127.0.0.1:1", "--registry", "/nonexistent"]).output().unwrap();
    let report = Report::read(&output);
    report.is("nats", "failed", "no NATS server answers at");
    report.is("streams", "not_checked", "no connection");
    report.is("registry", "failed", "/nonexistent");
    assert_eq!(report.status, 1);
}
