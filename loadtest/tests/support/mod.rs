//! A server with its streams, and a worker, each a process that can be killed on its own.

pub(crate) mod canary;
pub(crate) mod first_worker;
pub(crate) mod gate;

use std::process::Command;

use embed_testkit::{Daemon, NatsServer, registry, sibling_binary};
use serde_json::Value;

/// The stack.
pub(crate) struct Stack {
    pub(crate) worker: Daemon,
    pub(crate) nats: NatsServer,
}

impl Stack {
    /// Starts a server, runs `embed init`, and starts a worker.
    pub(crate) fn start() -> Self {
        Self::start_with("2s")
    }

    /// The same. A job of a worker that was killed goes to another after `ack_wait`.
    pub(crate) fn start_with(ack_wait: &str) -> Self {
        Self::start_and_listen(ack_wait).0
    }

    /// The same, with what the worker said when it was ready.
    pub(crate) fn start_and_listen(ack_wait: &str) -> (Self, Value) {
        let nats = NatsServer::start();
        let init = embed(&nats).args(["init", "--ack-wait", ack_wait]).output().unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let (worker, ready) = spawn_worker(&nats, &[]);
        (Self { worker, nats }, ready)
    }

    /// Starts a worker and waits until it is ready.
    pub(crate) fn start_worker(nats: &NatsServer) -> Daemon {
        Self::start_worker_with(nats, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_worker_with(nats: &NatsServer, environment: &[(&str, &str)]) -> Daemon {
        spawn_worker(nats, environment).0
    }
}

fn spawn_worker(nats: &NatsServer, environment: &[(&str, &str)]) -> (Daemon, Value) {
    let mut command = Command::new(sibling_binary("embed-worker"));
    command.args(["run", "--server", &nats.url(), "--metrics-addr", "127.0.0.1:0", "--json"]);
    // On a busy machine a call may wait long, and is to be answered all the same.
    command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
    command.envs(environment.iter().copied());
    let worker = Daemon::spawn(command.env("EMBED_REGISTRY", registry()));
    let ready = worker.json_line();
    (worker, ready)
}

/// The command `embed` on this server.
pub(crate) fn embed(nats: &NatsServer) -> Command {
    let mut command = Command::new(sibling_binary("embed"));
    command.env("EMBED_REGISTRY", registry()).env("NATS_URL", nats.url());
    command
}
