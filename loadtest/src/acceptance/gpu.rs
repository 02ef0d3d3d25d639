//! What the workers' metrics say of their devices while something is measured.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use embed_schemas::metrics as names;
use tokio::task::JoinHandle;

/// How often metrics are read.
const EVERY: Duration = Duration::from_millis(500);
/// For one reading.
const PATIENCE: Duration = Duration::from_secs(5);

/// What devices did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuUse {
    /// Their utilisation: the mean over them and over time, percent.
    pub utilisation: f64,
    /// What was in use of their memory, all together, the mean over time, megabytes.
    pub memory_mb: f64,
}

/// Reads the metrics of workers until it is asked what they said.
#[derive(Debug)]
pub struct GpuWatch {
    samples: Arc<Mutex<Vec<GpuUse>>>,
    task: JoinHandle<()>,
}

impl GpuWatch {
    /// Begins. Must be called within a runtime.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn start(urls: &[String]) -> anyhow::Result<Self> {
        // It says no more than that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).build().context("--metrics")?;
        let (samples, urls) = (Arc::new(Mutex::new(Vec::new())), urls.to_vec());
        let seen = samples.clone();
        let task = tokio::spawn(async move {
            while !urls.is_empty() {
                tokio::time::sleep(EVERY).await;
                let mut text = String::new();
                for (worker, url) in urls.iter().enumerate() {
                    let read = async { client.get(url).send().await?.error_for_status()?.text().await };
                    // One that does not answer now may do so the next time; without any, nothing was measured.
                    text += &relabelled(&read.await.unwrap_or_default(), worker);
                }
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend(sample(&text));
            }
        });
        Ok(Self { samples, task })
    }

    /// What there was; `None` if no device told.
    #[must_use]
    pub fn stop(self) -> Option<GpuUse> {
        self.task.abort();
        mean(&self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for GpuWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one page of metrics now.
///
/// # Errors
/// If it cannot be read.
pub async fn probe(url: &str) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
    client.get(url).send().await?.error_for_status()?;
    Ok(())
}

/// Devices are numbered by each worker for itself.
fn relabelled(text: &str, worker: usize) -> String {
    let gauges = [names::GPU_UTILIZATION_RATIO, names::GPU_MEMORY_USED_BYTES];
    let lines = text.lines().filter(|line| gauges.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.replacen('{', &format!("{{worker=\"{worker}\","), 1) + "\n").collect()
}

/// The gauges of all devices at a moment.
fn sample(text: &str) -> Option<GpuUse> {
    let read = |name: &str| -> BTreeMap<String, f64> {
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let labels = series.strip_prefix(name)?;
            Some((labels.to_owned(), value.parse::<f64>().ok().filter(|value| value.is_finite())?))
        };
        text.lines().filter_map(of).collect()
    };
    let (busy, memory) = (read(names::GPU_UTILIZATION_RATIO), read(names::GPU_MEMORY_USED_BYTES));
    let utilisation = busy.values().sum::<f64>() / busy.len() as f64 * 100.0;
    (!busy.is_empty()).then(|| GpuUse { utilisation, memory_mb: memory.values().sum::<f64>() / 1e6 })
}

fn mean(samples: &[GpuUse]) -> Option<GpuUse> {
    let over = |of: fn(&GpuUse) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
    (!samples.is_empty()).then(|| GpuUse { utilisation: over(|s| s.utilisation), memory_mb: over(|s| s.memory_mb) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilisation_is_a_mean_over_devices_and_never_the_most() {
        let text = "# TYPE akidb_gpu_utilization_ratio gauge\nakidb_gpu_utilization_ratio{device=\"0\"} 1\n\
                    akidb_gpu_utilization_ratio{device=\"1\"} 0.5\nakidb_gpu_memory_used_bytes{device=\"0\"} 2e9\n\
                    akidb_gpu_memory_used_bytes{device=\"1\"} 1e9\nakidb_ready 1\n";
        let found = sample(&relabelled(text, 0)).unwrap();
        assert_eq!(found, GpuUse { utilisation: 75.0, memory_mb: 3000.0 });
        // The device 0 of another worker is another device.
        let both = relabelled(text, 0) + &relabelled("akidb_gpu_utilization_ratio{device=\"0\"} 0\n", 1);
        assert_eq!(sample(&both).unwrap().utilisation, 50.0);
        let idle = GpuUse { utilisation: 25.0, memory_mb: 1000.0 };
        assert_eq!(mean(&[found, idle]), Some(GpuUse { utilisation: 50.0, memory_mb: 2000.0 }));
    }

    #[test]
    fn a_device_that_cannot_be_read_is_none() {
        assert_eq!(sample("akidb_ready 1\n"), None);
        assert_eq!(sample("akidb_gpu_utilization_ratio{device=\"0\"} NaN\n"), None);
        assert_eq!(mean(&[]), None);
    }
}
