//! How much room is left on the disk of the model cache.

use std::{path::PathBuf, time::Duration};

use embed_schemas::metrics as names;
use metrics::gauge;

/// So often it is asked. Gauges that are not set for two minutes are forgotten.
const PERIOD: Duration = Duration::from_secs(10);

/// Asks again and again. The folder need not be there yet: what counts is where it would be.
pub async fn watch(folder: PathBuf) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let folder = folder.clone();
        // A disk that is somewhere else may take long to answer.
        match tokio::task::spawn_blocking(move || embed_registry::disk(&folder)).await {
            Ok(Ok(disk)) => {
                gauge!(names::CACHE_DISK_FREE_BYTES).set(disk.free as f64);
                gauge!(names::CACHE_DISK_BYTES).set(disk.size as f64);
            }
            Ok(Err(error)) => tracing::debug!(%error, "how full the disk of the cache is cannot be told"),
            Err(error) => tracing::debug!(%error, "how full the disk of the cache is cannot be told"),
        }
    }
}
