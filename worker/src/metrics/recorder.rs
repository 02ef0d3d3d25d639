//! The process's metrics: how they are recorded, and their buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use embed_schemas::metrics as names;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use parking_lot::Mutex;

use crate::supervise::Supervisor;

const SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];
const TOKENS: &[f64] =
    &[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
const SHARES: &[f64] = &[0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9];

/// So often, recorded values are counted into their buckets. Until then each is kept on its own, and if nobody fetches
/// the metrics, that is for ever.
const UPKEEP: Duration = Duration::from_secs(5);

/// A gauge that nobody has set for so long is left out: what it measured is gone. All others are set at least every [`SET_GAUGES`].
const FORGET_GAUGES: Duration = Duration::from_secs(120);
/// So often, all gauges are set.
pub const SET_GAUGES: Duration = Duration::from_secs(5);

/// Texts embedded by this process, as in the counter, which cannot be read.
static EMBEDDED: AtomicU64 = AtomicU64::new(0);

/// How many texts this process has embedded.
pub fn texts_embedded() -> u64 {
    EMBEDDED.load(Ordering::Relaxed)
}

/// Makes this process's metrics recordable, and keeps them small. In a runtime; once in a process, later calls get the same.
///
/// # Errors
/// If there is another recorder already.
pub fn install(supervisor: &Supervisor) -> Result<PrometheusHandle, BuildError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock();
    let handle = match &*installed {
        Some(handle) => handle.clone(),
        None => installed.insert(install_once()?).clone(),
    };
    let upkeep = handle.clone();
    let task = async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    };
    supervisor.spawn("the upkeep of metrics", task).detach();
    Ok(handle)
}

fn install_once() -> Result<PrometheusHandle, BuildError> {
    let buckets = [
        ("_seconds", SECONDS),
        (names::BATCH_SIZE, SIZES),
        (names::BATCH_TOKENS, TOKENS),
        (names::PADDING_RATIO, SHARES),
    ];
    // What nobody sets any more is of something that is gone.
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(FORGET_GAUGES));
    for (suffix, bounds) in buckets {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), bounds)?;
    }
    let handle = builder.install_recorder()?;
    names::describe();
    Ok(handle)
}

/// So many texts more have been embedded.
pub(super) fn embedded(texts: usize) {
    EMBEDDED.fetch_add(texts as u64, Ordering::Relaxed);
}
