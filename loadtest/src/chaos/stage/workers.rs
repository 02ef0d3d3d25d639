//! Workers as processes, each behind relays of its own, and started again when they end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use embed_schemas::Slug;
use embed_testkit::{Cluster, Daemon, Relay};

use super::{Stage, poison::Poison};
use crate::chaos::act::{Line, Signal};

/// Before a worker that has ended is started again.
const BACK_OFF: Duration = Duration::from_millis(500);
/// What a slow line adds, each way.
const SLOW: Duration = Duration::from_millis(200);
/// Where Debian and others have the library of faketime, for programs with threads.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// A worker, running or not.
#[derive(Debug)]
pub(super) struct Worker {
    /// One to each server.
    relays: Vec<Relay>,
    daemon: Option<Daemon>,
    /// Whether it is started again when it ends.
    is_wanted: bool,
    /// Whether it was told to end, or killed.
    is_doomed: bool,
    ended: Option<Instant>,
    environment: Vec<(String, String)>,
    starts: usize,
    /// How often it has ended by itself.
    ended_by_itself: usize,
}

impl Worker {
    /// One that is not started.
    pub(super) fn new(cluster: &Cluster, poison: &Poison, model: &Slug) -> Self {
        let relays: Vec<_> = cluster.servers.iter().map(|server| Relay::start(server.address())).collect();
        let trap = poison.trap(model);
        for relay in &relays {
            let trap = trap.clone();
            relay.tap(move |way, bytes| trap.lets_pass(way, bytes));
        }
        Self {
            relays,
            daemon: None,
            is_wanted: false,
            is_doomed: false,
            ended: None,
            environment: Vec::new(),
            starts: 0,
            ended_by_itself: 0,
        }
    }

    pub(super) fn line(&self, line: Line) {
        for relay in &self.relays {
            relay.mend();
            match line {
                Line::Whole => {}
                Line::Cut => relay.go_down(),
                Line::Slow => relay.slow_down(SLOW),
                Line::HalfOpen => relay.swallow(),
            }
        }
    }

    fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Daemon::is_running)
    }

    /// Signals it, if it is running.
    fn signal(&mut self, signal: i32) {
        if self.is_running()
            && let Some(daemon) = &self.daemon
        {
            daemon.signal(signal);
        }
    }

    fn urls(&self) -> String {
        self.relays.iter().map(|relay| format!("nats://{}", relay.address())).collect::<Vec<_>>().join(",")
    }
}

impl Stage {
    /// Which worker this target is.
    pub(super) fn worker(&self, target: usize) -> usize {
        target % self.workers.len()
    }

    /// Starts a worker, from now on with this in its environment. One that is still ending is followed by it.
    pub(super) fn start_worker(&mut self, n: usize, environment: &[(String, String)]) {
        let worker = &mut self.workers[n];
        (worker.is_wanted, worker.environment) = (true, environment.to_vec());
        if worker.daemon.is_none() {
            self.launch(n);
        }
    }

