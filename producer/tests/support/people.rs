//! Programs as they are run by the users of a configured server: each in its role, with its own inboxes.

use std::process::{Command, Output, Stdio};

use embed_testkit::{Daemon, registry, sibling_binary};
use serde_json::Value;

use super::{
    command::{embed, stderr, stdout},
    configured::{Configured, password},
};

/// The model of the real registry.
pub(crate) const MODEL: &str = "all-minilm-l6-v2";

impl Configured {
    /// `embed` as this user.
    pub(crate) fn embed(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = embed(arguments);
        self.connected(user, &mut command);
        command.env("EMBED_REGISTRY", registry()).current_dir(self.folder.file("")).stdin(Stdio::null());
        command
    }

    /// The same; it must succeed. What it has printed.
    pub(crate) fn run(&self, user: &str, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').collect();
        succeeded(line, self.embed(user, &arguments).output().unwrap())
    }

    /// The same, as JSON.
    pub(crate) fn json(&self, user: &str, line: &str) -> Vec<Value> {
        let printed = self.run(user, &format!("{line} --json"));
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `embed route …` or `embed rollout …`, with the user of the system account that it needs.
    pub(crate) fn routing(&self, user: &str, line: &str) -> Command {
        let mut command = self.embed(user, &line.split(' ').collect::<Vec<_>>());
        command.args(["--sys-user", "routes-sys", "--sys-password", &password("routes-sys"), "--mappings-file"]);
        command.arg(self.folder.file("embed-mappings.conf")).env("HOME", self.folder.file(""));
        command
    }

    /// The same; it must succeed. What it has printed.
    pub(crate) fn routed(&self, user: &str, line: &str) -> String {
        succeeded(line, self.routing(user, line).output().unwrap())
    }

    /// A real worker, ready.
    pub(crate) fn worker(&self, connect: impl FnOnce(&mut Command)) -> Daemon {
        let mut command = Command::new(sibling_binary("embed-worker"));
        command.args(["run", "--json", "--metrics-addr", "127.0.0.1:0"]).env("EMBED_REGISTRY", registry());
        command.env("EMBED_WORKER__WORKER__STATS_WINDOW", "500ms").env("EMBED_WORKER__MODELS__REFRESH", "1s");
        // On a busy machine a call may wait long, and is to be answered all the same.
        command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
        connect(&mut command);
        let worker = Daemon::spawn(&mut command);
        worker.json_line();
        worker
    }
}

pub(crate) fn succeeded(what: &str, output: Output) -> String {
    assert!(output.status.success(), "{what}: {:?}\n{}\n{}", output.status, stdout(&output), stderr(&output));
    stdout(&output)
}
