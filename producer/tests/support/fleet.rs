//! Workers that are made up: their windows say what a test wants them to say, whatever the machine is doing.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use embed_client::Client;
use embed_control::rollout::Rollouts;
use embed_schemas::{Earlier, ErrorCode, Format, Lane, VariantStats, WindowCounts, subjects};
use tokio_util::task::AbortOnDropHandle;

use super::{slug, variants::worker_of};

/// Length of their windows.
pub(crate) const WINDOW: Duration = Duration::from_millis(200);

/// What happens at the variants `a`, the baseline, and `b`, the candidate.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Requests in a window, both arms together. Each gets its share by the rollout's weights.
    pub(crate) requests: u64,
    /// Factor on the candidate's latencies.
    pub(crate) slowness: u64,
    /// What a share of the candidate's requests fails of, in percent.
    pub(crate) failing: Option<(ErrorCode, u64)>,
    /// Requests that the baseline does in each window and that were published an hour ago.
    pub(crate) backlog: u64,
    /// Whether the candidate's worker says anything.
    pub(crate) silent: bool,
    /// By how much the candidate's worker's clock is ahead, in milliseconds.
    pub(crate) ahead_ms: i64,
    /// Reports of a variant that has nothing to do with it, with each window.
    pub(crate) noise: usize,
    /// Reports with each window, under a new name each, by whom discovery does not know, that all of the candidate's requests failed.
    pub(crate) forged: usize,
}

impl Default for World {
    fn default() -> Self {
        Self {
            requests: 2_000,
            slowness: 1,
            failing: None,
            backlog: 0,
            silent: false,
            ahead_ms: 0,
            noise: 0,
            forged: 0,
        }
    }
}

/// The workers. They go on until they are dropped.
pub(crate) struct Fleet {
    world: Arc<Mutex<World>>,
    _task: AbortOnDropHandle<()>,
}

impl Fleet {
    pub(crate) async fn start(client: &Client, world: World) -> Self {
        let world = Arc::new(Mutex::new(world));
        let task = AbortOnDropHandle::new(tokio::spawn(live(client.clone(), world.clone())));
        Self { world, _task: task }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

async fn live(client: Client, world: Arc<Mutex<World>>) {
    let rollouts = Rollouts::new(&client);
    let length = WINDOW.as_millis() as u64;
    let mut start = now_ms() / length * length;
    loop {
        let end = start + length;
        tokio::time::sleep(Duration::from_millis(end.saturating_sub(now_ms()))).await;
        let percent = rollouts.get(&slug("m")).await.map_or(0.0, |rollout| rollout.percent()) as u64;
        let world = world.lock().unwrap().clone();
        let mut reports = vec![("a", start, baseline(&world, percent, start))];
        if !world.silent {
            reports.push(("b", start.saturating_add_signed(world.ahead_ms), candidate(&world, percent, start)));
        }
        reports.extend((0..world.noise).map(|_| ("c", start, WindowCounts::default())));
        let mut reports: Vec<_> =
            reports.into_iter().map(|(variant, at, counts)| (variant, at, counts, worker_of(variant))).collect();
        let errors = [(ErrorCode::EngineFailed, 9_000)].into();
        let forged = WindowCounts { requests: 9_000, errors, ..WindowCounts::default() };
        // The last on its subject is nobody's.
        let names = (0..world.forged).map(|n| format!("forged-{start}-{n}"));
        reports.extend(names.map(|name| ("b", start, forged.clone(), name)));
        for (variant, start_ms, counts, worker) in reports {
            let report = VariantStats {
                model: slug("m"),
                variant: slug(variant),
                version: "v1".into(),
                lane: Lane::Rpc,
                worker,
                start_ms,
                length_ms: length as u32,
                counts,
            };
            let subject = subjects::stats(&report.model, &report.variant);
            // The server may be gone for a while.
            drop(client.nats().publish(subject, Format::MessagePack.encode(&report)).await);
        }
        start = end;
    }
}

fn answered(n: u64, slowness: u64, at: u64) -> WindowCounts {
    // Windows differ a little, and so do requests.
    let latency_us = (0..n).map(|i| slowness * (5_000 + i * 37 % 400 + at % 7 * 10)).collect();
    WindowCounts {
        requests: n,
        latency_us,
        texts: n,
        tokens: 30 * n,
        batches: n,
        batch_texts: n,
        busy_us: 900 * n,
        ..WindowCounts::default()
    }
}

fn baseline(world: &World, percent: u64, start: u64) -> WindowCounts {
    let mut counts = answered(world.requests * (100 - percent) / 100, 1, start);
    if world.backlog > 0 {
        // They took long, and many of them failed: that is why they were waiting.
        let mut old = answered(world.backlog, 50, start);
        old.requests += world.backlog;
        old.errors = [(ErrorCode::EngineFailed, world.backlog)].into();
        old.earlier = vec![Earlier {
            published_ms: start - 3_600_000,
            requests: old.requests,
            errors: old.errors.clone(),
            latency_us: old.latency_us.clone(),
            ..Earlier::default()
        }];
        counts.merge(&old);
    }
    counts
}

fn candidate(world: &World, percent: u64, start: u64) -> WindowCounts {
    let requests = world.requests * percent / 100;
    let mut counts = answered(requests, world.slowness, start);
    if let Some((code, percent)) = world.failing {
        let failed = requests * percent / 100;
        counts = answered(requests - failed, world.slowness, start);
        counts.requests += failed;
        counts.errors = [(code, failed)].into_iter().filter(|(_, n)| *n > 0).collect();
    }
    counts
}