    fn launch(&mut self, n: usize) {
        self.poison.reset(n);
        let (setting, worker) = (&self.setting, &mut self.workers[n]);
        let mut command = Command::new(setting.programs.join("embed-worker"));
        command.args(["run", "--json", "--metrics-addr", "127.0.0.1:0", "--server", &worker.urls()]);
        command.args(["--registry", self.registry.location()]).current_dir(self.folder.path());
        // Copies of what is in a bucket, which a worker goes on with while that is away.
        command
            .env("EMBED_WORKER__MODELS__CACHE_DIR", self.folder.path().join("cache"))
            .envs(self.registry.environment());
        // Whether a busy machine refuses calls is another question.
        command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "10s").envs(worker.environment.iter().cloned());
        worker.daemon = Some(Daemon::spawn(&mut command));
        (worker.is_doomed, worker.ended, worker.starts) = (false, None, worker.starts + 1);
    }

    /// Signals a worker. One that is killed or terminated stays down until it is started.
    pub(super) fn signal_worker(&mut self, n: usize, signal: Signal) {
        let worker = &mut self.workers[n];
        if matches!(signal, Signal::Kill | Signal::Terminate) {
            (worker.is_wanted, worker.is_doomed) = (false, true);
        }
        let number = match signal {
            Signal::Kill => libc::SIGKILL,
            Signal::Terminate => libc::SIGTERM,
            Signal::Pause => libc::SIGSTOP,
            Signal::Resume => libc::SIGCONT,
            Signal::LameDuck => libc::SIGUSR2,
        };
        worker.signal(number);
    }

    /// Workers that have ended are started again, if they are wanted, after a moment; those that a poison has hit are killed.
    pub fn tend(&mut self) {
        for n in 0..self.workers.len() {
            let worker = &mut self.workers[n];
            if worker.is_running() {
                continue;
            }
            let status = worker.daemon.as_mut().map(Daemon::wait);
            if let Some((status, log)) = status {
                (worker.daemon, worker.ended) = (None, Some(Instant::now()));
                let (starts, is_doomed) = (worker.starts, worker.is_doomed);
                self.keep(n, starts, &log);
                if !is_doomed {
                    self.workers[n].ended_by_itself += 1;
                    let said = last_words(&log);
                    self.note(&format!("worker {} ended by itself ({status}); it said last: {said}", n + 1));
                }
            }
            let worker = &self.workers[n];
            if worker.is_wanted && worker.ended.is_none_or(|ended| ended.elapsed() >= BACK_OFF) {
                self.launch(n);
            }
        }
        self.spring_traps();
    }

    /// A worker in whose relay the trap has sprung dies now.
    fn spring_traps(&mut self) {
        for n in 0..self.workers.len() {
            if self.poison.has_sprung(n) {
                self.workers[n].is_doomed = true;
                self.workers[n].signal(libc::SIGKILL);
            }
        }
    }

    fn keep(&self, n: usize, starts: usize, log: &str) {
        if let Some(folder) = &self.setting.logs {
            // A log that cannot be written is no reason to stop.
            let _ = fs::write(folder.join(format!("worker-{}-{starts}.log", n + 1)), log);
        }
    }

    /// The processes of those that run.
    #[must_use]
    pub fn worker_ids(&self) -> Vec<u32> {
        self.workers.iter().filter_map(|worker| worker.daemon.as_ref().map(Daemon::id)).collect()
    }

    /// How often workers have ended by themselves.
    #[must_use]
    pub fn ended_by_themselves(&self) -> usize {
        self.workers.iter().map(|worker| worker.ended_by_itself).sum()
    }

    /// The logs of those that run.
    pub fn keep_logs(&self) {
        for (n, worker) in self.workers.iter().enumerate() {
            if let Some(daemon) = &worker.daemon {
                self.keep(n, worker.starts, &daemon.log());
            }
        }
    }
}

/// The last line of a log, without the time at its beginning.
fn last_words(log: &str) -> String {
    let line = log.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing");
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    if first.ends_with('Z') && first.contains('T') { rest.trim().to_owned() } else { line.to_owned() }
}

/// The library of faketime, if it is installed.
pub(super) fn faketime() -> Option<PathBuf> {
    let libraries = Path::new("/usr/lib");
    let below = fs::read_dir(libraries).ok()?.flatten().map(|entry| entry.path());
    [libraries.to_owned()].into_iter().chain(below).map(|folder| folder.join(FAKETIME)).find(|file| file.is_file())
}

/// What gives a program a clock that is ten minutes fast or slow. How long something takes stays as it is.
pub(super) fn other_clock(target: usize) -> Option<Vec<(String, String)>> {
    let offset = if target.is_multiple_of(2) { "+10m" } else { "-10m" };
    let library = faketime()?.display().to_string();
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    Some(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}
