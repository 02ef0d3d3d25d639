//! From the command line to the measurement and back: the runtime, the connection, the progress bar, the output.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_engine::threads::cores;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::target::Target;
use crate::{
    end::End,
    pattern::Profile,
    report::{Document, Quantiles},
    scenario::{Observed, Scenario},
};

/// A generator that is later than this says so.
const NOTABLY_LATE_MS: f64 = 5.0;

/// Connections, and what the command needs to use them.
pub(super) struct Session {
    runtime: tokio::runtime::Runtime,
    pub(super) client: Client,
    /// For bulk jobs, which are published by other programs than those that make calls.
    pub(super) bulk: Client,
}

impl Session {
    pub(super) fn open(nats: &ConnectSettings) -> anyhow::Result<Self> {
        // What generates the load shares its cores with what is measured.
        let threads = (cores() / 2).max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let connect = |name| embed_client::nats::connect(nats, name);
        let (client, bulk) =
            runtime.block_on(async { tokio::try_join!(connect("embed-loadtest"), connect("embed-loadtest bulk")) })?;
        Ok(Self { runtime, client: Client::new(client), bulk: Client::new(bulk) })
    }

    pub(super) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Does something that needs the runtime to be there.
    pub(super) fn within<T>(&self, body: impl FnOnce() -> T) -> T {
        let _inside = self.runtime.enter();
        body()
    }

    /// Calls at the profile's rates, with bulk jobs beside them or not. The profile includes the warm-up.
    pub(super) fn play(
        &self,
        target: &Target,
        profile: Profile,
        bulk: bool,
        duration: Duration,
    ) -> anyhow::Result<Observed> {
        let bar = progress_bar(profile.calls() as u64);
        let scenario = Scenario {
            schedule: target.schedule(profile),
            load: target.load.clone(),
            bulk: bulk.then(|| target.bulk.clone()),
            processes: target.processes.clone(),
            end: End::after(duration),
        };
        let observed = self.wait_for(scenario.play(&self.client, &self.bulk, Instant::now(), |_| bar.inc(1)));
        bar.finish_and_clear();
        observed
    }
}

/// Writes the report where it was asked for, and prints it.
pub(super) fn finish(document: &Document, out: Option<&Path>, json: bool) -> anyhow::Result<bool> {
    if let Some(folder) = out {
        document.save(folder)?;
    }
    let mut stdout = io::stdout();
    if json {
        writeln!(stdout, "{}", serde_json::to_string(document)?)?;
    } else {
        write!(stdout, "{document}")?;
    }
    Ok(document.passed())
}

/// Why calls and jobs failed, and what went wrong with the measurement itself, in sentences.
pub(super) fn notes(what: &str, observed: &Observed) -> Vec<String> {
    let bulk = observed.bulk.iter().flat_map(|bulk| &bulk.errors).map(|(reason, count)| (reason, count, "bulk jobs"));
    let calls = observed.tally.errors.iter().map(|(reason, count)| (reason, count, "calls"));
    let failures = calls.chain(bulk).map(|(reason, count, of)| format!("{what}{count} {of} were not done: {reason}."));
    let late = Quantiles::of(&observed.tally.lateness).p99;
    let late = (late > NOTABLY_LATE_MS).then(|| {
        format!("{what}the load generator was itself {late:.1} ms late at p99, which is part of all latencies here.")
    });
    let gone = observed.processes.iter().filter(|process| !process.alive);
    let gone = gone.map(|process| format!("{what}{} ended during the run.", process.label()));
    failures.chain(late).chain(gone).collect()
}

fn progress_bar(calls: u64) -> ProgressBar {
    bar(calls, "{bar:40} {pos}/{len} calls  {per_sec}")
}

/// For runs that end with their last swap.
pub(super) fn swap_bar(swaps: u64) -> ProgressBar {
    bar(swaps, "{bar:40} {pos}/{len} swaps  {elapsed}")
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::with_draw_target(Some(length), target).with_style(style)
}
