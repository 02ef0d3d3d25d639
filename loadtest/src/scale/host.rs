//! Many workers in one process, each with connections, consumers and devices of its own, and all that a worker has but the engine.

use std::{
    future::pending,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use embed_engine::{settings::Provider, threads::be_ordinary};
use embed_worker::{
    app::{self, RunError, Shutdown},
    config::Config,
};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet},
};

use super::device::{Simulated, Tokenizers};

/// What is to run in a process. One line of JSON on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    /// Servers, for the workers in turn.
    pub(super) servers: Vec<String>,
    /// The registry's folder.
    pub(super) registry: String,
    /// The number of the first worker.
    pub(super) first: usize,
    /// Workers.
    pub(super) workers: usize,
    /// Devices of each.
    pub(super) devices: usize,
    /// What a text takes on a device, microseconds.
    pub(super) text_us: u64,
}

/// Runs what the first line of standard input orders. Says with one line when all are ready; each line more is answered with the texts that each
/// worker's devices have embedded, and the end of the input ends it.
///
/// # Errors
/// If the order cannot be read, or a worker ends.
pub fn host() -> anyhow::Result<()> {
    let mut order = String::new();
    io::stdin().read_line(&mut order)?;
    let order: Order = serde_json::from_str(&order).context("the order, a line of JSON on standard input")?;
    // Before a thread that loads, and gives way to all others, starts the first of the engines'.
    be_ordinary();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(order));
    // What still runs has nobody who waits for it.
    runtime.shutdown_background();
    served
}

async fn serve(order: Order) -> anyhow::Result<()> {
    let (tokenizers, mut workers, mut ready) = (Tokenizers::default(), JoinSet::new(), Vec::new());
    let mut all = Vec::new();
    for n in order.first..order.first + order.workers {
        let embedded: Arc<[AtomicU64]> = (0..order.devices).map(|_| AtomicU64::new(0)).collect();
        all.push(Arc::clone(&embedded));
        let simulated = Simulated {
            devices: order.devices,
            text: Duration::from_micros(order.text_us),
            embedded,
            tokenizers: Arc::clone(&tokenizers),
        };
        let (say, is_ready) = oneshot::channel();
        ready.push(is_ready);
        let config = config(&order, n);
        workers.spawn(async move {
            let on_ready = |_: &app::Ready| {
                // Nobody listens any more if another has ended.
                let _ = say.send(());
            };
            let shutdown = Shutdown { stop: pending(), hurry: pending() };
            app::run_with(config, Arc::new(simulated), on_ready, shutdown).await
        });
    }
    let ended = |ended: Option<Result<Result<(), RunError>, JoinError>>| match ended {
        Some(Ok(Err(error))) => anyhow::Error::from(error),
        Some(Err(error)) => error.into(),
        _ => anyhow::anyhow!("a worker ended"),
    };
    tokio::select! {
        ready = try_join_all(ready) => if ready.is_err() {
            return Err(ended(workers.join_next().await));
        },
        one = workers.join_next() => return Err(ended(one)),
    }
    let told = tokio::task::spawn_blocking(move || {
        say(&[])?;
        for line in io::stdin().lines() {
            line?;
            let of = |one: &Arc<[AtomicU64]>| one.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            say(&all.iter().map(of).collect::<Vec<Vec<u64>>>())?;
        }
        anyhow::Ok(())
    });
    tokio::select! {
        told = told => told?,
        one = workers.join_next() => Err(ended(one)),
    }
}

fn config(order: &Order, n: usize) -> Config {
    let mut config = Config { registry: Some(order.registry.clone()), ..Config::default() };
    config.nats.server = Some(order.servers[n % order.servers.len()].clone());
    config.worker.id = Some(format!("simulated-{n}"));
    config.http.addr = ([127, 0, 0, 1], 0).into();
    // As many as a worker on one processor, or on devices, takes in.
    config.engine.providers = vec![if order.devices == 1 { Provider::Cpu } else { Provider::Cuda }].into();
    // What sleeps gives way to nobody: the time in which a thread of lower priority waits for a core would be the machine's, and not the device's.
    config.engine.nice = 0;
    // Whether a busy machine refuses calls is another question.
    config.limits.rpc_max_wait = Duration::from_secs(60);
    config
}

fn say(counts: &[Vec<u64>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(counts)?)?;
    out.flush()
}
